"""Skill ratings that are updated game by game.

These are the Bayesian ratings of Weng and Lin (JMLR 2011), which resemble TrueSkill's, by the library
openskill. They differ from the fit of a whole table (maths/ratings.py) in three ways. They depend on the
order of the games. A game costs the same for any size of the pool. Each rating has an uncertainty.
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
    """Mean and deviation of each snapshot's skill.

    A new snapshot has mean 25 and deviation 25/3, the scale of openskill and TrueSkill. The model is the
    paper's Bradley-Terry model (algorithm 1, all pairs). For two players it is the same as Plackett-Luce.

    Attributes:
        mean: Mean skills, shape [N].
        deviation: Standard deviations, shape [N].

    Raises:
        MissingPackageError: If openskill is not installed.
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
        """Extend the ratings to `size` snapshots."""
        more = max(0, size - len(self.mean))
        self.mean = np.append(self.mean, np.full(more, self._model.mu))
        self.deviation = np.append(self.deviation, np.full(more, self._model.sigma))

    def record(self, row: int, column: int, score: float) -> None:
        """Add one game. A game of a snapshot against itself changes nothing.

        Args:
            row: Number of the row's snapshot.
            column: Number of the column's snapshot.
            score: Score of the row: above 0.5 a win, 0.5 a draw, below 0.5 a loss.

        Raises:
            ValueError: If a snapshot does not exist or the score is outside [0, 1].
        """
        if not (0 <= row < len(self.mean) and 0 <= column < len(self.mean) and 0 <= score <= 1):
            raise ValueError(
                f"snapshots {row} and {column}, score {score}; allowed: snapshots 0 to "
                f"{len(self.mean) - 1}, score 0 to 1"
            )
        if row == column:
            return
        players = [
            [self._model.rating(mu=float(self.mean[number]), sigma=float(self.deviation[number]))]
            for number in (row, column)
        ]
        # The better player has rank 0. Equal ranks are a draw.
        ranks = [float(score < 0.5), float(score > 0.5)]
        for number, (rated,) in zip((row, column), self._model.rate(players, ranks=ranks), strict=True):
            self.mean[number], self.deviation[number] = rated.mu, rated.sigma

    def record_sum(self, row: int, column: int, games: int, score: float) -> None:
        """Add several games from the sum of the row's scores.

        Wins and losses are mixed evenly. If the sum, rounded to half points, is not whole, one game is a
        draw.

        Args:
            row: Number of the row's snapshot.
            column: Number of the column's snapshot.
            games: Number of games.
            score: Summed score of the row, in [0, games].
        """
        wins, drawn = divmod(round(2 * checked_score(games, score)), 2)
        decided = games - drawn
        for game in range(decided):
            self.record(row, column, float((game + 1) * wins // decided - game * wins // decided))
        if drawn:
            self.record(row, column, 0.5)

    def ordinal(self) -> Array:
        """Return mean - 3 deviation, shape [N]: a lower bound of each skill, meant for sorting."""
        return self.mean - 3.0 * self.deviation

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.copy(), "deviation": self.deviation.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if np.shape(state["mean"]) != np.shape(state["deviation"]):
            raise FormatError(
                "skill ratings have means and deviations of different lengths; use an older checkpoint"
            )
        self.mean, self.deviation = (
            np.array(state["mean"], np.float64),
            np.array(state["deviation"], np.float64),
        )
