"""Rennala (arXiv 2509.24305): the first M trajectories of any groups end the round.

All groups sample the same objective.
"""

from __future__ import annotations

from typing import Any

from hpcmarl.optim.rounds.base import Close, Command, RoundRule


class Rennala(RoundRule):
    """End a round when sum_i M_i >= M. The direction is (sum_i S_i) / (sum_i M_i).

    Unfinished work is abandoned. The published model has trajectories of one length. If lengths vary, the
    first M to finish are more often short ones, and the direction belongs to another objective.

    With `all_begun`, the M-th trajectory only begins the end of the round: every trajectory under way is
    finished and counts. Whether a trajectory begins then depends on earlier ones only. By Wald's identity the
    expected sum is the expected number times the gradient. A round takes longer by the rest of its longest
    trajectory.

    Args:
        groups: Number of groups, n.
        batch: Trajectories of a round, M.
        initial_batch: Trajectories of the first round, M_init; None: M.
        all_begun: Whether trajectories under way when M have arrived still count. Has no effect with one
            group.
    """

    summary = "the first M trajectories of any groups end the round (homogeneous objectives)"

    def __init__(
        self, groups: int, batch: int, initial_batch: int | None = None, *, all_begun: bool = False
    ) -> None:
        super().__init__(groups, batch, initial_batch)
        self.all_begun = all_begun and groups > 1  # a single group has a quota
        # groups without trajectories under way; None: the round still needs more trajectories
        self._closed: set[int] | None = None

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
