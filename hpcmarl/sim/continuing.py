"""A simulated cluster of off-policy actors, whose unfinished work continues across rounds.

It models runs whose algorithm corrects the staleness of its rollouts. A rollout that is ready while a new
point travels is used at that point (roles/learner/rollout_queue.py), so no work is lost. A group that waits
for its point has rollouts ready when the point comes.
"""

from __future__ import annotations

import heapq

from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.sim.cluster import Cluster


class Continuing(Cluster):
    """Cluster whose workers keep their unfinished work when a round ends.

    Failures are not modelled: the measured runs that it predicts from contain none.
    """

    def __init__(self, config: SimulationConfig, seed: int) -> None:
        # worker -> time at which the last trajectory that it delivered was ready
        self._produced: dict[int, float] = {}
        super().__init__(config, seed)

    def _begin_all(self, begin: float) -> None:
        if self.engine.rule.waits or not self._queue:
            self._order = []
            super()._begin_all(begin)
            return
        # the worker that ended the round began its next trajectory when this one was ready
        time, worker = self._queue[0]
        ready = time - self._ahead.pop(worker, 0.0)
        heapq.heapreplace(self._queue, (ready + self.compute.draw(worker, ready), worker))
        while self._queue[0][0] < begin:
            time, worker = self._queue[0]
            self._ahead[worker] = self._ahead.get(worker, 0.0) + begin - time
            heapq.heapreplace(self._queue, (begin, worker))

    def _delivery(self, worker: int, begin: float) -> float:
        """Return the time from `begin` until a share arrives.

        Production has continued since the last share, but at most one share is stored.
        """
        count = self._loads[worker] = self._missing(worker)
        work = sum(self.compute.draw(worker, begin) for _ in range(count))
        ready = max(self._produced.get(worker, begin) + work, begin)
        self._produced[worker] = ready
        return ready - begin + self.exchange.draw(worker, begin)
