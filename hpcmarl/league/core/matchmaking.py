"""Matchmakers: the distribution of opponents or partners that a training member meets.

A matchmaker computes a `Mixture` over frozen snapshots and the member itself from a `View` of the league. It
is asked again when the league's state has changed. Actors draw from the mixture for every episode. Each
member has its own matchmaker, since some keep a state. Kinds of members (kinds.py) and PSRO (psro.py) are
matchmakers too.
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

# Drawn instead of a snapshot's number: the member's own present weights play all seats.
SELF = -1


@dataclass(frozen=True)
class View:
    """The information about the league that a matchmaker receives at one moment.

    Attributes:
        candidates: Numbers of the snapshots that the member may meet, oldest first, int64 [C].
        live_score: Mean score of the member against each candidate (`LiveRecord.mean_score`), in [0, 1],
            float64 [C].
        owners: Index of the member that each candidate belongs to, int64 [C].
        member: Index of the member that the mixture is for.
        own: Numbers of the snapshots of the member's own side, oldest first, int64 [R]. In symmetric games
            these are the candidates.
        payoff: Results of the evaluation matches between snapshots.
        kinds: Kind of each member, by index.
        self_play: Whether SELF may be drawn; False in asymmetric games.
        names: Name of each member, by index.
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
    """A distribution over the member itself and snapshots. The probabilities sum to 1.

    Attributes:
        snapshots: Numbers of the snapshots, shape [C].
        weights: Probability of each snapshot, shape [C].
        self_share: Probability of SELF.
    """

    snapshots: IntArray
    weights: Array
    self_share: float

    @cached_property
    def _limits(self) -> Array:
        return np.cumsum(self.weights)

    def draw(self, generator: np.random.Generator) -> int:
        """Draw a snapshot's number or SELF, from one random number."""
        chance = generator.random()
        if chance < self.self_share or not len(self.snapshots):
            return SELF
        place = (chance - self.self_share) / (1.0 - self.self_share) * self._limits[-1]
        index = int(np.searchsorted(self._limits, place, side="right"))
        # Rounding may exceed the last limit. Clip to the last snapshot with a positive probability.
        return int(self.snapshots[min(index, int(np.searchsorted(self._limits, self._limits[-1])))])


