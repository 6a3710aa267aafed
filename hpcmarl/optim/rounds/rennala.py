"""Rennala (arXiv 2509.24305): groups sample the same objective; the first M trajectories end the round,
whoever made them.
"""

from __future__ import annotations

from typing import Any

from hpcmarl.optim.rounds.base import Close, Command, RoundRule


class Rennala(RoundRule):
    """End a round when sum_i M_i >= M; the direction is (sum_i S_i) / (sum_i M_i). Unfinished work is
    abandoned.

    The published model has trajectories of one length. Where lengths vary, the first M to finish are short
    ones more often than not, and the direction is that of another objective. With `all_begun` the M-th
    trajectory begins the end of the round only: every trajectory that had begun is finished and counts.
    Whether to begin one then depends on earlier ones alone, so that by Wald's identity the expected sum is
    the expected number times the gradient. A round takes longer by the rest of its longest trajectory.

    Args:
        all_begun: Whether trajectories under way when M are there still count.
    """

    summary = "the first M trajectories of any groups end the round (homogeneous objectives)"

    def __init__(
        self, groups: int, batch: int, initial_batch: int | None = None, *, all_begun: bool = False
    ) -> None:
        super().__init__(groups, batch, initial_batch)
        self.all_begun = all_begun and groups > 1  # one group has a quota
        self._closed: set[int] | None = (
            None  # groups with nothing under way; None: the round still needs more
        )

    @property
    def in_order(self) -> bool:
        return len(self.present) == 1

    def complete(self) -> bool:
        return sum(self.counts) >= self.target

    def awaited(self) -> tuple[int, ...]:
        return (
            ()
            if self._closed is None
            else tuple(group for group in self.present if group not in self._closed)
        )

    def on_closed(self, group: int, version: int) -> list[Command]:
        if self._closed is None or version != self.round:
            return []
        self._closed.add(group)
        return self._close()

    def _close(self) -> list[Command]:
        if not self.all_begun:
            return super()._close()
        if self._closed is None:
            if not self.complete():
                return []
            self._closed = set()
            return [Close(self.round, self.present)]
        return super()._close() if self._closed.issuperset(self.present) else []

    def _begin(self) -> None:
        super()._begin()
        self._closed = None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._closed = None
