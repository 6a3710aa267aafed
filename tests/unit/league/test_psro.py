"""PSRO's matchmaker in games with a known solution.

A whole double oracle plays rock-paper-scissors.
"""

import numpy as np
import pytest

from hpcmarl.league.core import psro
from hpcmarl.league.core.matchmaking import SELF, View
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.maths.meta_strategies import alpha_rank, exploitability_of_mixture
from hpcmarl.packing import pack, unpack
from tests.support.matchmaking import probabilities, section

pytest.importorskip("scipy")
from hpcmarl.league.core.registry import make_matchmaker

SOLVERS = ["uniform", "nash", "replicator", "alpha_rank"]


def played(score, games=1000):
    """Return a payoff in which row i had score[i, j] against column j in every game; NaN: never played."""
    payoff = Payoff()
    payoff.grow(len(score))
    for i, j in np.argwhere(~np.isnan(score)):
        if i < j:
            payoff.record(int(i), int(j), games, score[i, j] * games, 0.0, 0.0, 0.0, 0.0)
    return payoff


def view(payoff, own=None, candidates=None, self_play=True):
    everybody = np.arange(payoff.size)
    candidates = everybody if candidates is None else np.asarray(candidates)
    own = everybody if own is None else np.asarray(own)
    return View(
        candidates,
        np.full(len(candidates), 0.5),
        np.zeros(len(candidates), int),
        0,
        own,
        payoff,
        self_play=self_play,
    )


# Rock, paper, scissors, and a fourth strategy that loses to all three.
GAME = np.array([[0.5, 0, 1, 1], [1, 0.5, 0, 1], [0, 1, 0.5, 1], [0, 0, 0, 0.5]])


@pytest.mark.parametrize("solver", SOLVERS)
def test_psro_weights_equal_the_meta_strategy(solver):
    mixture = make_matchmaker(section(name="psro", meta_strategy=solver, self_share=0.2)).mixture(
        view(played(GAME))
    )
    expected = [0.2] * 4 if solver == "uniform" else [0.8 / 3] * 3 + [0.0]
    np.testing.assert_allclose(mixture.weights, expected, atol=0.01)
    assert mixture.self_share == 0.2


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_asymmetric_psro_uses_the_mixture_of_the_other_side(solver):
    """Rows 3 and 1 have no answer to column 4; column 0 loses to both rows, column 2 to one."""
    score = np.full((5, 5), np.nan)
    for row, column, value in [(1, 0, 1.0), (3, 0, 1.0), (1, 2, 1.0), (3, 2, 0.5), (1, 4, 0.0), (3, 4, 0.0)]:
        score[min(row, column), max(row, column)] = value if row < column else 1 - value
    seen = view(played(score), own=[1, 3], candidates=[0, 2, 4], self_play=False)
    drawn = probabilities(make_matchmaker(section(name="psro", meta_strategy=solver)).mixture(seen))
    assert drawn == pytest.approx({SELF: 0.0, 0: 0.0, 2: 0.0, 4: 1.0}, abs=0.02)


def test_unplayed_pairs_count_as_even():
    score = GAME.copy()
    score[:, 3] = score[3, :] = np.nan
    drawn = make_matchmaker(section(name="psro", meta_strategy="nash", prior_games=1e-6)).mixture(
        view(played(score))
    )
    assert exploitability_of_mixture(
        np.where(np.isnan(score), 0.5, score), drawn.weights, drawn.weights
    ) == pytest.approx(0.0, abs=1e-3)
    nothing = make_matchmaker(section(name="psro", meta_strategy="nash")).mixture(
        view(played(np.full((5, 5), np.nan)))
    )
    np.testing.assert_allclose(nothing.weights, 0.2)


