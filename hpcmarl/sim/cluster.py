"""A cluster in virtual time: a queue of finished trajectories that drives the same Engine as the server.

    a worker finishes ──► Engine.on_gradient ──► no command:      the worker continues or waits
                                            └──► round complete:  the workers it names begin at the new point

Time charged for a delivery, where h_i is the time of a trajectory of worker i, whatever its length, and
kappa_i the time of its round trip:

    sync, afedpg        A delivery of k trajectories arrives kappa_i + k h_i after the server published the
                        worker's point.
    rennala, malenia    Counts travel in no time. When they suffice, max kappa_i passes for the sum and the
                        new point; then all workers begin.

With `rounds.late: cancel`, unfinished work ends with the round. With `ignore`, a worker first finishes its
trajectory, and the rule drops it. With `rounds.admission: all_begun` (rennala), the workers finish the
trajectories that they have begun when the counts suffice. These trajectories count, and the sum is made
afterwards.
"""

from __future__ import annotations

import heapq
import math
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import Accept, Close, Command, Engine, Publish, Step, make_rule
from hpcmarl.sim.failures import Failures
from hpcmarl.sim.local import sum_of_local_steps
from hpcmarl.sim.objectives import make_objective
from hpcmarl.sim.times import Times
from hpcmarl.sim.trace import Trace
from hpcmarl.types import Array, Gradient

if TYPE_CHECKING:
    from hpcmarl.sim.charging import TimesByStep
    from hpcmarl.sim.sampled import Sampled, Unplayed

COLUMNS = ("time", "round", "used", "wasted", "round_time", "objective", "gradient_norm", "parameter_mean")
SENTINEL = -1  # queue entry that represents all workers that are not in the queue yet


