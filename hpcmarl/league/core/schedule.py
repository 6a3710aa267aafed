"""Evaluation strategies: which pair of frozen snapshots is played next, so that the payoff is known where it
matters.

Called by the league's server: `add` for each new snapshot, `next` for a pair to hand out, `begun` when it
went, `ended` when its results are in the payoff, or when the rank that had it is lost and the pair has to
come again. Knows no file, rank or network.

Each pair that a strategy allows has an urgency in a table [n, n] float32, kept up to date cell by cell; the
most urgent pair is next, one at random among equals. A pass over the table, 4 to 6 MB at 1,000 snapshots,
finds the most urgent few at once; they serve until one of them is used or another pair has become more
urgent. Games that are being played count as if they were known.
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
AHEAD = 64  # pairs that one pass over the table finds


class EvaluationStrategy(ABC):
    """One rule over a `Payoff` that somebody else fills.

    sides: names of what snapshots play. With several (an asymmetric game) pairs are made across sides only,
    and a pair's row is of the side that stands first here. With one, a pair's row is the older snapshot, so
    that each pair comes once; nobody meets itself, except where `cooperative`: there a snapshot with itself
    is a team like the others.
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
        self.playing: Counter[tuple[int, int]] = Counter()  # games that were handed out
        self._side = np.zeros(0, np.int64)  # of each number; _ABSENT: takes no part
        self._allowed: BoolArray = np.zeros((0, 0), bool)
        self._urgency = np.zeros((0, 0), np.float32)
        self._ahead: list[
            tuple[int, int, float]
        ] = []  # row, column, urgency when they were found; the most urgent last
        self._raised = float(_NEVER)  # the highest urgency that a pair was given since then

    @abstractmethod
    def _chosen(self, number: int, older: IntArray) -> IntArray:
        """With which of the snapshots that came before it, and that it may meet, the new one makes a pair.
        [K] of older [C], in order of age.
        """

    def _value(self, games: Array, score: Array, playing: Array) -> Array:
        """Urgency [K] of pairs: games known, summed score of their rows, games being played [K]. Here: those
        with the fewest games first.
        """
        return -(games + playing)

    def add(self, number: int, side: str = "") -> None:
        """A snapshot has come; numbers rise. Raises ValueError for a number that is not in the payoff or not
        above all before, or an unknown side.
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
        """A snapshot cannot be played any more (its file is in quarantine). What it has played stays in the
        payoff.
        """
        if number < len(self._side):
            self._side[number] = _ABSENT
            for table, nothing in ((self._allowed, False), (self._urgency, _NEVER)):
                table[number], table[:, number] = nothing, nothing

    def next(self, generator: np.random.Generator) -> tuple[int, int] | None:
        """The most urgent pair; None where every pair has its games or is being played often enough to have
        them, or where there is none.
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
        """Find the most urgent pairs, in random order among equals."""
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
        """So many games of the pair were handed out."""
        self.playing[row, column] += games
        self._refresh(np.array([row]), np.array([column]))

    def ended(self, row: int, column: int, games: int) -> None:
        """So many games that were handed out have come back and are in the payoff, or are lost."""
        self.playing[row, column] -= games
        if self.playing[row, column] <= 0:
            del self.playing[row, column]
        self._refresh(np.array([row]), np.array([column]))

    def pairs(self) -> IntArray:
        """All pairs that the strategy plays, done or not: [K, 2], rows in order."""
        return np.argwhere(self._allowed)

    def _grow(self, size: int) -> None:
        if size > len(self._urgency):
            capacity, old = max(size, 16, int(_GROWTH * len(self._urgency))), len(self._urgency)
            urgency, allowed = np.full((capacity, capacity), _NEVER), np.zeros((capacity, capacity), bool)
            urgency[:old, :old], allowed[:old, :old] = self._urgency, self._allowed
            self._urgency, self._allowed = urgency, allowed

    def _refresh(self, rows: IntArray, columns: IntArray) -> None:
        """Work out anew how urgent some pairs are [K]; those that the strategy does not play stay out."""
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
        """The side of each number. What is being played is not kept: whoever resumes has nothing under way,
        and the pairs come again.
        """
        return {"side": self._side.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Into a strategy without snapshots; the payoff must have been loaded first. Pairs follow from this
        strategy's own settings.
        """
        for number, side in enumerate(np.asarray(state["side"]).tolist()):
            if side != _ABSENT:
                self.add(number, self.sides[side])


class RoundRobin(EvaluationStrategy):
    """Every pair as often as every other."""

    summary = "all pairs, the fewest games first"

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older


class LatestPairs(EvaluationStrategy):
    """Each snapshot against the K that were the newest when it came: the number of pairs grows with the pool,
    not with its square.
    """

    summary = "each new snapshot against the latest K"

    def __init__(self, config: LatestPairsConfig, *rest: Any, **keys: Any) -> None:
        super().__init__(config, *rest, **keys)
        self.count = config.opponents

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older[-self.count :]


class Panel(EvaluationStrategy):
    """Everybody against the same few, so that scores can be compared over time. With several sides the panel
    needs some of each.
    """

    summary = "everybody against a fixed panel"

    def __init__(self, config: PanelConfig, *rest: Any, **keys: Any) -> None:
        super().__init__(config, *rest, **keys)
        self.panel = np.array(config.panel, np.int64)

    def _chosen(self, number: int, older: IntArray) -> IntArray:
        return older if number in self.panel else older[np.isin(older, self.panel)]


class Adaptive(EvaluationStrategy):
    """The pair with the widest interval of its mean score first.

    The interval is that of a Beta posterior after `prior_games` drawn games, m ± z sqrt(m (1 - m) / (n + 1)):
    a pair that is won or lost nearly always is known after few games, an even one takes many. Games that are
    being played narrow it as if m stayed.
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
