"""Evaluation strategies: the order in which pairs of frozen snapshots play matches.

Usage: call `add` for each new snapshot and `next` for a pair to play. Call `begun` when the match is handed
out. Call `ended` when its results are in the payoff, or when its rank is lost and the match must be repeated.

Each allowed pair has an urgency in a table, float32 [n, n], which is updated cell by cell. The most urgent
pair is next; equal pairs are in random order. One pass over the table (4 to 6 MB at 1,000 snapshots) finds
the AHEAD most urgent pairs. They are used until one of them has changed or another pair is more urgent. Games
that are being played count as known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hpcmarl.config.league import AdaptiveConfig, LatestPairsConfig, PanelConfig, StrategySection
from hpcmarl.league.core.payoff import Payoff, mean_scores, score_errors
from hpcmarl.types import Array, BoolArray, IntArray

_NEVER = np.float32(-np.inf)
_GROWTH = 1.25
_ABSENT = -1
AHEAD = 64  # most pairs that one pass over the table finds


class EvaluationStrategy(ABC):
    """Order of the matches between the snapshots of a `Payoff`.

    With several sides (an asymmetric game), pairs are made across sides only. The row of a pair is then the
    side that comes first in `sides`. With one side, the row is the older snapshot, so each pair occurs once.
    A snapshot does not meet itself, except in cooperative games, where a snapshot and itself are a team like
    any other.

    Args:
        config: Settings of the strategy.
        payoff: Results of the matches, which the caller records.
        sides: Names of the sides that snapshots play.
        cooperative: Whether the game is cooperative.
    """

    summary: ClassVar[str] = ""

    def __init__(
        self,
        config: StrategySection,
        payoff: Payoff,
        sides: Sequence[str] = ("",),
        *,
        cooperative: bool = False,
    ) -> None:
        self.payoff = payoff
        self.sides = tuple(sides)
        self.with_itself = cooperative and len(self.sides) == 1
        self.enough = np.inf if config.games_per_pair is None else config.games_per_pair
        self.playing: Counter[tuple[int, int]] = Counter()  # handed-out games of each pair
        self._side = np.zeros(0, np.int64)  # place in `sides` of each snapshot, or _ABSENT
        self._allowed: BoolArray = np.zeros((0, 0), bool)
        self._urgency = np.zeros((0, 0), np.float32)
        # Row, column and urgency of the pairs found by the last pass. The most urgent pair is last.
        self._ahead: list[tuple[int, int, float]] = []
        self._raised = float(_NEVER)  # highest urgency that was set since that pass

    @abstractmethod
    def _chosen(self, number: int, older: IntArray) -> IntArray:
        """Return the older snapshots with which a new snapshot makes pairs.

        Args:
            number: Number of the new snapshot.
            older: Older snapshots that it may meet, oldest first, shape [C].

        Returns:
            A selection of `older`, shape [K].
        """

    def _value(self, games: Array, score: Array, playing: Array) -> Array:
        """Return the urgency of pairs. The default is that pairs with the fewest games come first.

        Args:
            games: Number of known games of each pair, shape [K].
            score: Summed scores of the rows, shape [K].
            playing: Number of games that are being played, shape [K].

        Returns:
            Urgencies, shape [K]; the highest is the most urgent.
        """
        return -(games + playing)

    def add(self, number: int, side: str = "") -> None:
        """Add a new snapshot and its pairs.

        Args:
            number: Number of the snapshot, above all numbers added before.
            side: Side that the snapshot plays.

        Raises:
            ValueError: If the number is not in the payoff or not above all before, or if the side is unknown.
        """
        if not len(self._side) <= number < self.payoff.size or side not in self.sides:
            raise ValueError(
                f"snapshot {number} of side {side!r}: expected {len(self._side)} to {self.payoff.size - 1}, "
                f"of {self.sides}"
            )
        own = self.sides.index(side)
        met = self._side != own if len(self.sides) > 1 else self._side == own
        chosen = self._chosen(number, np.flatnonzero(met & (self._side != _ABSENT)))
        self._side = np.append(self._side, np.full(number - len(self._side) + 1, _ABSENT))
        self._side[number] = own
        self._grow(number + 1)
        if self.with_itself:
            chosen = np.append(chosen, number)
        first = (self._side[chosen] < own) | (self._side[chosen] == own)
        rows, columns = np.where(first, chosen, number), np.where(first, number, chosen)
        self._allowed[rows, columns] = True
        self._refresh(rows, columns)

    def remove(self, number: int) -> None:
        """Remove a snapshot from all pairs, since its file is in quarantine.

        Its results stay in the payoff.
        """
        if number < len(self._side):
            self._side[number] = _ABSENT
            for table, nothing in ((self._allowed, False), (self._urgency, _NEVER)):
                table[number], table[:, number] = nothing, nothing

    def next(self, generator: np.random.Generator) -> tuple[int, int] | None:
        """Return the most urgent pair of snapshots, the row first.

        Returns:
            None if there are no pairs, or if known and handed-out games suffice for every pair.
        """
        while True:
            if not self._ahead or self._raised > self._ahead[-1][2]:
                self._look(generator)
            if not self._ahead:
                return None
            row, column, urgency = self._ahead[-1]
            if self._urgency[row, column] == urgency:
                return row, column
            self._ahead.pop()

    def _look(self, generator: np.random.Generator) -> None:
        """Find the most urgent pairs; equal ones are in random order."""
        self._ahead, self._raised = [], float(_NEVER)
        urgency = self._urgency.ravel()
        best = urgency.max(initial=_NEVER)
        if best == _NEVER:
            return
        cells = np.flatnonzero(urgency == best)
        if len(cells) > AHEAD:
            cells = generator.choice(cells, AHEAD, replace=False)
        elif len(urgency) > AHEAD:
            cells = np.argpartition(-urgency, AHEAD - 1)[:AHEAD]
        else:
            cells = np.arange(len(urgency))
        cells = generator.permutation(cells[urgency[cells] > _NEVER])
        cells = cells[np.argsort(urgency[cells], kind="stable")]
        rows, columns = np.divmod(cells, len(self._urgency))
        self._ahead = list(zip(rows.tolist(), columns.tolist(), urgency[cells].tolist(), strict=True))

    def begun(self, row: int, column: int, games: int) -> None:
        """Count games of the pair as handed out."""
        self.playing[row, column] += games
        self._refresh(np.array([row]), np.array([column]))

    def ended(self, row: int, column: int, games: int) -> None:
        """Count handed-out games as returned: their results are in the payoff, or they are lost."""
        self.playing[row, column] -= games
        if self.playing[row, column] <= 0:
            del self.playing[row, column]
        self._refresh(np.array([row]), np.array([column]))

    def pairs(self) -> IntArray:
        """Return all pairs that the strategy plays, finished or not.

        Returns:
            Numbers of row and column, shape [K, 2], rows in ascending order.
        """
        return np.argwhere(self._allowed)

    def _grow(self, size: int) -> None:
        if size > len(self._urgency):
            capacity, old = max(size, 16, int(_GROWTH * len(self._urgency))), len(self._urgency)
            urgency, allowed = np.full((capacity, capacity), _NEVER), np.zeros((capacity, capacity), bool)
            urgency[:old, :old], allowed[:old, :old] = self._urgency, self._allowed
            self._urgency, self._allowed = urgency, allowed

    def _refresh(self, rows: IntArray, columns: IntArray) -> None:
        """Update the urgency of the given pairs, shape [K].

        Pairs that the strategy does not play stay excluded.
        """
        games, score = self.payoff.games()[rows, columns], self.payoff.score()[rows, columns]
        playing = np.array(
            [self.playing[pair] for pair in zip(rows.tolist(), columns.tolist(), strict=True)]
            if self.playing
            else np.zeros(len(rows))
        )
        open_ = self._allowed[rows, columns] & (games + playing < self.enough)
        self._urgency[rows, columns] = np.where(open_, self._value(games, score, playing), _NEVER)
        self._raised = max(self._raised, float(self._urgency[rows, columns].max(initial=_NEVER)))

    def state_dict(self) -> dict[str, Any]:
        """Return the side of each snapshot.

        Matches in progress are not stored. A resumed run has none, so these pairs are played again.
        """
        return {"side": self._side.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the snapshots into a strategy that has none. Load the payoff first.

        The pairs follow from this strategy's own settings.
        """
        for number, side in enumerate(np.asarray(state["side"]).tolist()):
            if side != _ABSENT:
                self.add(number, self.sides[side])


