"""PSRO's matchmaker: opponents by the meta-strategy of the game that evaluated snapshots play. Called as
matchmakers are; knows no file or rank.

The rows are the snapshots of the member's own side, the columns the candidates; a cell is the row's mean
score, of which a win is 1. What is drawn from is the columns' mixture: the member trains a best response to
it, and the snapshot of that response enlarges the game (arXiv 1711.00832). A pair that was never played
counts as even (`prior_games` drawn games are added to every pair), so a new snapshot looks like a good
all-rounder until it has been evaluated: the league's server lets no term begin before every pair was played.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from hpcmarl.config.league import PsroConfig
from hpcmarl.league.core.matchmaking import Matchmaker, Mixture, View, make_mixture
from hpcmarl.maths.meta_strategies import alpha_rank, nash, replicator, uniform
from hpcmarl.types import Array, IntArray

# alpha-rank's time rises with the cube of its states: about half a second. Only the newest snapshots that
# make so many states take part.
ALPHA_RANK_STATES = 400


class Psro(Matchmaker):
    """The meta-strategy is solved for when a snapshot has come or gone, or `refresh_games` games were
    evaluated since; a draw costs nothing.
    """

    summary: ClassVar[str] = "policy-space response oracles: the meta-strategy of the evaluated game"

    def __init__(self, config: PsroConfig) -> None:
        self.config = config
        self.weights: Array = np.zeros(0)  # of the candidates, together 1
        self._candidates: IntArray = np.zeros(0, np.int64)
        self._own: IntArray = np.zeros(0, np.int64)
        self._recorded = 0

    def mixture(self, view: View) -> Mixture:
        same = np.array_equal(view.candidates, self._candidates) and np.array_equal(view.own, self._own)
        if not same or view.payoff.recorded - self._recorded >= self.config.refresh_games:
            self.weights = self._solve(view)
            self._candidates, self._own, self._recorded = (
                view.candidates.copy(),
                view.own.copy(),
                view.payoff.recorded,
            )
        return make_mixture(view, self.weights, self.config.self_share)

    def _solve(self, view: View) -> Array:
        own, candidates = view.own, view.candidates
        if not len(own) or not len(candidates):
            return np.ones(len(candidates))
        symmetric = np.array_equal(own, candidates)
        if self.config.meta_strategy == "alpha_rank":
            newest = ALPHA_RANK_STATES if symmetric else math.isqrt(ALPHA_RANK_STATES)
            own, candidates = own[-newest:], candidates[-newest:]
        score = view.payoff.mean_score(own, candidates, prior_games=self.config.prior_games)
        weights = np.zeros(len(view.candidates))
        weights[-len(candidates) :] = self._column_mixture(score, symmetric)
        return weights

    def _column_mixture(self, score: Array, symmetric: bool) -> Array:
        config = self.config
        if config.meta_strategy == "nash":
            return nash(score)[1]
        if config.meta_strategy == "replicator":
            return replicator(score, config.replicator_time)[1]
        if config.meta_strategy == "alpha_rank":
            return alpha_rank(score, config.alpha, config.population, symmetric=symmetric)[1]
        return uniform(score)[1]

    def state_dict(self) -> dict[str, Any]:
        """The solution and what it was solved from, so that a resumed run draws from the same."""
        arrays = {"weights": self.weights, "candidates": self._candidates, "own": self._own}
        return {name: array.copy() for name, array in arrays.items()} | {"recorded": self._recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = np.array(state["weights"], np.float64)
        self._candidates, self._own = (
            np.array(state["candidates"], np.int64),
            np.array(state["own"], np.int64),
        )
        self._recorded = int(state["recorded"])
