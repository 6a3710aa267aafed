"""Synchronous rounds, the baseline of arXiv 2509.24305: all groups wait for the slowest."""

from hpcmarl.optim.rounds.base import RoundRule, share


class Sync(RoundRule):
    """End a round when every group has delivered ceil(M / n) trajectories.

    The direction is the mean over all of them.
    """

    waits = True
    summary = "every group delivers its share, all wait for the slowest"

    def quota(self, target: int | None = None) -> int | None:
        return share(target or self.target, len(self.present))

    def awaited(self) -> tuple[int, ...]:
        return tuple(
            group for group in self.present if self.counts[group] < share(self.target, len(self.present))
        )

    def complete(self) -> bool:
        return min(self.counts[group] for group in self.present) >= share(self.target, len(self.present))
