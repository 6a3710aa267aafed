"""Malenia (arXiv 2509.24305): maximise the mean of the groups' objectives J_i, whatever their speeds."""

import numpy as np

from hpcmarl.optim.rounds.base import RoundRule

TOLERANCE = 1e-9  # equal counts must end the round exactly at M despite rounding
MARGIN = 1e-6  # bound on the relative error of the running sum of 1/M_i


class Malenia(RoundRule):
    """End a round when the harmonic mean of the counts reaches M / n. The direction is (1/n) sum_i S_i / M_i.

    The harmonic mean is 0 until every group has delivered, so every group contributes to every round. The
    number n counts the groups in `present`. After the loss of a group the mean covers fewer objectives, and
    is a different objective.

    Attributes:
        inverse: Sum of 1/M_i over the groups that have delivered, updated with each gradient.
        reported: Number of groups that have delivered.
    """

    pooled = False
    inverse = 0.0
    reported = 0
    summary = "until the harmonic mean of the counts is M/n; every group's objective weighs the same"

    def awaited(self) -> tuple[int, ...]:
        return tuple(group for group in self.present if self.counts[group] == 0)

    def complete(self) -> bool:
        counts = [self.counts[group] for group in self.present]
        if min(counts) == 0:
            return False
        inverse_sum = float(np.sum(1.0 / np.asarray(counts, dtype=np.float64)))
        return len(counts) ** 2 >= self.target * inverse_sum * (1.0 - TOLERANCE)

    def _count(self, group: int, count: int) -> None:
        before = self.counts[group]
        super()._count(group, count)
        self.inverse += 1.0 / (before + count)
        if before:
            self.inverse -= 1.0 / before
        else:
            self.reported += 1

    def _uncount(self, group: int) -> None:
        if self.counts[group]:
            self.inverse -= 1.0 / self.counts[group]
            self.reported -= 1
        super()._uncount(group)

    def _may_end(self) -> bool:
        groups = len(self.present)
        return self.reported == groups and groups**2 >= self.target * self.inverse * (1.0 - MARGIN)

    def _begin(self) -> None:
        super()._begin()
        self.inverse, self.reported = 0.0, 0

    def local_scale(self, count: int) -> float:
        return 1.0 / (len(self.present) * count) if count else 0.0

    def total_scale(self, total: int) -> float:
        return 1.0