def test_meta_strategy_is_recomputed_on_new_pool_or_games(monkeypatch):
    solved = []
    monkeypatch.setattr(
        psro,
        "nash",
        lambda score: solved.append(score.shape) or (None, np.full(score.shape[1], 1 / score.shape[1])),
    )
    payoff = played(GAME)
    matchmaker = make_matchmaker(section(name="psro", refresh_games=10))
    for _ in range(5):
        matchmaker.mixture(view(payoff))
    payoff.record(0, 1, 9, 9.0, 0.0, 0.0, 0.0, 0.0)
    matchmaker.mixture(view(payoff))
    again = make_matchmaker(section(name="psro", refresh_games=10))
    again.load_state_dict(unpack(pack(matchmaker.state_dict())))
    assert probabilities(again.mixture(view(payoff))) == probabilities(matchmaker.mixture(view(payoff)))
    assert solved == [(4, 4)]
    payoff.record(0, 1, 1, 1.0, 0.0, 0.0, 0.0, 0.0)
    matchmaker.mixture(view(payoff))
    assert solved == [(4, 4)] * 2
    payoff.grow(5)
    matchmaker.mixture(view(payoff))
    assert solved[2:] == [(5, 5)]


def test_alpha_rank_uses_only_the_newest_of_large_pools(monkeypatch):
    rng = np.random.default_rng(0)
    score = 0.5 + np.triu(rng.uniform(-0.5, 0.5, (12, 12)), 1)
    payoff = played(score, 10)
    monkeypatch.setattr(psro, "ALPHA_RANK_STATES", 9)
    mixture = make_matchmaker(section(name="psro", meta_strategy="alpha_rank", alpha=1.0)).mixture(
        view(payoff)
    )
    newest = np.arange(3, 12)
    expected = alpha_rank(payoff.mean_score(newest, newest, prior_games=1.0), 1.0, 50, symmetric=True)[0]
    np.testing.assert_allclose(mixture.weights, np.append(np.zeros(3), expected))
    sides = view(payoff, own=[0, 2, 4, 6, 8], candidates=[1, 3, 5, 7], self_play=False)
    mixture = make_matchmaker(section(name="psro", meta_strategy="alpha_rank", alpha=1.0)).mixture(sides)
    expected = alpha_rank(payoff.mean_score([4, 6, 8], [3, 5, 7], prior_games=1.0), 1.0, 50, symmetric=False)[
        1
    ]
    np.testing.assert_allclose(mixture.weights, np.append(0.0, expected))


def test_psro_without_own_snapshots_is_uniform():
    sides = view(played(GAME), own=[], candidates=[1, 3], self_play=False)
    assert probabilities(make_matchmaker(section(name="psro")).mixture(sides)) == {SELF: 0.0, 1: 0.5, 3: 0.5}
    assert make_matchmaker(section(name="psro")).mixture(view(Payoff())).self_share == 1.0


@pytest.mark.parametrize(("solver", "more"), [("nash", 6), ("replicator", 6), ("alpha_rank", 2)])
def test_psro_best_responses_reach_the_rps_equilibrium(solver, more):
    """Best responses reach the equilibrium, where naive self-play would cycle for ever.

    Snapshots are pure strategies. Each is the exact best response to the mixture of the snapshots before it.

    alpha-rank counts a strategy twice if two snapshots have it. For alpha-rank the pool therefore ends when
    each strategy is in it once.
    """
    game = GAME[:3, :3]
    pool, payoff = [0], Payoff()
    payoff.grow(1)
    matchmaker = make_matchmaker(section(name="psro", meta_strategy=solver, prior_games=1e-9))
    for _ in range(more):
        weights = matchmaker.mixture(view(payoff)).weights
        pool.append(int(np.argmax(game[:, pool] @ weights)))
        payoff.grow(len(pool))
        for other, action in enumerate(pool[:-1]):
            payoff.record(other, len(pool) - 1, 100, 100 * game[action, pool[-1]], 0.0, 0.0, 0.0, 0.0)
    weights = matchmaker.mixture(view(payoff)).weights
    played_by = np.bincount(pool, weights, minlength=3)
    assert exploitability_of_mixture(game, played_by, played_by) < 0.05
