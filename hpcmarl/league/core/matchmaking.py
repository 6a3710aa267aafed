"""Which opponent, or partner, a training member meets: a distribution over frozen snapshots and over itself
(`Mixture`), from what is known (`View`).

Called by the league's server, once whenever something has changed; actors draw from the mixture for every
episode. Knows no file, rank or network. A member has a matchmaker of its own: some keep a state. Kinds of
members (kinds.py) and psro.py are matchmakers, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from hpcmarl.config.league import (
    FixedConfig,
    LatestConfig,
    PartnersConfig,
    PfspConfig,
    QualityConfig,
    UniformConfig,
)
from hpcmarl.errors import HpcmarlError
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.types import Array, IntArray

SELF = -1  # drawn in place of a snapshot's number: the member's own present weights play all seats


@dataclass(frozen=True)
class View:
    """What a matchmaker may know of the league at one moment.

    candidates [C] int64: numbers of the snapshots that the member may meet, in order of age (the newest last)
    live_score [C] float64 in [0, 1]: the training member's mean score against each of them
    (`LiveRecord.mean_score`) owners [C] int64: which member each of them was; `member` is the one that asks,
    `kinds[i]` the kind of member i own [R] int64: snapshots of the side that the member plays, in order of
    age (symmetric games: the candidates)
    payoff: what was evaluated between snapshots       self_play: whether SELF may be drawn (not in asymmetric
        games)
    names[i]: of member i
    """

    candidates: IntArray
    live_score: Array
    owners: IntArray
    member: int
    own: IntArray
    payoff: Payoff
    kinds: tuple[str, ...] = ()
    self_play: bool = True
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mixture:
    """A distribution: SELF with probability self_share, snapshots[i] with probability weights[i]; together
    1.
    """

    snapshots: IntArray
    weights: Array
    self_share: float

    @cached_property
    def _limits(self) -> Array:
        return np.cumsum(self.weights)

    def draw(self, generator: np.random.Generator) -> int:
        """A snapshot's number or SELF, from one random number."""
        chance = generator.random()
        if chance < self.self_share or not len(self.snapshots):
            return SELF
        place = (chance - self.self_share) / (1.0 - self.self_share) * self._limits[-1]
        index = int(np.searchsorted(self._limits, place, side="right"))
        # rounding may have led past the last limit: to the last snapshot that can be drawn
        return int(self.snapshots[min(index, int(np.searchsorted(self._limits, self._limits[-1])))])


def make_mixture(view: View, weights: Array, self_share: float) -> Mixture:
    """SELF with self_share, the candidates share the rest in proportion to weights [C] >= 0; alike where all
    weights vanish.

    Where SELF may not be drawn its share goes to the newest candidate, where there are no candidates theirs
    goes to SELF. Raises ValueError where there is neither: the pool must hold a snapshot of the other side
    first.
    """
    count = len(view.candidates)
    if count == 0:
        if not view.self_play:
            raise ValueError(
                "there is no snapshot to meet and no self-play: put one of the other side into the pool first"
            )
        return Mixture(view.candidates, np.zeros(0), 1.0)
    total = float(weights.sum())
    shares = (
        weights * ((1.0 - self_share) / total)
        if total > 1e-10
        else np.full(count, (1.0 - self_share) / count)
    )
    if not view.self_play and self_share:
        shares = shares.copy()
        shares[-1] += self_share
        self_share = 0.0
    return Mixture(view.candidates, shares, self_share)


def pfsp_weights(score: Array, weighting: str, power: float = 2.0) -> Array:
    """PFSP's weights [C] of opponents against which the mean score is x [C]: AlphaStar's f_hard, f_var and
    those of its pseudocode.
    """
    lost = np.clip(1.0 - score, 0.0, 1.0)  # sums of decayed games may leave [0, 1] in the last digit
    if weighting == "hard":
        return lost**power
    if weighting == "var":
        return (1.0 - lost) * lost
    return np.minimum(lost, 0.5 if weighting == "linear_capped" else 1.0)


class Matchmaker(ABC):
    """One member's rule. `mixture` depends on the view and on the state alone; it is cheap enough to be asked
    for at every change.
    """

    summary: ClassVar[str] = ""

    @abstractmethod
    def mixture(self, view: View) -> Mixture:
        """Whom the member is to meet. Raises ValueError where there is nobody."""

    def on_result(self, opponent: int, games: int, score: float) -> None:  # noqa: B027 (most rules keep no state)
        """The training member has played so many games against this snapshot, with so much score in all."""

    def state_dict(self) -> dict[str, Any]:
        """Arrays and plain values; empty where everything follows from the view."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Continue where the state was."""


