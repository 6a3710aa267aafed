"""One learner's side of AllReduce: its own gradient sum, the collective sum at a round's end, its replica of
the optimizer.

Called by the learner. One AllReduce a round carries (scaled sum, count): what a learner finished after the
server had counted enough still counts, and a learner with nothing joins with zeros. Identical inputs keep all
replicas identical.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.transport import Reduction, Regrouping
from hpcmarl.optim.sparse import needs_all
from hpcmarl.packing import pack, unpack
from hpcmarl.roles.base import Context
from hpcmarl.types import Array, BoolArray, FloatArray


class OptimizerReplica:
    """`busy` while a round is being closed, or learners are left out: the learner then makes no gradient."""

    def __init__(self, context: Context, algorithm: Algorithm, group: int) -> None:
        self.transport = context.transport
        self.rule = context.rule()
        self.group = group
        self.optimizer = context.optimizer(algorithm)
        self.sum: Array = np.zeros_like(self.optimizer.parameters)
        self.count = 0
        self._closing: deque[int] = deque()
        self._contribution: Array | None = (
            None  # of the round that is being closed; kept until its sum has arrived
        )
        self._reduction: Reduction | None = None
        self._regrouping: Regrouping | None = None
        self._lost: deque[int] = deque()  # learners to be left out

    @property
    def busy(self) -> bool:
        return bool(self._closing) or self._regrouping is not None

    @property
    def mask(self) -> BoolArray | None:
        """Which parameters [P] are there; None: all."""
        return None if self.optimizer.topology is None else self.optimizer.topology.mask

    @property
    def summed(self) -> BoolArray | None:
        """What of this round's sums is needed; None: all. The same on every learner, as all masks are."""
        topology = self.optimizer.topology
        return (
            None
            if topology is None or needs_all(topology.plan, self.optimizer.updates + 1)
            else topology.mask
        )

    def start(self, state: dict[str, Any] | None) -> tuple[Array, int]:
        """The first point and its version, after loading a resumed run's optimizer."""
        if state is not None:
            self.optimizer.load_state_dict(state)
        return self.optimizer.query_point(), self.optimizer.updates

    def add(self, vector: FloatArray, count: int) -> None:
        """Add a gradient to this round's own sum."""
        self.sum += vector
        self.count += count

    def close_round(self, version: int) -> None:
        """The server has counted enough: take part in the sum that leads to `version`."""
        self._closing.append(version)

    def poll(self) -> tuple[Array, int] | None:
        """The new point and version when a round's sum has arrived; starts the sum if it is due. Never
        blocks.

        Raises FloatingPointError when the summed direction is not finite.
        """
        if self._regrouping is not None:
            return self._regrouped()
        if not self._closing:
            return None
        if self._reduction is None:
            if self._contribution is None:
                number = self.sum.dtype.type
                own = self.sum if self.summed is None else np.compress(self.summed, self.sum)
                self._contribution = np.append(
                    own * number(self.rule.local_scale(self.count)), number(self.count)
                )
                self.sum[:] = 0.0
                self.count = 0
            self._reduction = self.transport.start_sum(self._contribution)
        return self._arrived()

    def _arrived(self) -> tuple[Array, int] | None:
        """Step when the sum under way has arrived."""
        total = None if self._reduction is None else self._reduction.result()
        if total is None:
            return None
        self._reduction = self._contribution = None
        count = round(float(total[-1]))  # 0: all that was counted was a lost learner's
        direction = total[:-1] * total.dtype.type(self.rule.total_scale(count) if count else 0.0)
        if self.summed is not None:
            needed, direction = direction, np.zeros_like(self.sum)
            np.place(direction, self.summed, needed)
        if not np.all(np.isfinite(direction)):
            raise FloatingPointError(f"the summed direction of round {self.optimizer.updates} is not finite")
        self.optimizer.step(direction)
        return self.optimizer.query_point(), self._closing.popleft()

    def go_on_without(self, lost: int) -> tuple[Array, int] | None:
        """Begin to leave a dead learner out of the sums; the round under way is summed again among the
        survivors (`poll`).

        Returns:
            The new point and version where the sum that was under way has arrived all the same.
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
        """Leave out the next lost learner that is still a member, if there is one."""
        self._regrouping = None
        while self._lost and self._regrouping is None:
            lost = self._lost.popleft()
            if lost in self.transport.reduction_members:
                self._regrouping = self.transport.regroup(
                    lost, self.optimizer.updates, lambda: bytes(pack(self.optimizer.state_dict()))
                )

    def _regrouped(self) -> tuple[Array, int] | None:
        """Go on from the last round that was completed anywhere when the survivors have found together; the
        point where that is news.
        """
        assert self._regrouping is not None
        if not self._regrouping.done():
            return None
        self._reduction = None
        newer = self._regrouping.newer
        self._regroup()
        if newer is None:
            return None
        self.optimizer.load_state_dict(unpack(newer))  # this learner's contribution is in it
        self._contribution = None
        return self.optimizer.query_point(), self._closing.popleft()
