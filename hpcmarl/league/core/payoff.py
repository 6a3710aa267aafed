"""Results of games: `Payoff` between frozen snapshots, `LiveRecord` of one training member.

Snapshots are identified by their numbers in the pool, from 0. The score of a game is 1 for a win, 0.5 for a
draw and 0 for a loss, or a return scaled into [0, 1]. Scores are summed over games.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.types import Array

# Rows or columns of a query: numbers of snapshots; None: all.
Numbers = NDArray[Any] | list[int] | tuple[int, ...] | range | None
_FIELDS = {"games": np.int32, "score": np.float64, "return_sum": np.float64, "return_square_sum": np.float64}
# Arrays grow by this factor. Copying stays a constant share of the work.
# Arrays take at most 1.6 times the memory that they need.
_GROWTH = 1.25


class Payoff:
    """Results for each ordered pair (row, column) of snapshots.

    Each pair has the number of games, the row's summed score, and the sum and the sum of squares of the row's
    own returns. One call of `record` fills both orders of a pair. The column's score of a game is 1 minus the
    row's, or the same as the row's with `shared_score` (cooperative games).

    A pair takes 28 bytes: 1,000 snapshots take 28 to 44 MB.

    Attributes:
        size: Number of snapshots.
        recorded: Number of games of all pairs.
    """

    def __init__(self, *, shared_score: bool = False) -> None:
        self.shared_score = shared_score
        self.size = 0
        self.recorded = 0
        self._tables: dict[str, Array] = {name: np.zeros((0, 0), dtype) for name, dtype in _FIELDS.items()}

    def grow(self, size: int) -> None:
        """Extend the tables to `size` snapshots.

        The pool never shrinks, so a smaller size changes nothing.
        """
        self.size = max(self.size, size)
        capacity = len(self._tables["games"])
        if size > capacity:
            capacity = max(size, 16, int(_GROWTH * capacity))
            for name, table in self._tables.items():
                larger = np.zeros((capacity, capacity), table.dtype)
                larger[: len(table), : len(table)] = table
                self._tables[name] = larger

    def record(
        self,
        row: int,
        column: int,
        games: int,
        score: float,
        row_return_sum: float,
        row_return_square_sum: float,
        column_return_sum: float,
        column_return_square_sum: float,
    ) -> None:
        """Add games between two snapshots. A snapshot that met itself gets the mean of both seats.

        Args:
            row: Number of the row's snapshot.
            column: Number of the column's snapshot.
            games: Number of games.
            score: Summed score of the row, in [0, games].
            row_return_sum: Sum of the row's returns.
            row_return_square_sum: Sum of the squares of the row's returns.
            column_return_sum: Sum of the column's returns.
            column_return_square_sum: Sum of the squares of the column's returns.

        Raises:
            ValueError: If a number is outside the pool, `games` is less than 1, the score is outside [0,
                games] or a sum is not finite.
        """
        sums = (row_return_sum, row_return_square_sum, column_return_sum, column_return_square_sum)
        if not (0 <= row < self.size and 0 <= column < self.size and np.all(np.isfinite(sums))):
            raise ValueError(
                f"snapshots {row} and {column}, sums of returns {sums}; allowed: snapshots 0 to "
                f"{self.size - 1}, finite sums"
            )
        score = checked_score(games, score)
        others = score if self.shared_score else games - score
        if row == column:
            self._add(row, row, games, (score + others) / 2, (sums[0] + sums[2]) / 2, (sums[1] + sums[3]) / 2)
        else:
            self._add(row, column, games, score, sums[0], sums[1])
            self._add(column, row, games, others, sums[2], sums[3])
        self.recorded += games

    def _add(self, row: int, column: int, *values: float) -> None:
        for table, value in zip(self._tables.values(), values, strict=True):
            table[row, column] += value

    def _cells(self, name: str, rows: Numbers, columns: Numbers) -> Array:
        table = self._tables[name][: self.size, : self.size]
        if rows is not None:
            table = table[np.asarray(rows, np.intp)]
        return table if columns is None else table[:, np.asarray(columns, np.intp)]

    def games(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Return the number of games of each pair, int32 [R, C].

        Args:
            rows: Numbers of snapshots; None: all.
            columns: Numbers of snapshots; None: all.

        Returns:
            Without rows and columns, a view of the table: do not write to it.
        """
        return self._cells("games", rows, columns)

    def score(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Return the summed score of the rows, float64 [R, C]. Arguments and views are as in `games`."""
        return self._cells("score", rows, columns)

    def mean_score(self, rows: Numbers = None, columns: Numbers = None, *, prior_games: float = 0.0) -> Array:
        """Return the mean score of the rows; 0.5 for pairs without any games.

        Args:
            rows: Numbers of snapshots; None: all.
            columns: Numbers of snapshots; None: all.
            prior_games: Drawn games added to each pair.

        Returns:
            Mean scores, shape [R, C].
        """
        return mean_scores(self.games(rows, columns), self.score(rows, columns), prior_games)

    def score_error(
        self, rows: Numbers = None, columns: Numbers = None, *, prior_games: float = 2.0
    ) -> Array:
        """Return the standard deviation of the Beta posterior of the mean score.

        The prior is Beta(prior_games / 2, prior_games / 2). The result is an upper bound if games are drawn
        or scores lie between 0 and 1.

        Args:
            rows: Numbers of snapshots; None: all.
            columns: Numbers of snapshots; None: all.
            prior_games: Drawn games added to each pair, above 0.

        Returns:
            Standard deviations, shape [R, C].

        Raises:
            ValueError: If `prior_games` is not above 0.
        """
        return score_errors(self.games(rows, columns), self.score(rows, columns), prior_games)

    def mean_return(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Return the mean of the rows' own returns, shape [R, C]; NaN for pairs without games."""
        games = self.games(rows, columns)
        mean: Array = np.divide(
            self._cells("return_sum", rows, columns), games, out=np.full(games.shape, np.nan), where=games > 0
        )
        return mean

    def return_error(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Return the standard error of the mean return, shape [R, C], from the sample variance.

        Pairs with fewer than two games have an infinite error.
        """
        games = self.games(rows, columns)
        known = games > 1
        count = np.where(known, games, 2)
        total = self._cells("return_sum", rows, columns)
        squares = np.maximum(self._cells("return_square_sum", rows, columns) - total**2 / count, 0.0)
        error: Array = np.where(known, np.sqrt(squares / (count - 1) / count), np.inf)
        return error

    def state_dict(self) -> dict[str, Any]:
        """Return arrays of shape [size, size] and plain values."""
        return {name: self._cells(name, None, None).copy() for name in _FIELDS} | {"recorded": self.recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the tables.

        Raises:
            FormatError: If the tables are not square or differ in size.
        """
        shapes = {np.shape(state[name]) for name in _FIELDS}
        shape = min(shapes)
        if len(shapes) != 1 or len(shape) != 2 or shape[0] != shape[1]:
            raise FormatError(
                f"the payoff's tables have shapes {sorted(shapes)}; they must be square and of one size: use "
                "an older checkpoint"
            )
        self._tables = {name: np.array(state[name], dtype) for name, dtype in _FIELDS.items()}
        self.size, self.recorded = int(shape[0]), int(state["recorded"])


def checked_score(games: int, score: float) -> float:
    """Return a summed score, clipped to [0, games].

    Raises:
        ValueError: If `games` is less than 1 or the score is outside [0, games] by more than rounding errors.
    """
    slack = 1e-9 * games
    if games < 1 or not -slack <= score <= games + slack:
        raise ValueError(
            f"{games} games cannot have the score {score}; allowed: 1 game or more, score 0 to {games}"
        )
    return min(max(score, 0.0), float(games))


def mean_scores(games: Array, score: Array, prior_games: float) -> Array:
    """Return (score + prior_games / 2) / (games + prior_games) elementwise; 0.5 where that is 0 / 0.

    Args:
        games: Number of games, any shape.
        score: Summed scores, of the same shape.
        prior_games: Drawn games added to each element.
    """
    count = games + prior_games
    mean: Array = np.divide(
        score + prior_games / 2, count, out=np.full(np.shape(count), 0.5), where=count > 0
    )
    return mean


def score_errors(games: Array, score: Array, prior_games: float) -> Array:
    """Return the standard deviation of a Beta distribution: sqrt(m (1 - m) / (n + 1)).

    Here m is the mean of `mean_scores` and n = games + prior_games.

    Args:
        games: Number of games, any shape.
        score: Summed scores, of the same shape.
        prior_games: Drawn games added to each element, above 0.

    Raises:
        ValueError: If `prior_games` is not above 0.
    """
    if prior_games <= 0:
        raise ValueError(
            f"prior_games is {prior_games}; it must be above 0, since pairs without games need a prior"
        )
    mean = mean_scores(games, score, prior_games)
    error: Array = np.sqrt(mean * (1 - mean) / (games + prior_games + 1))
    return error


class LiveRecord:
    """Games and score of one training member against each snapshot.

    Older games fade, since the member changes.

    Each game against a snapshot first multiplies the earlier record of that pair by `decay` (0.99 in
    AlphaStar's supplementary pseudocode). If several games are reported at once, each counts with their mean
    score. So the order of games within one report does not matter.

    Args:
        decay: Factor on the weight of older games after each game against the same snapshot.
        prior_games: Drawn games that `mean_score` adds to each pair.
    """

    def __init__(self, decay: float = 0.99, prior_games: float = 1.0) -> None:
        self.decay = decay
        self.prior_games = prior_games
        self._games = np.zeros(0)
        self._score = np.zeros(0)

    def record(self, snapshot: int, games: int, score: float) -> None:
        """Add games of the member against a snapshot.

        Args:
            snapshot: Number of the snapshot.
            games: Number of games.
            score: Summed score of the member, in [0, games].

        Raises:
            ValueError: If the number is negative, `games` is less than 1 or the score is outside [0, games].
        """
        if snapshot < 0:
            raise ValueError(
                f"snapshot {snapshot}: numbers begin at 0; games of the member against itself have no number"
            )
        score = checked_score(games, score)
        if snapshot >= len(self._games):
            more = max(snapshot + 1, int(_GROWTH * len(self._games))) - len(self._games)
            self._games, self._score = np.pad(self._games, (0, more)), np.pad(self._score, (0, more))
        kept = self.decay**games
        # 1 + decay + … + decay^(games - 1)
        gained = games if self.decay == 1.0 else (1.0 - kept) / (1.0 - self.decay)
        self._games[snapshot] = kept * self._games[snapshot] + gained
        self._score[snapshot] = kept * self._score[snapshot] + gained * score / games

    def games(self, snapshots: NDArray[Any]) -> Array:
        """Return the decayed number of games against each of the snapshots, shape [C]."""
        return self._against(self._games, snapshots)

    def mean_score(self, snapshots: NDArray[Any]) -> Array:
        """Return the mean score against each of the snapshots, with `prior_games` drawn games added.

        Args:
            snapshots: Numbers of the snapshots, shape [C].

        Returns:
            Mean scores, shape [C]; 0.5 without any games.
        """
        return mean_scores(self.games(snapshots), self._against(self._score, snapshots), self.prior_games)

    def clear(self) -> None:
        """Delete all results, since the member continues from other weights."""
        self._games, self._score = np.zeros(0), np.zeros(0)

    @staticmethod
    def _against(values: Array, snapshots: NDArray[Any]) -> Array:
        numbers = np.asarray(snapshots, np.intp)
        found = np.zeros(len(numbers))
        met = numbers < len(values)
        found[met] = values[numbers[met]]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return two arrays. Decay and prior come from the configuration."""
        return {"games": self._games.copy(), "score": self._score.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if np.shape(state["games"]) != np.shape(state["score"]):
            raise FormatError("a live record's games and scores differ in length: use an older checkpoint")
        self._games, self._score = np.array(state["games"], np.float64), np.array(state["score"], np.float64)
