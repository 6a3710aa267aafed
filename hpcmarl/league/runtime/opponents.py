"""Opponents from the pool, drawn for each episode, and the results against them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpcmarl.algos.model import Model
from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.pool import Pool
from hpcmarl.types import Array, Decision, FloatArray, Frame

logger = logging.getLogger(__name__)
SELF = ""  # name of the opponent if the policy itself has all seats


class Player(Protocol):
    """A player of a side: a model with loaded parameters, or a rule (league/commands/match.py).

    The members are those of `Model` (algos/model.py).
    """

    needs_state: bool

    def act(
        self,
        frame: Frame,
        memory: Mapping[str, FloatArray],
        generator: np.random.Generator,
        greedy: bool = False,
        with_logp: bool = True,
    ) -> dict[str, Decision]: ...

    def initial_memory(self, slots: int) -> dict[str, FloatArray]: ...


@dataclass
class Played:
    """Summed results of episodes against one opponent.

    Attributes:
        games: Number of episodes.
        score: Summed score: 1 for a win, 0.5 for a draw, 0 for a loss, or a scaled return.
        own: Summed return of the own side.
        own_squares: Sum of the squares of these returns.
        other: Summed return of the other side.
        other_squares: Sum of the squares of these returns.
    """

    games: int = 0
    score: float = 0.0
    own: float = 0.0
    own_squares: float = 0.0
    other: float = 0.0
    other_squares: float = 0.0

    def add(self, score: float, own: float, other: float) -> None:
        """Add one episode."""
        self.games += 1
        self.score += score
        self.own += own
        self.own_squares += own * own
        self.other += other
        self.other_squares += other * other

    def row(self) -> list[float]:
        """Return all sums in the order of the attributes, for messages."""
        return [self.games, self.score, self.own, self.own_squares, self.other, self.other_squares]


class Opponents:
    """Draws opponents from a distribution over snapshots and records results.

    `at_once` snapshots are drawn together, and each serves `stay` episodes, in random order. Then the next
    ones are drawn. So a batch of slots needs few policies, while every snapshot gets its share of episodes.

    Args:
        pool: Pool with the snapshots.
        make: Function that returns a model for the opponents' side.
        generator: Random generator for the draws.
        at_once: Number of snapshots drawn together.
        stay: Number of episodes that each drawn snapshot serves.
        rules: Players by name that are not in the pool.

    Attributes:
        bad: Names of snapshots whose files do not verify.
        played: Results against each opponent since the last `take_played`.
    """

    def __init__(
        self,
        pool: Pool,
        make: Callable[[], Model],
        generator: np.random.Generator,
        at_once: int = 4,
        stay: int = 4,
        rules: Mapping[str, Player] | None = None,
    ) -> None:
        self.pool, self.make, self.generator, self.rules = pool, make, generator, rules or {}
        self.at_once, self.stay = at_once, stay
        self.names: tuple[str, ...] = ()
        self.shares: Array = np.zeros(0)
        self.own_share = 0.0
        self.bad: set[str] = set()
        self.played: dict[str, Played] = {}
        self._hand: list[str] = []  # opponents of the next episodes; the last entry is used first
        self._policies: dict[str, Model] = {}
        self._users: Counter[str] = Counter()
        self._free: list[Model] = []

    def change(self, names: Sequence[str], shares: Array, own_share: float) -> None:
        """Replace the distribution. Opponents in running episodes play these to the end.

        Args:
            names: Names of snapshots.
            shares: Probability of each snapshot. They sum to 1 together with `own_share`.
            own_share: Probability of SELF.
        """
        self.names, self.own_share = tuple(names), float(own_share)
        self.shares = np.asarray(shares, float)
        self._hand = []

    def draw(self) -> str:
        """Return the opponent of the next episode: the name of a snapshot, or SELF.

        Pass each result to `give_back` when its episode is over.

        Raises:
            HpcmarlError: If no snapshot of the distribution can be read.
        """
        if self.own_share > 0.0 and self.generator.random() < self.own_share:
            return SELF
        while True:
            if not self._hand:
                self._hand = self._choose()
            name = self._hand.pop()
            try:
                self._take(name)
            except FormatError as error:
                logger.warning("%s; another opponent is drawn", error)
                self.bad.add(name)
                self._hand = [other for other in self._hand if other != name]
                continue
            return name

    def _choose(self) -> list[str]:
        """Draw the next `at_once` snapshots, each `stay` times, in random order."""
        good = [index for index, name in enumerate(self.names) if name not in self.bad]
        if not good:
            raise HpcmarlError(
                f"{self.pool.directory}: none of the {len(self.names)} opponents can be read; make their "
                "files readable, then resume the league"
            )
        limits = np.cumsum(self.shares[good])
        if not limits[-1] > 0.0:
            limits = np.arange(1.0, len(good) + 1.0)
        drawn = np.searchsorted(limits, self.generator.random(self.at_once) * limits[-1], side="right")
        # Rounding may exceed the last limit. Clip to the last snapshot with a positive probability.
        drawn = np.minimum(drawn, np.searchsorted(limits, limits[-1]))
        return [
            self.names[good[index]]
            for index in self.generator.permutation(np.repeat(drawn, self.stay)).tolist()
        ]

    def _take(self, name: str) -> None:
        if name not in self._policies and name not in self.rules:
            policy = self._free.pop() if self._free else self.make()
            try:
                policy.load_parameters(self.pool.parameters(name, policy.size))
            except FormatError:
                self._free.append(policy)
                raise
            self._policies[name] = policy
        self._users[name] += 1

    def policy(self, name: str) -> Player:
        """Return the player for a name that was drawn and not yet given back."""
        return self.rules.get(name) or self._policies[name]

    def give_back(self, name: str) -> None:
        """End the use of a drawn opponent in one slot."""
        if name == SELF:
            return
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            if name in self._policies:
                self._free.append(self._policies.pop(name))

    def record(self, name: str, score: float, own: float, other: float) -> None:
        """Add the result of one episode against an opponent; see `Played`."""
        self.played.setdefault(name, Played()).add(score, own, other)

    def take_played(self) -> dict[str, Played]:
        """Return the results since the last call, by opponent."""
        played, self.played = self.played, {}
        return played
