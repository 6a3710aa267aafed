"""AlphaStar's kinds of members: whom each meets, when it is frozen, and whether it starts anew then.
Matchmakers with two more questions.

Called by the league's server; knows no file, rank or network. Source: Vinyals et al. 2019 (Nature 575), the
supplementary pseudocode. Two differences, both since members here meet frozen snapshots: "the present main"
is its newest snapshot (a main's own present weights are SELF), and where AlphaStar draws a main first and
then a branch, the mixture is the average over the mains. In an asymmetric game the mains are those of the
other side, and there is no self-play.

    remove_monotonic_suffix -> _before_the_descent    main agents -> kind "main"    players created by m ->
        snapshots with owners == m
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from hpcmarl.config.league import FreezeConfig, LeagueExploiterConfig, MainConfig, MainExploiterConfig
from hpcmarl.league.core.matchmaking import Matchmaker, Mixture, View, make_mixture, pfsp_weights
from hpcmarl.types import Array, BoolArray, IntArray


class MemberKind(Matchmaker):
    """What a kind of member adds to a matchmaker."""

    def __init__(self, freeze: FreezeConfig, reset_chance: float) -> None:
        self.freeze = freeze
        self.reset_chance = reset_chance

    @abstractmethod
    def measured_against(self, view: View) -> BoolArray:
        """The candidates [C] that the member must beat to be frozen before its time is out."""

    def may_freeze(self, view: View, updates: int) -> bool:
        """Whether the member becomes a snapshot now, so many updates after the last one (or after its
        beginning).
        """
        if updates < self.freeze.least_updates:
            return False
        scores = view.live_score[self.measured_against(view)]
        return bool(
            updates >= self.freeze.most_updates or (len(scores) > 0 and scores.min() > self.freeze.winning)
        )

    def resets(self, generator: np.random.Generator) -> bool:
        """Whether the member goes back to its initial weights, asked once after each snapshot."""
        return bool(generator.random() < self.reset_chance)


class Main(MemberKind):
    """35 % self-play, 50 % PFSP over the whole pool, 15 % against exploiters that beat it and mains it has
    forgotten (else self-play).

    The self-play of a league with several mains is with each of them; one that is too strong is met through
    its past (PFSP var). It is never reset.
    """

    summary = "main agent: self-play, PFSP over all, and what it has forgotten"

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
        """Shares [C] of exploiters that beat the member, else of forgotten snapshots of the main; None where
        there are neither.
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
    """The newest of each main where it wins more than 10 %, else PFSP var through that main's past. By
    default reset at each snapshot.
    """

    summary = "main exploiter: looks for what beats the present mains"

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
    """PFSP over the whole pool. By default one snapshot in four is followed by a reset."""

    summary = "league exploiter: looks for what beats everybody"

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
    """Which candidates [C] were made by members of a kind."""
    return np.isin(view.owners, [member for member, other in enumerate(view.kinds) if other == kind])


def _mains(view: View, *, with_itself: bool) -> list[int]:
    """The mains that have a snapshot among the candidates; a main that asks is one of them where it may play
    itself, even without one.
    """
    found = set(np.unique(view.owners[_of_kind(view, "main")]).tolist())
    if with_itself and view.self_play:
        found.add(view.member)
    return sorted(found)


def _shares(weights: Array, chosen: BoolArray | None = None) -> Array:
    """Weights [C] >= 0 of the chosen ones, together 1; alike where they vanish."""
    kept = weights if chosen is None else np.where(chosen, weights, 0.0)
    total = float(kept.sum())
    if total > 1e-10:
        return kept / total
    return np.full(len(weights), 1.0 / len(weights)) if chosen is None else chosen / chosen.sum()


def _meeting(view: View, main: int, too_strong: float) -> Array:
    """Shares [C]: all to the newest snapshot of `main`, or PFSP var over all of its snapshots where the score
    against the newest is too low.
    """
    theirs = view.owners == main
    newest = int(np.flatnonzero(theirs)[-1])
    if view.live_score[newest] > too_strong:
        theirs = np.arange(len(theirs)) == newest
    return _shares(pfsp_weights(view.live_score, "var"), theirs)


def _before_the_descent(past: IntArray, live_score: Array) -> IntArray:
    """Of a main's snapshots in order of age [K], those up to the last that is beaten more often than the one
    before it.

    Scores fall towards the newest by nature; where they rise again, something older is harder than it ought
    to be: forgotten.
    """
    rises = np.flatnonzero(np.diff(live_score[past]) > 0)
    return past[: rises[-1] + 2] if len(rises) else past[:0]
