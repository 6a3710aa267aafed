"""One learner's side of AllReduce: its own gradient sum, the collective sum at a round's end, its replica of the optimizer.

Called by the learner. One AllReduce a round carries (scaled sum, count): what a learner finished after the server had counted
enough still counts, and a learner with nothing joins with zeros. Identical inputs keep all replicas identical.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.transport import Reduction
from hpcmarl.optim import make_optimizer
from hpcmarl.roles.base import Context
from hpcmarl.types import Array, FloatArray


class Replica:
    """`busy` while a round is being closed: the learner then makes no gradient."""

    def __init__(self, context: Context, algorithm: Algorithm, group: int) -> None:
        self.transport = context.transport
        self.rule = context.rule()
        self.group = group
        self.optimizer = make_optimizer(context.config.optimizer, algorithm.initial_parameters(), list(algorithm.segments.values()))
        self.sum: FloatArray = np.zeros(algorithm.size, np.float32)
        self.count = 0
        self._closing: deque[int] = deque()
        self._reduction: Reduction | None = None

    @property
    def busy(self) -> bool:
        return bool(self._closing)

    def start(self, state: dict[str, Any] | None) -> tuple[Array, int]:
        """The first point and its version, after loading a resumed run's optimizer."""
        if state is not None:
            self.optimizer.load_state_dict(state)
        return self.optimizer.point(), self.optimizer.updates

    def add(self, vector: FloatArray, count: int) -> None:
        """Add a gradient to this round's own sum."""
        self.sum += vector
        self.count += count

    def close_round(self, version: int) -> None:
        """The server has counted enough: take part in the sum that leads to `version`."""
        self._closing.append(version)

    def poll(self) -> tuple[Array, int] | None:
        """The new point and version when a round's sum has arrived; starts the sum if it is due. Never blocks.

        Raises FloatingPointError when the summed direction is not finite."""
        if not self._closing:
            return None
        if self._reduction is None:
            contribution = np.append(self.sum * np.float32(self.rule.local_scale(self.count)), np.float32(self.count))
            self._reduction = self.transport.start_sum(contribution)
            self.sum[:] = 0.0
            self.count = 0
        total = self._reduction.result()
        if total is None:
            return None
        self._reduction = None
        direction = total[:-1] * np.float32(self.rule.total_scale(round(float(total[-1]))))
        if not np.all(np.isfinite(direction)):
            raise FloatingPointError(f"the summed direction of round {self.optimizer.updates} is not finite")
        self.optimizer.step(direction)
        return self.optimizer.point(), self._closing.popleft()
