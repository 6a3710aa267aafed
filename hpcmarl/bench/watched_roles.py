"""Roles that count what they do, or do it more slowly, for benchmarks of actors and workers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.transport import Message
from hpcmarl.roles.base import Context, Role
from hpcmarl.roles.learner.learner import Learner
from hpcmarl.roles.worker import Worker
from hpcmarl.rollouts.exchange import HalfMemory


class CountingLearner(Learner):
    """Counts the environment steps that arrive.

    Attributes:
        arrivals: Time and environment steps so far, at each arrival of rollouts.
        slowness: How many times as long all work takes.
    """

    slowness = 1.0

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        self.arrivals: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.ROLLOUT:
            steps = self.arrivals[-1][1] + message.header.env_steps
            self.arrivals.append((time.monotonic(), steps))
        self._receive(message)

    def _receive(self, message: Message) -> None:
        super().on_message(message)

    def work(self) -> bool:
        began = time.perf_counter()
        worked = super().work()
        if worked and self.slowness > 1.0:
            time.sleep((self.slowness - 1.0) * (time.perf_counter() - began))
        return worked

    def rate(self, warm_up: float) -> float:
        """Return the environment steps per second after some seconds of warm-up; 0: too few arrivals."""
        start = self.arrivals[0][0] + warm_up
        counted = [arrival for arrival in self.arrivals if arrival[0] >= start]
        if len(counted) < 2:
            return 0.0
        return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])


class SlowLearner(CountingLearner):
    """Takes ten times as long for all of its work."""

    slowness = 10.0


class IdleLearner(CountingLearner):
    """Drops all rollouts, so that only actors and workers are measured."""

    def _receive(self, message: Message) -> None:
        if message.kind is Kind.ROLLOUT:
            message.release()
        else:
            super()._receive(message)


class TimedWorker(Worker):
    """Measures what the exchange with the actor costs.

    Attributes:
        steps: Commands that were carried out.
        exchange_seconds: Time spent on them outside the environments.
    """

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        self.steps, self.exchange_seconds = 0, 0.0

    def _serve(self, half: HalfMemory) -> None:
        before = float(half.seconds[0])
        began = time.perf_counter()
        super()._serve(half)
        self.exchange_seconds += time.perf_counter() - began - (float(half.seconds[0]) - before)
        self.steps += 1
