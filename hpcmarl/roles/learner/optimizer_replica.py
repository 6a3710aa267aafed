"""A learner's part in AllReduce: its gradient sum, the collective sum of a round, its optimizer replica.

One AllReduce per round carries (scaled sum, count). Gradients that a learner finished after the server had
counted enough are still included. A learner without gradients contributes zeros. Identical inputs keep all
replicas identical.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.transport import Reduction, Regrouping
from hpcmarl.optim.sparse import needs_all
from hpcmarl.packing import pack, unpack
from hpcmarl.roles.base import Context
from hpcmarl.roles.learner.gradient_sum import make_sum
from hpcmarl.tracing.spans import Span
from hpcmarl.types import Array, BoolArray


class OptimizerReplica:
    """Sum of a learner's gradients and a replica of the optimizer.

    Attributes:
        sum: The learner's gradient sum of the present round.
        count: Trajectories in that sum.
    """

    def __init__(self, context: Context, algorithm: Algorithm, group: int) -> None:
        self.transport, self.trace = context.transport, context.trace
        self.rule = context.rule()
        self.group = group
        self.optimizer = context.optimizer(algorithm)
        device = self.transport.sum_device
        # Gradients stay on the device only if they are computed on the one that sums them.
        algorithm.keeps_gradient = (
            device is not None and device == algorithm.device and self.optimizer.topology is None
        )
        parameters = self.optimizer.parameters
        self.sum = make_sum(parameters.size, parameters.dtype, device if algorithm.keeps_gradient else None)
        self.count = 0
        self._closing: deque[int] = deque()
        # Of the closing round; kept until the sum has arrived, to repeat it after a loss.
        self._contribution: Any = None
        self._reduction: Reduction | None = None
        self._regrouping: Regrouping | None = None
        self._lost: deque[int] = deque()  # ranks of dead learners that still have to be excluded

    @property
    def busy(self) -> bool:
        """Whether a round is closing or a dead learner is being excluded; no gradient is made then."""
        return bool(self._closing) or self._regrouping is not None

    @property
    def mask(self) -> BoolArray | None:
        """Active parameters, [P]; None: all."""
        return None if self.optimizer.topology is None else self.optimizer.topology.mask

    @property
    def summed(self) -> BoolArray | None:
        """Entries of the gradient that this round sums, [P]; None: all. Equal on every learner."""
        topology = self.optimizer.topology
        return (
            None
            if topology is None or needs_all(topology.plan, self.optimizer.updates + 1)
            else topology.mask
        )

    def start(self, state: dict[str, Any] | None) -> tuple[Array, int]:
        """Return the first query point [P] and its version.

        Args:
            state: Optimizer state of a resumed run; None: a new run.
        """
        if state is not None:
            self.optimizer.load_state_dict(state)
        return self.optimizer.query_point(), self.optimizer.updates

    def add(self, vector: Any, count: int) -> None:
        """Add a gradient to the learner's sum of this round.

        Args:
            vector: Ascent direction, summed over trajectories, [P]: an array, or a tensor of the device.
            count: Number of trajectories.
        """
        self.sum.add(vector)
        self.count += count

    def close_round(self, version: int) -> None:
        """Schedule the collective sum that leads to `version`: the server has counted enough trajectories."""
        self._closing.append(version)

    def poll(self) -> tuple[Array, int] | None:
        """Start or continue the collective sum of a closing round. Never blocks.

        Returns:
            The new query point [P] and its version once the sum has arrived, else None.

        Raises:
            FloatingPointError: The summed direction is not finite.
        """
        if self._regrouping is not None:
            return self._regrouped()
        if not self._closing:
            return None
        if self._reduction is None:
            if self._contribution is None:
                scale = self.rule.local_scale(self.count)
                self._contribution = self.sum.take(scale, self.count, self.summed)
                self.count = 0
            self._reduction = self.transport.start_sum(self._contribution)
        return self._arrived()

    def _arrived(self) -> tuple[Array, int] | None:
        """Step the optimizer if the collective sum has arrived.

        Returns:
            The new query point [P] and its version, or None.
        """
        total = None if self._reduction is None else self._reduction.result()
        if total is None:
            return None
        self._reduction = self._contribution = None
        count = round(float(total[-1]))  # 0 if all counted trajectories were those of a lost learner
        direction = total[:-1] * total.dtype.type(self.rule.total_scale(count) if count else 0.0)
        if self.summed is not None:
            needed, direction = direction, np.zeros_like(self.optimizer.parameters)
            np.place(direction, self.summed, needed)
        if not np.all(np.isfinite(direction)):
            raise FloatingPointError(f"the summed direction of round {self.optimizer.updates} is not finite")
        began = time.perf_counter()
        self.optimizer.step(direction)
        if self.trace is not None:
            self.trace.add(Span.OPTIMIZER, began, time.perf_counter(), self.optimizer.updates)
        return self.optimizer.query_point(), self._closing.popleft()

    def go_on_without(self, lost: int) -> tuple[Array, int] | None:
        """Begin to exclude a dead learner from the sums. `poll` repeats the pending sum among the survivors.

        Args:
            lost: Rank of the dead learner.

        Returns:
            The new query point and version if the pending sum has arrived nevertheless, else None.
        """
        if lost not in self.transport.reduction_members:
            return None
        self._lost.append(lost)
        if self._regrouping is not None:
            return None
        news = self._arrived()
        self._regroup()
        return news

    def _regroup(self) -> None:
        """Begin to exclude the next lost learner that is still a member, if any."""
        self._regrouping = None
        while self._lost and self._regrouping is None:
            lost = self._lost.popleft()
            if lost in self.transport.reduction_members:
                self._regrouping = self.transport.regroup(
                    lost, self.optimizer.updates, lambda: bytes(pack(self.optimizer.state_dict()))
                )

    def _regrouped(self) -> tuple[Array, int] | None:
        """Finish an exclusion: continue from the last round that any survivor has completed.

        Returns:
            The query point and version if that round was not completed here, else None.
        """
        assert self._regrouping is not None
        if not self._regrouping.done():
            return None
        self._reduction = None
        newer = self._regrouping.newer
        self._regroup()
        if newer is None:
            return None
        self.optimizer.load_state_dict(unpack(newer))  # includes this learner's contribution
        self._contribution = None
        return self.optimizer.query_point(), self._closing.popleft()
