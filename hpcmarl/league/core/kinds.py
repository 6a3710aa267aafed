"""AlphaStar's kinds of members: main agent, main exploiter and league exploiter.

A kind is a matchmaker that also decides when its member is frozen. After each snapshot it decides whether the
member restarts from initial weights.

In an asymmetric game, "mains" are the mains of the other side, and there is no self-play.

Source: Vinyals et al. 2019 (Nature 575), supplementary pseudocode. Two differences follow from the fact that
members here meet frozen snapshots:

- "The present main" is the newest snapshot of that main. Only a main's own present weights are played
  directly, as SELF.
- AlphaStar draws a main first and then a branch. Here the mixture is the average over the mains.

Names in the pseudocode and here:

    remove_monotonic_suffix    -> _before_the_descent
    main agents                -> members of kind "main"
    players created by m       -> snapshots with owners == m
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from hpcmarl.config.league import FreezeConfig, LeagueExploiterConfig, MainConfig, MainExploiterConfig
from hpcmarl.league.core.matchmaking import Matchmaker, Mixture, View, make_mixture, pfsp_weights
from hpcmarl.types import Array, BoolArray, IntArray


class MemberKind(Matchmaker):
    """Base class of kinds: a matchmaker that also decides about freezing and resets.

    Args:
        freeze: Conditions under which the member is frozen.
        reset_chance: Probability of a reset to initial weights after each snapshot.
    """

    def __init__(self, freeze: FreezeConfig, reset_chance: float) -> None:
        self.freeze = freeze
        self.reset_chance = reset_chance

    @abstractmethod
    def measured_against(self, view: View) -> BoolArray:
        """Return which candidates the member must beat to be frozen before its assignment ends.

        Args:
            view: The league as the member sees it.

        Returns:
            Mask of the candidates, shape [C].
        """

    def may_freeze(self, view: View, updates: int) -> bool:
        """Return whether the member becomes a snapshot now.

        Args:
            view: The league as the member sees it.
            updates: Updates since the member's last snapshot, or since the start of its generation.

        Returns:
            True after `freeze.most_updates`. Between `freeze.least_updates` and that, True if the live score
            against every required candidate is above `freeze.winning`.
        """
        if updates < self.freeze.least_updates:
            return False
        scores = view.live_score[self.measured_against(view)]
        return bool(
            updates >= self.freeze.most_updates or (len(scores) > 0 and scores.min() > self.freeze.winning)
        )

    def resets(self, generator: np.random.Generator) -> bool:
        """Draw whether the member returns to its initial weights. Called once after each snapshot."""
        return bool(generator.random() < self.reset_chance)


class Main(MemberKind):
    """Main agent: 35 % self-play, 50 % PFSP over the pool and 15 % verification.

    Verification games are against exploiters that beat the member and against forgotten snapshots of mains.
    If there are neither, their share goes to self-play. In a league with several mains, the self-play share
    is split between all of them. The member plays the past of a main that is too strong, by PFSP (var). A
    main is never reset. The percentages are defaults (`pfsp_share`, `verification_share`).
    """

    summary = "main agent: self-play, PFSP over the pool, exploiters and forgotten snapshots"

    def __init__(self, config: MainConfig) -> None:
        super().__init__(config.freeze, 0.0)
        self.config = config

    def measured_against(self, view: View) -> BoolArray:
        return np.ones(len(view.candidates), bool)

    def mixture(self, view: View) -> Mixture:
        if not len(view.candidates):
            return make_mixture(view, np.zeros(0), 1.0)
        config = self.config
        weights = config.pfsp_share * _shares(pfsp_weights(view.live_score, "hard", config.power))
        own_share = 0.0
        rest = 1.0 - config.pfsp_share
        verified = min(config.verification_share, rest)
        mains = _mains(view, with_itself=True)
        for main in mains:
            share = 1.0 / len(mains)
            verification = self._verification(view, main)
            played = rest * share
            if verification is not None:
                weights += verified * share * verification
                played -= verified * share
            if main == view.member and view.self_play:
                own_share += played
            else:
                weights += played * _meeting(view, main, config.too_strong)
        return make_mixture(view, weights, own_share)

    def _verification(self, view: View, main: int) -> Array | None:
        """Return the distribution of verification games for one main.

        Returns:
            Shares of the candidates, shape [C]: exploiters if one of them beats the member, otherwise
            forgotten snapshots of `main`. None if there are neither.
        """
        exploiters = _of_kind(view, "main_exploiter")
        if exploiters.any() and view.live_score[exploiters].min() < self.config.exploited:
            return _shares(pfsp_weights(view.live_score, "hard", self.config.power), exploiters)
        past = _before_the_descent(np.flatnonzero(view.owners == main), view.live_score)
        if len(past) and view.live_score[past].min() < self.config.forgotten:
            chosen = np.zeros(len(view.candidates), bool)
            chosen[past] = True
            return _shares(pfsp_weights(view.live_score, "hard", self.config.power), chosen)
        return None


class MainExploiter(MemberKind):
    """Main exploiter: meets the newest snapshot of each main.

    A main against which it wins at most 10 % (`too_strong`) is replaced by that main's past, drawn by PFSP
    (var). By default the member is reset after each snapshot.
    """

    summary = "main exploiter: trains against the present mains"

    def __init__(self, config: MainExploiterConfig) -> None:
        super().__init__(config.freeze, config.reset)
        self.config = config

    def measured_against(self, view: View) -> BoolArray:
        newest = np.zeros(len(view.candidates), bool)
        for main in _mains(view, with_itself=False):
            newest[np.flatnonzero(view.owners == main)[-1]] = True
        return newest

    def mixture(self, view: View) -> Mixture:
        mains = _mains(view, with_itself=False)
        weights = np.zeros(len(view.candidates))
        for main in mains:
            weights += _meeting(view, main, self.config.too_strong)
        return make_mixture(view, weights, 0.0)


class LeagueExploiter(MemberKind):
    """League exploiter: PFSP over the whole pool. By default, a reset follows one snapshot in four."""

    summary = "league exploiter: trains against the whole pool"

    def __init__(self, config: LeagueExploiterConfig) -> None:
        super().__init__(config.freeze, config.reset)
        self.config = config

    def measured_against(self, view: View) -> BoolArray:
        return np.ones(len(view.candidates), bool)

    def mixture(self, view: View) -> Mixture:
        return make_mixture(
            view, pfsp_weights(view.live_score, self.config.weighting, self.config.power), 0.0
        )


def _of_kind(view: View, kind: str) -> BoolArray:
    """Return which candidates were made by members of a kind: mask of shape [C]."""
    return np.isin(view.owners, [member for member, other in enumerate(view.kinds) if other == kind])


def _mains(view: View, *, with_itself: bool) -> list[int]:
    """Return the indices of the mains that have a snapshot among the candidates, in ascending order.

    Args:
        view: The league as the member sees it.
        with_itself: Also include the member itself if self-play is allowed, even if it has no snapshot.
    """
    found = set(np.unique(view.owners[_of_kind(view, "main")]).tolist())
    if with_itself and view.self_play:
        found.add(view.member)
    return sorted(found)


def _shares(weights: Array, chosen: BoolArray | None = None) -> Array:
    """Normalise the weights of the chosen candidates to a sum of 1.

    Args:
        weights: Weights >= 0, shape [C].
        chosen: Mask of shape [C]; None: all.

    Returns:
        Shares, shape [C]; equal shares for the chosen candidates if their weights sum to 0.
    """
    kept = weights if chosen is None else np.where(chosen, weights, 0.0)
    total = float(kept.sum())
    if total > 1e-10:
        return kept / total
    return np.full(len(weights), 1.0 / len(weights)) if chosen is None else chosen / chosen.sum()


def _meeting(view: View, main: int, too_strong: float) -> Array:
    """Return how games against one main are distributed over its snapshots.

    Returns:
        Shares, shape [C]. The newest snapshot has all of them if the live score against it is above
        `too_strong`. Otherwise PFSP (var) distributes them over all snapshots of the main.
    """
    theirs = view.owners == main
    newest = int(np.flatnonzero(theirs)[-1])
    if view.live_score[newest] > too_strong:
        theirs = np.arange(len(theirs)) == newest
    return _shares(pfsp_weights(view.live_score, "var"), theirs)


def _before_the_descent(past: IntArray, live_score: Array) -> IntArray:
    """Return a main's snapshots up to the last one that is beaten more often than the one before it.

    The member's scores normally fall from the oldest snapshot to the newest. If a score rises from one
    snapshot to the next, the older one is harder than expected: the member may have forgotten how to beat it.

    Args:
        past: Places of the main's snapshots among the candidates, in order of age, shape [K].
        live_score: Live scores against all candidates, shape [C].

    Returns:
        A prefix of `past`; empty if the scores never rise.
    """
    rises = np.flatnonzero(np.diff(live_score[past]) > 0)
    return past[: rises[-1] + 2] if len(rises) else past[:0]
