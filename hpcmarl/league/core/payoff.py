"""What snapshots and members have done against each other: `Payoff` of frozen snapshots, `LiveRecord` of one
training member.

Called by the league's server, matchmakers and evaluation strategies; knows no file, rank or network.
Snapshots are their numbers in the pool, 0, 1, 2 and so on. A score is 1 for a win, 0.5 for a draw and 0 for a
loss (or a return scaled into [0, 1]); scores are summed over games.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.types import Array

# Rows and columns of a query: numbers of snapshots; None: all of them.
Numbers = NDArray[Any] | list[int] | tuple[int, ...] | range | None
_FIELDS = {"games": np.int32, "score": np.float64, "return_sum": np.float64, "return_square_sum": np.float64}
# Arrays grow by this factor: copying stays a constant share of the work, and no more than 1.6 times the
# memory is taken.
_GROWTH = 1.25


class Payoff:
    """For each ordered pair (row, column): games, the row's summed score, the sum and the sum of squares of
    the row's own returns.

    Both orders are filled by one `record`. The column's score is what is left of each game, or with
    `shared_score` (cooperative games) the same as the row's. 28 bytes a pair: 1,000 snapshots take 28 to 44
    MB. `recorded` counts all games.
    """

    def __init__(self, *, shared_score: bool = False) -> None:
        self.shared_score = shared_score
        self.size = 0
        self.recorded = 0
        self._tables: dict[str, Array] = {name: np.zeros((0, 0), dtype) for name, dtype in _FIELDS.items()}

    def grow(self, size: int) -> None:
        """There are `size` snapshots now. The pool never shrinks: smaller sizes change nothing."""
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
        """Add so many games, the row's score in them and both sides' sums of returns; a snapshot that met
        itself has the mean of both seats.

        Raises ValueError for numbers outside the pool, no games, a score outside [0, games] or sums that are
        not finite.
        """
        sums = (row_return_sum, row_return_square_sum, column_return_sum, column_return_square_sum)
        if not (0 <= row < self.size and 0 <= column < self.size and np.all(np.isfinite(sums))):
            raise ValueError(f"snapshots {row} and {column} of {self.size}, sums of returns {sums}")
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
        """Games of each pair [R, C] int32 (a view where no rows and columns are given: not to be written
        to).
        """
        return self._cells("games", rows, columns)

    def score(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Summed score of the rows [R, C] float64 (a view as in `games`)."""
        return self._cells("score", rows, columns)

    def mean_score(self, rows: Numbers = None, columns: Numbers = None, *, prior_games: float = 0.0) -> Array:
        """Mean score of the rows [R, C] with so many drawn games added to each pair; 0.5 where there are no
        games at all.
        """
        return mean_scores(self.games(rows, columns), self.score(rows, columns), prior_games)

    def score_error(
        self, rows: Numbers = None, columns: Numbers = None, *, prior_games: float = 2.0
    ) -> Array:
        """Standard deviation of the mean score's Beta posterior [R, C]; the prior is Beta(prior_games / 2,
        prior_games / 2).

        An upper bound where games are drawn or scores lie between 0 and 1. Raises ValueError without a
        prior.
        """
        return score_errors(self.games(rows, columns), self.score(rows, columns), prior_games)

    def mean_return(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Mean of the rows' own returns [R, C]; NaN where there are no games."""
        games = self.games(rows, columns)
        mean: Array = np.divide(
            self._cells("return_sum", rows, columns), games, out=np.full(games.shape, np.nan), where=games > 0
        )
        return mean

    def return_error(self, rows: Numbers = None, columns: Numbers = None) -> Array:
        """Standard error of that mean [R, C], from the sample's variance; infinite with fewer than two
        games.
        """
        games = self.games(rows, columns)
        known = games > 1
        count = np.where(known, games, 2)
        total = self._cells("return_sum", rows, columns)
        squares = np.maximum(self._cells("return_square_sum", rows, columns) - total**2 / count, 0.0)
        error: Array = np.where(known, np.sqrt(squares / (count - 1) / count), np.inf)
        return error

    def state_dict(self) -> dict[str, Any]:
        """Arrays [size, size] and plain values."""
        return {name: self._cells(name, None, None).copy() for name in _FIELDS} | {"recorded": self.recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises FormatError where the tables do not belong together."""
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
    """The summed score of so many games, in [0, games] exactly where rounding had led past the ends.
    ValueError for what cannot be.
    """
    slack = 1e-9 * games
    if games < 1 or not -slack <= score <= games + slack:
        raise ValueError(f"{games} games cannot have the score {score}")
    return min(max(score, 0.0), float(games))


def mean_scores(games: Array, score: Array, prior_games: float) -> Array:
    """(score + prior/2) / (games + prior), of arrays of one shape; 0.5 where that is 0 / 0."""
    count = games + prior_games
    mean: Array = np.divide(
        score + prior_games / 2, count, out=np.full(np.shape(count), 0.5), where=count > 0
    )
    return mean


def score_errors(games: Array, score: Array, prior_games: float) -> Array:
    """sqrt(m (1 - m) / (n + 1)) for the mean m of `mean_scores` and n = games + prior: the deviation of a
    Beta distribution.
    """
    if prior_games <= 0:
        raise ValueError(
            f"prior_games is {prior_games}; a pair without games has no interval without a prior"
        )
    mean = mean_scores(games, score, prior_games)
    error: Array = np.sqrt(mean * (1 - mean) / (games + prior_games + 1))
    return error


class LiveRecord:
    """Games and score of one training member against each snapshot; older games fade, since the member
    changes.

    Each game against a snapshot multiplies what was known of that pair by `decay` first (AlphaStar's
    supplementary pseudocode: 0.99). Of several games reported at once the mean score counts for each, so that
    the order in one report does not matter.
    """

    def __init__(self, decay: float = 0.99, prior_games: float = 1.0) -> None:
        self.decay = decay
        self.prior_games = prior_games
        self._games = np.zeros(0)
        self._score = np.zeros(0)

    def record(self, snapshot: int, games: int, score: float) -> None:
        """The member has played so many games against the snapshot. Raises ValueError for no games or a score
        outside [0, games].
        """
        if snapshot < 0:
            raise ValueError(
                f"snapshot {snapshot}: numbers begin at 0, games of the member with itself are not kept"
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
        """Decayed number of games against each of the snapshots [C]."""
        return self._against(self._games, snapshots)

    def mean_score(self, snapshots: NDArray[Any]) -> Array:
        """Mean score against each of the snapshots [C], with `prior_games` drawn games added; 0.5 where there
        are no games.
        """
        return mean_scores(self.games(snapshots), self._against(self._score, snapshots), self.prior_games)

    def clear(self) -> None:
        """Forget all: the member goes on from other weights."""
        self._games, self._score = np.zeros(0), np.zeros(0)

    @staticmethod
    def _against(values: Array, snapshots: NDArray[Any]) -> Array:
        numbers = np.asarray(snapshots, np.intp)
        found = np.zeros(len(numbers))
        met = numbers < len(values)
        found[met] = values[numbers[met]]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Two arrays; decay and prior are configuration."""
        return {"games": self._games.copy(), "score": self._score.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if np.shape(state["games"]) != np.shape(state["score"]):
            raise FormatError("a live record's games and scores differ in length: use an older checkpoint")
        self._games, self._score = np.array(state["games"], np.float64), np.array(state["score"], np.float64)