class RoundRobin(EvaluationStrategy):
    """All pairs, each played equally often."""

    summary = "all pairs, the fewest games first"

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older


class LatestPairs(EvaluationStrategy):
    """Each snapshot against the K snapshots that were the newest when it was added.

    The number of pairs grows linearly with the pool, not with its square.
    """

    summary = "each new snapshot against the K newest"

    def __init__(self, config: LatestPairsConfig, *rest: Any, **keys: Any) -> None:
        super().__init__(config, *rest, **keys)
        self.count = config.opponents

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older[-self.count :]


class Panel(EvaluationStrategy):
    """All snapshots against the same few, so that scores can be compared over time.

    With several sides, the panel must contain snapshots of each.
    """

    summary = "all snapshots against a fixed panel"

    def __init__(self, config: PanelConfig, *rest: Any, **keys: Any) -> None:
        super().__init__(config, *rest, **keys)
        self.panel = np.array(config.panel, np.int64)

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older if number in self.panel else older[np.isin(older, self.panel)]


class Adaptive(EvaluationStrategy):
    """All pairs, the one with the widest interval of its mean score first.

    The interval is that of a Beta posterior after `prior_games` drawn games: m ± z sqrt(m (1 - m) / (n + 1)).
    A pair with a clear winner needs few games, an even one needs many. Games in progress narrow the interval
    as if m did not change.
    """

    summary = "the pair whose mean score is least certain first"

    def __init__(self, config: AdaptiveConfig, *rest: Any, **keys: Any) -> None:
        super().__init__(config, *rest, **keys)
        self.prior_games = config.prior_games

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older

    def _value(self, games: Array, score: Array, playing: Array) -> Array:
        expected = mean_scores(games, score, self.prior_games)
        return score_errors(games + playing, score + playing * expected, self.prior_games)
