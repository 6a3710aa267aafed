"""Failures and repairs of simulated workers."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from hpcmarl.config.simulation import FailureConfig


class Failures:
    """Queue of failures and repairs in virtual time.

    A failure that is due while its worker is down has no effect.

    Args:
        configs: Entries of `sim.failures`.
        workers: Number of workers.
        generator: For the times of random failures.

    Attributes:
        down: Workers that are down now.
    """

    def __init__(
        self, configs: Sequence[FailureConfig], workers: int, generator: np.random.Generator
    ) -> None:
        self.configs = configs
        self.generator = generator
        self.down: set[int] = set()
        # entries: time, worker, index in `configs`, True: a repair
        self._queue: list[tuple[float, int, int, bool]] = []
        for index, config in enumerate(configs):
            for worker in config.workers if config.workers is not None else range(workers):
                self._plan(index, worker, 0.0)

    @property
    def next_time(self) -> float:
        """Virtual time of the next failure or repair; infinity if none is due."""
        return self._queue[0][0] if self._queue else math.inf

    def pop(self) -> tuple[int, bool, bool]:
        """Remove the next event from the queue.

        Returns:
            worker: The worker concerned.
            up: True: the worker is repaired; False: it fails, possibly while it is already down.
            for_good: True: the failure is permanent.
        """
        time, worker, index, up = heapq.heappop(self._queue)
        config = self.configs[index]
        if up:
            self.down.discard(worker)
            self._plan(index, worker, time)
            return worker, True, False
        if worker in self.down:
            self._plan(index, worker, time)
            return worker, False, False
        self.down.add(worker)
        if config.repair is not None:
            heapq.heappush(self._queue, (time + config.repair, worker, index, True))
        return worker, False, config.repair is None

    def _plan(self, index: int, worker: int, now: float) -> None:
        config = self.configs[index]
        if config.every is not None:
            heapq.heappush(
                self._queue, (now + float(self.generator.exponential(config.every)), worker, index, False)
            )
        elif config.at is not None and now == 0.0:
            heapq.heappush(self._queue, (config.at, worker, index, False))