class Cluster:
    """One simulated run.

    Args:
        config: Simulation with one method and one setting.
        seed: Seed of all random numbers.

    Attributes:
        now: Virtual time of the newest event.
        published: Virtual time at which the newest round was over and its point published.
        ended: Why the simulation is over; None: it is not.
        used: Trajectories used in completed rounds.
        abandoned: Trajectories that were cancelled.
        events: Gradients that arrived, failures and repairs.
    """

    def __init__(self, config: SimulationConfig, seed: int) -> None:
        self.config = config
        sim, rounds = config.sim, config.rounds
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
        self.workers, self.noise = sim.workers, streams[4]
        self.objective = make_objective(config, streams[3])
        dimension = (
            self.objective.size if self.objective is not None else getattr(config.objective, "dimension", 1)
        )
        self.compute: Times | TimesByStep = Times(
            config.times("compute_times"), sim.workers, dimension, streams[0]
        )
        self.exchange = Times(config.times("communication_times"), sim.workers, dimension, streams[1])
        self.failures = Failures(sim.failures, sim.workers, streams[2])
        rule = make_rule(
            rounds.rule, sim.workers, config.batch, rounds.initial_batch, all_begun=rounds.counts_all_begun
        )
        start = np.zeros(1) if self.objective is None else self.objective.initial()
        parts = () if self.objective is None else self.objective.parts
        self.engine = Engine(rule, make_optimizer(config.optimizer, start, parts))
        self.now = self.published = 0.0
        self.events = self.abandoned = self.used = 0
        self.round_time_sum = self.round_time_min = self.round_time_max = 0.0
        self.ended: str | None = None
        self.trace = Trace(COLUMNS, sim.points)
        # entries: (arrival time of the worker's gradient, worker)
        self._queue: list[tuple[float, int]] = []
        self._all_begun = rounds.counts_all_begun and sim.workers > 1
        # whether the round has enough trajectories and workers finish those under way
        self._closing = False
        self._cancel = rounds.late == "cancel" or rule.waits or self._all_begun
        # whether workers may stand at points of different versions
        self._separate_versions = rule.any_age or not self._cancel
        self._versions = [0] * sim.workers if self._separate_versions else []
        self._points: list[Array] = [start] * (sim.workers if rule.any_age else 0)
        self._point = start
        # worker of each trajectory that the step of the round will use
        self._arrived: list[int] = []
        # worker -> time by which its gradient is ready before it arrives; its next trajectory began then
        self._ahead: dict[int, float] = {}
        # trajectories of each worker's delivery under way, for rules whose workers wait for their point
        self._loads = [0] * sim.workers
        self._sampled = self._charge_by_step() if sim.charge == "step" else None
        self._unplayed = (
            self._play_together()
            if self._sampled is None and rule.any_age and config.objective.name == "policy"
            else None
        )
        # With constant times the order of arrivals in a round is known beforehand. Only the first workers
        # are put into the queue; the others follow when they are due.
        lazy = self.compute.fixed if not rule.waits and self._cancel and not sim.failures else None
        self._order = sorted((time, worker) for worker, time in enumerate(lazy)) if lazy is not None else []
        self._waiting = 0  # number of workers of `_order` that are in the queue
        self._record(0, 0.0)
        self._begin_all(0.0)

    def _charge_by_step(self) -> Sampled:
        """Charge trajectories by their steps from now on; return the objective that plays them."""
        from hpcmarl.sim.charging import TimesByStep
        from hpcmarl.sim.sampled import Sampled

        assert isinstance(self.compute, Times)
        assert isinstance(self.objective, Sampled)
        points = self._points if self.engine.rule.any_age else None
        self.compute = TimesByStep(
            self.compute, self.objective, lambda worker: points[worker] if points else self._point, self.noise
        )
        return self.objective

    def _play_together(self) -> Unplayed:
        """Return a collection of deliveries, so that episodes at different points are played side by side."""
        from hpcmarl.sim.sampled import Sampled, Unplayed

        assert isinstance(self.objective, Sampled)
        return Unplayed(self.objective)

    # ---- events

    def run(self, events: int) -> None:
        """Process at most this many events, fewer if the simulation ends; `ended` then holds the reason."""
        limit = self.config.sim.stop.time or math.inf
        queue, engine, rule = self._queue, self.engine, self.engine.rule
        waits, loads, fixed, separate, ahead = (
            rule.waits,
            self._loads,
            self.compute.fixed,
            self._separate_versions,
            self._ahead,
        )
        counts_only, at_once = self.objective is None, self.objective is not None and rule.any_age
        gradient = Gradient(0, 0, 1, None)
        alarm = min(limit, self.failures.next_time)
        for _ in range(events):
            if self.ended is not None:
                return
            if not queue or queue[0][0] > alarm:
                self._on_alarm(limit)
                queue, alarm = self._queue, min(limit, self.failures.next_time)
                continue
            now, worker = queue[0]
            if worker < 0:
                self._wake()
                continue
            self.now = now
            self.events += 1
            gradient.group = worker
            gradient.version = self._versions[worker] if separate else rule.round
            if waits:
                gradient.count = loads[worker]
            if at_once:
                gradient.vector = self._vector(worker, gradient.count)
            commands = engine.on_gradient(gradient)
            if not (counts_only or at_once) and type(commands[0]) is Accept:
                self._arrived += [worker] * gradient.count
            if self._all_begun and (self._closing or type(commands[-1]) is Close):
                heapq.heappop(queue)
                self._close(worker)
                queue = self._queue
            elif type(commands[-1]) is Publish:
                self._on_round(commands, worker)
                queue = self._queue
            elif waits:
                heapq.heappop(queue)
                if rule.lost:
                    self._restart_waiting_workers()
            else:
                begin = now
                if separate:
                    # a late worker continues at the newest point, as soon as that is published
                    self._versions[worker] = rule.round
                    begin = max(now, self.published)
                if ahead:
                    begin -= ahead.pop(worker, 0.0)
                heapq.heapreplace(
                    queue,
                    (
                        begin + (fixed[worker] if fixed is not None else self.compute.draw(worker, begin)),
                        worker,
                    ),
                )

    def _close(self, worker: int) -> None:
        """Report to the rule that a worker has no trajectory under way while the round closes.

        The first call of a round also reports the workers that are down.
        """
        done = [worker] if self._closing else [worker, *self.failures.down]
        self._closing = True
        for each in done:
            commands = self.engine.on_closed(each, self.engine.version)
            if commands:
                self._on_round(commands, None)
                return

    def _vector(self, worker: int, count: int) -> Array:
        """Return the sum of `count` gradients at the worker's point, [P]."""
        assert self.objective is not None
        if self._unplayed is not None and worker in self._unplayed:
            self._unplayed.play(self._loads, self._points, self.noise)
        return self.objective.weighted([worker] * count, np.ones(count), self._points[worker], self.noise)

    def _step(self, step: Command) -> None:
        """Make the step of a round from all its trajectories at once, as replicas do under AllReduce.

        The engine has only counted the deliveries. The gradients of all of them are computed together, each
        with the scale of its worker. Computed one by one, a gradient would cost more than all other work of
        its arrival.
        """
        assert self.objective is not None
        assert isinstance(step, Step)
        workers, self._arrived = self._arrived, []
        scales = np.ones(self.workers) if self.engine.rule.pooled else np.array(step.scales)
        local = self.config.sim.local_step_size
        if local is not None:
            direction = sum_of_local_steps(self.objective, workers, self._point, local, self.noise)
        else:
            direction = self.objective.weighted(workers, scales[workers], self._point, self.noise)
        if self._sampled is not None:
            self._sampled.forget()
        self.engine.step(step.total_scale * direction)
        self._point = self.engine.optimizer.query_point()

    def _on_round(self, commands: list[Command], worker: int | None) -> None:
        """Let time pass for the new point of a complete round, then start the workers that the rule names.

        Args:
            commands: Commands of the rule; the last one is Publish.
            worker: Worker whose delivery ended the round; None: a loss or the closing of the round ended it.
        """
        rule, before = self.engine.rule, self.published
        publish = commands[-1]
        assert isinstance(publish, Publish)
        if self.objective is not None and not rule.any_age:
            self._step(commands[-2])
        self.published = self.now if rule.waits else self.now + max(self.exchange.draw_all(self.now))
        self.used, duration = self.engine.used, self.published - before
        self.round_time_sum += duration
        if duration > self.round_time_max:
            self.round_time_max = duration
        if duration < self.round_time_min or publish.version == 1:
            self.round_time_min = duration
        self._closing = False
        if self.trace.due(publish.version):
            self._record(publish.version, duration)
        stop = self.config.sim.stop
        if (stop.rounds and publish.version >= stop.rounds) or (
            stop.gradients and self.engine.used >= stop.gradients
        ):
            self.ended = "finished"
        elif rule.any_age and worker is not None:
            self._versions[worker] = publish.version
            if self.objective is not None:
                self._points[worker] = self.engine.optimizer.query_point()
            heapq.heapreplace(self._queue, (self.now + self._delivery(worker, self.now), worker))
        else:
            if self._cancel:
                self.abandoned += (
                    0 if rule.waits or self._all_begun else len(rule.present) - len(self.failures.down) - 1
                )
                self._begin_all(self.published)
            elif worker is not None:
                heapq.heappop(self._queue)
                self._begin(worker, self.published)

    # ---- starting work

    def _missing(self, worker: int) -> int:
        """Return the trajectories that a worker still owes, for rules whose workers wait for their point.

        This is the rest of its share of the round. With afedpg it is the batch of a whole gradient.
        """
        rule = self.engine.rule
        if rule.any_age:
            return rule.batch if self._versions[worker] else rule.initial_batch
        return (rule.quota() or 1) - rule.counts[worker]

    def _delivery(self, worker: int, begin: float) -> float:
        """Return the time from `begin` until all trajectories that the worker owes arrive."""
        count = self._loads[worker] = self._missing(worker)
        if self._unplayed is not None:
            self._unplayed.add(worker)
        fixed, exchange = self.compute.fixed, self.exchange.fixed
        work = (
            count * fixed[worker]
            if fixed is not None
            else sum(self.compute.draw(worker, begin) for _ in range(count))
        )
        return work + (exchange[worker] if exchange is not None else self.exchange.draw(worker, begin))

    def _restart_waiting_workers(self) -> None:
        """Start waiting workers that owe trajectories again because a loss has increased the shares."""
        busy = {worker for _, worker in self._queue} | self.failures.down
        for worker in self.engine.rule.present:
            if worker not in busy and self._missing(worker) > 0:
                self._begin(worker, self.now)

    def _begin(self, worker: int, begin: float) -> None:
        """Start one worker at time `begin`.

        Under rules that give each worker its own point, the worker starts at that point; otherwise at the
        newest one.
        """
        if self._separate_versions and not self.engine.rule.any_age:
            self._versions[worker] = self.engine.version
        time = self._delivery(worker, begin) if self.engine.rule.waits else self.compute.draw(worker, begin)
        heapq.heappush(self._queue, (begin + time, worker))

    def _begin_all(self, begin: float) -> None:
        """Start all present workers at the newest point at time `begin`; their unfinished work is dropped."""
        if self._order:
            self._waiting = min(len(self._order), max(16, 2 * self.engine.rule.batch))
            self._queue = [(begin + time, worker) for time, worker in islice(self._order, self._waiting)]
            if self._waiting < len(self._order):
                self._queue.append((begin + self._order[self._waiting][0], SENTINEL))
            return
        rule, down = self.engine.rule, self.failures.down
        if rule.waits:
            self._queue = [
                (begin + self._delivery(worker, begin), worker)
                for worker in rule.present
                if worker not in down
            ]
        else:
            times = self.compute.draw_all(begin)
            self._queue = [(begin + times[worker], worker) for worker in rule.present if worker not in down]
        if self._separate_versions:
            self._versions = [self.engine.version] * self.workers
        heapq.heapify(self._queue)

    def _wake(self) -> None:
        """Put the next workers of `_order` into the queue, and the sentinel behind them.

        This happens when the sentinel is due. The number of workers in the queue doubles.
        """
        begin = heapq.heappop(self._queue)[0] - self._order[self._waiting][0]
        for time, worker in self._order[self._waiting : 2 * self._waiting]:
            heapq.heappush(self._queue, (begin + time, worker))
        self._waiting = min(len(self._order), 2 * self._waiting)
        if self._waiting < len(self._order):
            heapq.heappush(self._queue, (begin + self._order[self._waiting][0], SENTINEL))

    # ---- failures and the end

    def _on_alarm(self, limit: float) -> None:
        """Process the next failure or repair, or end the simulation: no delivery arrives before it.

        Args:
            limit: Virtual time at which the simulation ends; infinity: no limit.
        """
        time = self.failures.next_time
        if time > limit or not math.isfinite(time):
            self.ended = "finished" if math.isfinite(limit) else "nobody works any more"
            return
        self.now = time
        self.events += 1
        worker, up, for_good = self.failures.pop()
        rule = self.engine.rule
        if worker in rule.lost:
            return
        if up:
            # a worker that has delivered its share keeps waiting
            if not self._closing and (not rule.waits or self._missing(worker) > 0):
                self._begin(worker, time if rule.waits else max(time, self.published))
            return
        left = [entry for entry in self._queue if entry[1] != worker]
        if self._unplayed is not None and len(left) < len(self._queue):
            self._unplayed.abandon(worker)
        self._queue = left
        heapq.heapify(self._queue)
        if for_good:
            self._on_lost(worker)
        elif self._closing:
            self._close(worker)

    def _on_lost(self, worker: int) -> None:
        """Continue without a lost worker or end, as `rounds.on_loss` prescribes for real ranks."""
        rule, on_loss = self.engine.rule, self.config.rounds.on_loss
        self.failures.down.discard(worker)
        if len(rule.present) == 1:
            self.ended = "the last worker was lost"
        elif on_loss == "stop" or (on_loss == "auto" and not rule.pooled):
            self.ended = f"worker {worker} was lost (rounds.on_loss: {on_loss})"
        else:
            commands: list[Command] = self.engine.on_lost(worker)
            if commands and isinstance(commands[-1], Publish):
                self._on_round(commands, None)
            elif rule.waits and not rule.any_age:
                self._restart_waiting_workers()

    # ---- results

    def close(self) -> None:
        """Close the resources of the objective, such as environments."""
        if self.objective is not None:
            self.objective.close()

    def _record(self, number: int, duration: float) -> None:
        """Add one point to the trace.

        Args:
            number: Number of the round.
            duration: Virtual time that the round took.
        """
        parameters, value, slope = self.engine.optimizer.parameters, math.nan, math.nan
        if self.objective is not None:
            value, slope = (
                self.objective.value(parameters),
                float(np.linalg.norm(self.objective.slope(parameters))),
            )
        counts = (float(self.engine.used), float(self.engine.wasted))
        self.trace.add(
            number, (self.published, float(number), *counts, duration, value, slope, float(parameters.mean()))
        )

    @property
    def progress(self) -> float:
        """Fraction of the nearest limit that is reached, from 0 to 1."""
        stop = self.config.sim.stop
        done = ((self.now, stop.time), (self.engine.used, stop.gradients), (self.engine.version, stop.rounds))
        return (
            1.0 if self.ended else min(1.0, max((have / limit for have, limit in done if limit), default=0.0))
        )
