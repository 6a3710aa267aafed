"""Matchmaker of PSRO: opponents by the meta-strategy of the game between evaluated snapshots.

Rows of the game are the snapshots of the member's own side, columns are the candidates. A cell is the row's
mean score; a win scores 1. Opponents are drawn from the columns' mixture. The member trains a best response
to that mixture. The snapshot of the response then enlarges the game.

A pair that was never played counts as even, since `prior_games` drawn games are added to every pair. A new
snapshot would therefore look like a good all-rounder until it has been evaluated. For this reason, the
league's server starts no assignment before every pair was played.

Source: Lanctot et al. 2017 (arXiv 1711.00832).
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

# Largest number of states of alpha-rank; if there are more, only the newest snapshots take part.
# Its time rises with the cube of the states and is about half a second for this number.
ALPHA_RANK_STATES = 400


class Psro(Matchmaker):
    """Policy-space response oracles: draw opponents from a meta-strategy.

    The meta-strategy is computed again when a snapshot has come or gone, or after `refresh_games` more
    evaluated games. A draw does no such computation.

    Attributes:
        config: Settings.
        weights: Probability of each candidate, shape [C].
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
        """Return the solution and its inputs, so that a resumed run draws from the same mixture."""
        arrays = {"weights": self.weights, "candidates": self._candidates, "own": self._own}
        return {name: array.copy() for name, array in arrays.items()} | {"recorded": self._recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = np.array(state["weights"], np.float64)
        self._candidates, self._own = (
            np.array(state["candidates"], np.int64),
            np.array(state["own"], np.int64),
        )
        self._recorded = int(state["recorded"])
