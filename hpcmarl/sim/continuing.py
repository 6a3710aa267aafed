"""The same cluster where work outlives a point: off-policy actors go on through rounds, and what they made
counts for the next one.

Called by plan.py for runs whose algorithm corrects the age of its rollouts. What is ready while a new point
travels is learned from again at that point (roles/learner/rollout_queue.py), so that nothing is lost; a group
that waits for its point has rollouts ready when it comes.
"""

from __future__ import annotations

import heapq

from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.sim.cluster import Cluster


class Continuing(Cluster):
    """A Cluster whose workers never begin anew. Without failures: a run that was measured has none to
    tell."""

    def __init__(self, config: SimulationConfig, seed: int) -> None:
        self._produced: dict[
            int, float
        ] = {}  # worker -> when the last trajectory that it delivered was ready
        super().__init__(config, seed)

    def _begin_all(self, begin: float) -> None:
        if self.engine.rule.waits or not self._queue:
            self._order = []
            super()._begin_all(begin)
            return
        time, worker = self._queue[0]  # whoever ended the round goes on from when its work was ready
        ready = time - self._ahead.pop(worker, 0.0)
        heapq.heapreplace(self._queue, (ready + self.compute.draw(worker, ready), worker))
        while self._queue[0][0] < begin:
            time, worker = self._queue[0]
            self._ahead[worker] = self._ahead.get(worker, 0.0) + begin - time
            heapq.heapreplace(self._queue, (begin, worker))

    def _delivery(self, worker: int, begin: float) -> float:
        """How long after `begin` a share arrives: production has gone on since the last one, but stores no
        more than one share."""
        count = self._loads[worker] = self._missing(worker)
        work = sum(self.compute.draw(worker, begin) for _ in range(count))
        ready = max(self._produced.get(worker, begin) + work, begin)
        self._produced[worker] = ready
        return ready - begin + self.exchange.draw(worker, begin)