class Latest(Matchmaker):
    """Naive self-play: against the present weights, or the newest snapshot."""

    summary = "naive self-play: the member itself, or the newest snapshot"

    def __init__(self, config: LatestConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        newest = np.zeros(len(view.candidates))
        newest[-1:] = 1.0
        return make_mixture(view, newest, self.config.self_share)


class Uniform(Matchmaker):
    """Fictitious self-play (Heinrich, Lanctot and Silver 2015): a best response to the average of the
    past.
    """

    summary = "fictitious self-play: all of the past alike"

    def __init__(self, config: UniformConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        return make_mixture(view, np.ones(len(view.candidates)), self.config.self_share)


class Pfsp(Matchmaker):
    """Prioritised fictitious self-play (AlphaStar): P(B) in proportion to f(P[A beats B]), by the live
    scores.
    """

    summary = "prioritised fictitious self-play: those that are hard, or near the member's own level"

    def __init__(self, config: PfspConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        return make_mixture(
            view,
            pfsp_weights(view.live_score, self.config.weighting, self.config.power),
            self.config.self_share,
        )


class Partners(Matchmaker):
    """Cooperative games: partners at random, so that a team of strangers is what is trained for."""

    summary = "cooperation: partners from the pool, alike"

    def __init__(self, config: PartnersConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        chosen = (
            np.ones(len(view.candidates), bool) if self.config.pool == "all" else view.owners != view.member
        )
        if view.self_play and not chosen.any():
            return Mixture(view.candidates, np.zeros(len(chosen)), 1.0)
        return make_mixture(view, chosen.astype(np.float64), self.config.self_share)


class Fixed(Matchmaker):
    """A best response to given policies: the newest snapshot of each of some members, and nobody else,
    whatever comes into the pool.
    """

    summary = "always the same members: the newest snapshot of each of them"

    def __init__(self, config: FixedConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        """Raises HpcmarlError where none of them has a snapshot: playing against itself instead would be
        another experiment.
        """
        newest = {owner: place for place, owner in enumerate(view.owners.tolist())}
        chosen = np.zeros(len(view.candidates))
        chosen[[place for owner, place in newest.items() if self._is_met(owner, view)]] = 1.0
        if not chosen.any() and self.config.self_share < 1.0:
            who = ", ".join(self.config.against) or "the other members"
            raise HpcmarlError(
                f"league matchmaking fixed: no snapshot of {who} verifies; resume with good files in pool/, "
                "or name others"
            )
        return make_mixture(view, chosen, self.config.self_share)

    def _is_met(self, owner: int, view: View) -> bool:
        return view.names[owner] in self.config.against if self.config.against else owner != view.member


@dataclass
class Quality(Matchmaker):
    """OpenAI Five's quality scores (arXiv 1912.06680): the past by softmax(q); each q starts at the highest
    of the others.

    When snapshot i is beaten  q_i <- q_i - eta / (N p_i)  with N the number of snapshots and p = softmax(q);
        nothing changes otherwise.
    Ours: a draw counts as half a victory (as a step of half the length), and one game lowers no score by more
    than 1, which concerns results of snapshots with p_i < eta / N only: their number may come late, when 1 /
    p_i has grown beyond all bounds.

    symbol -> variable -> shape: q -> quality -> [N], eta -> config.rate, numbers of the snapshots -> numbers
        -> [N]
    """

    config: QualityConfig
    numbers: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    quality: Array = field(default_factory=lambda: np.zeros(0))
    summary: ClassVar[str] = "OpenAI Five: mostly itself, the past by quality scores"

    def mixture(self, view: View) -> Mixture:
        self._meet(view.candidates)
        return make_mixture(
            view, np.exp(self.quality - self.quality.max(initial=-np.inf)), self.config.self_share
        )

    def _meet(self, candidates: IntArray) -> None:
        """Those that are new start at the highest score so far; those that are gone are forgotten."""
        if np.array_equal(candidates, self.numbers):
            return
        known = dict(zip(self.numbers.tolist(), self.quality.tolist(), strict=True))
        kept = [known[number] for number in candidates.tolist() if number in known]
        start = max(kept, default=0.0)
        self.quality = np.array([known.get(number, start) for number in candidates.tolist()])
        self.numbers = candidates.copy()

    def on_result(self, opponent: int, games: int, score: float) -> None:
        """Each whole point of the score is a victory; what is left is part of one."""
        place = np.flatnonzero(self.numbers == opponent)
        if not len(place):
            return  # it has left the pool
        index, count = int(place[0]), len(self.numbers)
        others = np.delete(self.quality, index)
        peak = others.max(initial=-np.inf)
        level = peak + np.log(np.exp(others - peak).sum()) if count > 1 else -np.inf  # log of the others' sum
        own = float(self.quality[index])
        left = float(score)
        while left > 0:
            # p_i = 1 / (1 + exp(level - own))
            step = self.config.rate / count * (1.0 + np.exp(min(level - own, 700.0)))
            own -= min(left, 1.0) * min(step, 1.0)
            left -= 1.0
        self.quality[index] = own

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self.numbers.copy(), "quality": self.quality.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.numbers, self.quality = (
            np.array(state["numbers"], np.int64),
            np.array(state["quality"], np.float64),
        )
