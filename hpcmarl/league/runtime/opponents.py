"""Whom a policy meets: frozen policies of the pool, drawn anew for each episode, and what came of it.

Made by league/runtime/client.py for every actor of a team and for every evaluation match; asked by
league/runtime/opponent_env.py. Knows no game and no rank.
"""

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
SELF = ""  # the opponent of an episode in which the policy itself has all seats


class Player(Protocol):
    """What can play a side: an algorithm with parameters loaded, or a rule (league/commands/match.py). As
    algos/base.py has it.
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
    """Episodes against one opponent. score: sum of 1 for each that was won, 0.5 drawn, 0 lost (or of scaled
    returns); own, other: the sides' summed returns, and those of their squares.
    """

    games: int = 0
    score: float = 0.0
    own: float = 0.0
    own_squares: float = 0.0
    other: float = 0.0
    other_squares: float = 0.0

    def add(self, score: float, own: float, other: float) -> None:
        """One episode more."""
        self.games += 1
        self.score += score
        self.own += own
        self.own_squares += own * own
        self.other += other
        self.other_squares += other * other

    def row(self) -> list[float]:
        """All of it, as it travels."""
        return [self.games, self.score, self.own, self.own_squares, self.other, self.other_squares]


class Opponents:
    """Draws from a distribution over snapshots. `at_once` are drawn together and each serves `stay` episodes,
    in random order, before the next are: so the policies of a batch of slots are few, while every snapshot
    gets its share. rules: players by name that are not in the pool.
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
        self.bad: set[str] = set()  # snapshots whose file does not verify
        self.played: dict[str, Played] = {}
        self._hand: list[str] = []  # who plays the coming episodes, the next one last
        self._policies: dict[str, Model] = {}
        self._users: Counter[str] = Counter()
        self._free: list[Model] = []

    def change(self, names: Sequence[str], shares: Array, own_share: float) -> None:
        """From now on draw these with these probabilities (they add up to 1 with `own_share`, that of SELF);
        who plays goes on to the end.
        """
        self.names, self.own_share = tuple(names), float(own_share)
        self.shares = np.asarray(shares, float)
        self._hand = []

    def draw(self) -> str:
        """Who plays the coming episode: a snapshot, or SELF. Each draw must be given back. Raises
        HpcmarlError where no snapshot can be read.
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
                logger.warning("%s; its opponent is another one", error)
                self.bad.add(name)
                self._hand = [other for other in self._hand if other != name]
                continue
            return name

    def _choose(self) -> list[str]:
        """The next `at_once` snapshots, each `stay` times."""
        good = [index for index, name in enumerate(self.names) if name not in self.bad]
        if not good:
            raise HpcmarlError(
                f"{self.pool.directory}: none of the {len(self.names)} opponents can be read; resume the "
                "league when they can"
            )
        limits = np.cumsum(self.shares[good])
        if not limits[-1] > 0.0:
            limits = np.arange(1.0, len(good) + 1.0)
        drawn = np.searchsorted(limits, self.generator.random(self.at_once) * limits[-1], side="right")
        # rounding may have led past the last that can be drawn
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
        """The policy of a snapshot that was drawn and not given back."""
        return self.rules.get(name) or self._policies[name]

    def give_back(self, name: str) -> None:
        """A slot's episode against it is over."""
        if name == SELF:
            return
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            if name in self._policies:
                self._free.append(self._policies.pop(name))

    def record(self, name: str, score: float, own: float, other: float) -> None:
        """An episode's outcome; see Played."""
        self.played.setdefault(name, Played()).add(score, own, other)

    def take_played(self) -> dict[str, Played]:
        """What was recorded since the last call."""
        played, self.played = self.played, {}
        return played
