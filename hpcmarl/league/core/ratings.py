"""Ratings that follow the games one by one: Weng and Lin's Bayesian ratings (JMLR 2011) by the library
openskill, as TrueSkill's are.

Called by the league's server and by reports; knows no file or rank. Unlike the fit of a whole table
(maths/ratings.py) they depend on the order of games, cost the same for every game however large the pool is,
and each carries how uncertain it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError, MissingPackageError
from hpcmarl.league.core.payoff import checked_score
from hpcmarl.types import Array


class SkillRatings:
    """mean [N] and deviation [N] of each snapshot's skill. A new one has mean 25 and deviation 25/3, the
    library's and TrueSkill's scale.

    The model is the Bradley-Terry one of the paper (algorithm 1, all pairs): for two players it is the same
    as Plackett-Luce. Raises MissingPackageError without openskill.
    """

    def __init__(self) -> None:
        try:
            models = importlib.import_module("openskill.models")
        except ImportError as error:
            raise MissingPackageError(
                "skill ratings need openskill, which is not installed; pip install 'hpcmarl[league]'"
            ) from error
        self._model = models.BradleyTerryFull()
        self.mean: Array = np.zeros(0)
        self.deviation: Array = np.zeros(0)

    def grow(self, size: int) -> None:
        """There are `size` snapshots now."""
        more = max(0, size - len(self.mean))
        self.mean = np.append(self.mean, np.full(more, self._model.mu))
        self.deviation = np.append(self.deviation, np.full(more, self._model.sigma))

    def record(self, row: int, column: int, score: float) -> None:
        """One game: the row won (score above one half), drew or lost. A snapshot that met itself tells
        nothing.

        Raises ValueError for a snapshot that is not there or a score outside [0, 1].
        """
        if not (0 <= row < len(self.mean) and 0 <= column < len(self.mean) and 0 <= score <= 1):
            raise ValueError(f"snapshots {row} and {column} of {len(self.mean)}, score {score}")
        if row == column:
            return
        players = [
            [self._model.rating(mu=float(self.mean[number]), sigma=float(self.deviation[number]))]
            for number in (row, column)
        ]
        ranks = [float(score < 0.5), float(score > 0.5)]  # 0 is the better one, equal ranks are a draw
        for number, (rated,) in zip((row, column), self._model.rate(players, ranks=ranks), strict=True):
            self.mean[number], self.deviation[number] = rated.mu, rated.sigma

    def record_sum(self, row: int, column: int, games: int, score: float) -> None:
        """Several games of which only the sum of the row's scores is known: wins and losses evenly mixed,
        half a point left over is a draw.
        """
        wins, drawn = divmod(round(2 * checked_score(games, score)), 2)
        decided = games - drawn
        for game in range(decided):
            self.record(row, column, float((game + 1) * wins // decided - game * wins // decided))
        if drawn:
            self.record(row, column, 0.5)

    def ordinal(self) -> Array:
        """Mean - 3 deviation [N]: what a snapshot is worth at least, the number to sort by."""
        return self.mean - 3.0 * self.deviation

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.copy(), "deviation": self.deviation.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if np.shape(state["mean"]) != np.shape(state["deviation"]):
            raise FormatError(
                "skill ratings have means and deviations of different numbers: use an older checkpoint"
            )
        self.mean, self.deviation = (
            np.array(state["mean"], np.float64),
            np.array(state["deviation"], np.float64),
        )
