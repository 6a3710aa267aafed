"""Synchronous rounds with a backup group (arXiv 1604.00981): the slowest group is not waited for."""

from __future__ import annotations

from hpcmarl.optim.rounds.base import RoundRule, share


class Backup(RoundRule):
    """End a round when all groups but one have delivered their share; the direction is the mean of these.

    With n groups a share is ceil(M / (n - 1)) trajectories. The last group's gradient comes too late and is
    dropped. If the same group is always the last one, its environment is never learned from.
    """

    waits = True
    summary = "every group delivers its share, the slowest one is not waited for"

    def quota(self, target: int | None = None) -> int:
        return share(target or self.target, self._needed)

    def complete(self) -> bool:
        delivered = sum(self.counts[group] >= self.quota() for group in self.present)
        return delivered >= self._needed

    @property
    def _needed(self) -> int:
        """Groups that end a round."""
        return max(1, len(self.present) - 1)