def make_mixture(view: View, weights: Array, self_share: float) -> Mixture:
    """Return a mixture from unnormalised weights.

    SELF gets `self_share`. The candidates share the rest in proportion to their weights, or equally if all
    weights are 0. If SELF may not be drawn, its share goes to the newest candidate. Without candidates, all
    of the probability goes to SELF.

    Args:
        view: The league as the member sees it.
        weights: Weights >= 0 of the candidates, shape [C].
        self_share: Probability of SELF.

    Raises:
        ValueError: If there are no candidates and SELF may not be drawn. The pool must hold a snapshot of the
            other side first.
    """
    count = len(view.candidates)
    if count == 0:
        if not view.self_play:
            raise ValueError(
                "no snapshot of the other side exists, and there is no self-play; put one into the pool first"
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
    """Return the weights of opponents in prioritised fictitious self-play (PFSP).

    With x the mean score against an opponent:

        hard           (1 - x)^power      AlphaStar's f_hard
        var            x (1 - x)          AlphaStar's f_var
        linear         1 - x              AlphaStar's pseudocode
        linear_capped  min(0.5, 1 - x)    AlphaStar's pseudocode

    Args:
        score: Mean score against each opponent, in [0, 1], shape [C].
        weighting: Name of the formula.
        power: Exponent of `hard`.

    Returns:
        Unnormalised weights >= 0, shape [C].
    """
    # Sums of decayed games may exceed [0, 1] by rounding.
    lost = np.clip(1.0 - score, 0.0, 1.0)
    if weighting == "hard":
        return lost**power
    if weighting == "var":
        return (1.0 - lost) * lost
    return np.minimum(lost, 0.5 if weighting == "linear_capped" else 1.0)


class Matchmaker(ABC):
    """Rule that selects the opponents of one member.

    `mixture` depends only on the view and on the matchmaker's state. It is cheap enough to be called after
    every change of the league's state.
    """

    summary: ClassVar[str] = ""

    @abstractmethod
    def mixture(self, view: View) -> Mixture:
        """Return the distribution of opponents that the member meets now.

        Raises:
            ValueError: If the member can meet no snapshot and not itself.
        """

    def on_result(self, opponent: int, games: int, score: float) -> None:  # noqa: B027 (most rules keep no state)
        """Record training games of the member against a snapshot. Most rules ignore them.

        Args:
            opponent: Number of the snapshot.
            games: Number of games.
            score: Summed score of the member in these games.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state as arrays and plain values; empty if the rule depends on the view only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore the state."""


class Latest(Matchmaker):
    """Naive self-play: against the present weights or the newest snapshot."""

    summary = "naive self-play: the member itself, or the newest snapshot"

    def __init__(self, config: LatestConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        newest = np.zeros(len(view.candidates))
        newest[-1:] = 1.0
        return make_mixture(view, newest, self.config.self_share)


class Uniform(Matchmaker):
    """Fictitious self-play: a best response to the average of the past.

    Source: Heinrich, Lanctot and Silver 2015.
    """

    summary = "fictitious self-play: all past snapshots with equal probability"

    def __init__(self, config: UniformConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        return make_mixture(view, np.ones(len(view.candidates)), self.config.self_share)


class Pfsp(Matchmaker):
    """Prioritised fictitious self-play of AlphaStar.

    The probability of snapshot B is proportional to f(P[A beats B]), estimated by the live scores of member
    A.
    """

    summary = "prioritised fictitious self-play: snapshots that are hard to beat, or near the member's level"

    def __init__(self, config: PfspConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        return make_mixture(
            view,
            pfsp_weights(view.live_score, self.config.weighting, self.config.power),
            self.config.self_share,
        )


class Partners(Matchmaker):
    """Partners for cooperative games, drawn uniformly.

    A member learns to play with unknown partners.
    """

    summary = "cooperation: partners from the pool with equal probability"

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
    """Train a best response to given policies: the newest snapshot of each of some members.

    Snapshots of other members are never met, even if they join the pool later.
    """

    summary = "always the same members: the newest snapshot of each of them"

    def __init__(self, config: FixedConfig) -> None:
        self.config = config

    def mixture(self, view: View) -> Mixture:
        """Return equal shares for the newest snapshot of each given member.

        Raises:
            HpcmarlError: If none of these members has a snapshot that verifies. Self-play instead would
                silently change the experiment.
        """
        newest = {owner: place for place, owner in enumerate(view.owners.tolist())}
        chosen = np.zeros(len(view.candidates))
        chosen[[place for owner, place in newest.items() if self._is_met(owner, view)]] = 1.0
        if not chosen.any() and self.config.self_share < 1.0:
            names = ", ".join(self.config.against) or "the other members"
            raise HpcmarlError(
                f"league matchmaking fixed: no snapshot of {names} verifies; restore the files in pool/ and "
                "resume, or name other members in against"
            )
        return make_mixture(view, chosen, self.config.self_share)

    def _is_met(self, owner: int, view: View) -> bool:
        return view.names[owner] in self.config.against if self.config.against else owner != view.member


@dataclass
class Quality(Matchmaker):
    """Quality scores of OpenAI Five (arXiv 1912.06680): past snapshots are drawn by softmax(q).

    The q of a new snapshot starts at the highest q of the others. When the member beats snapshot i:

        q_i <- q_i - eta / (N p_i)    N: number of snapshots, p = softmax(q)

    Any other result changes nothing. Two rules are ours:

    - A draw counts as half a victory: a step of half the length.
    - One game lowers a score by at most 1. This concerns only results of snapshots with p_i < eta / N. Such
      results may arrive late, when 1 / p_i has become arbitrarily large.

    Attributes:
        config: Settings; `config.rate` is eta.
        numbers: Numbers of the snapshots, shape [N].
        quality: Quality score q of each snapshot, shape [N].
    """

    config: QualityConfig
    numbers: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    quality: Array = field(default_factory=lambda: np.zeros(0))
    summary: ClassVar[str] = "OpenAI Five: mostly self-play, past snapshots by quality scores"

    def mixture(self, view: View) -> Mixture:
        self._meet(view.candidates)
        return make_mixture(
            view, np.exp(self.quality - self.quality.max(initial=-np.inf)), self.config.self_share
        )

    def _meet(self, candidates: IntArray) -> None:
        """Adopt the present candidates. New ones start at the highest score; missing ones are dropped."""
        if np.array_equal(candidates, self.numbers):
            return
        known = dict(zip(self.numbers.tolist(), self.quality.tolist(), strict=True))
        kept = [known[number] for number in candidates.tolist() if number in known]
        start = max(kept, default=0.0)
        self.quality = np.array([known.get(number, start) for number in candidates.tolist()])
        self.numbers = candidates.copy()

    def on_result(self, opponent: int, games: int, score: float) -> None:
        """Lower the quality of a beaten snapshot.

        Each whole point of the score is one step; the remainder is a partial step.
        """
        place = np.flatnonzero(self.numbers == opponent)
        if not len(place):
            return  # the snapshot has left the pool
        index, count = int(place[0]), len(self.numbers)
        others = np.delete(self.quality, index)
        peak = others.max(initial=-np.inf)
        # Logarithm of the sum of exp(q) over the other snapshots.
        level = peak + np.log(np.exp(others - peak).sum()) if count > 1 else -np.inf
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
