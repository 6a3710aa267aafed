"""Ratings and their intervals.

Ratings are compared with a general optimiser and closed forms, intervals with their definition and with
draws.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.maths import ratings

POINTS = 400 / np.log(10)


def table(seed, players, pairs=8, most=6, halves=True):
    rng = np.random.default_rng(seed)
    games, score = np.zeros((players, players), int), np.zeros((players, players))
    for i, j in rng.integers(0, players, (pairs, 2)):
        if i != j:
            count = int(rng.integers(1, most))
            won = int(rng.integers(0, 2 * count + 1)) / 2 if halves else float(rng.integers(0, count + 1))
            games[i, j] += count
            games[j, i] += count
            score[i, j] += won
            score[j, i] += count - won
    return games, score


def literal_posterior(rating, games, score, tau):
    """Return the logarithm of the posterior, from the formula with powers of ten."""
    total = -sum(r**2 for r in rating) / (2 * tau**2)
    for i in range(len(rating)):
        for j in range(i + 1, len(rating)):
            chance = 1 / (1 + 10 ** ((rating[j] - rating[i]) / 400))
            total += score[i, j] * np.log(chance) + (games[i, j] - score[i, j]) * np.log(1 - chance)
    return total


def literal_errors(rating, games, score, tau):
    """Return standard errors from second differences of the log-posterior."""
    count, step = len(rating), 0.5
    hessian = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            e, f = np.eye(count)[i] * step, np.eye(count)[j] * step
            corners = [
                literal_posterior(rating + a * e + b * f, games, score, tau) * a * b
                for a in (1, -1)
                for b in (1, -1)
            ]
            hessian[i, j] = sum(corners) / (4 * step**2)
    covariance = np.linalg.inv(-hessian)
    from_mean = np.eye(count) - 1 / count
    return np.sqrt(np.diag(from_mean @ covariance @ from_mean))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([100.0, 350.0]))
def test_elo_equals_a_general_optimizer(seed, players, tau):
    minimize = pytest.importorskip("scipy.optimize").minimize
    games, score = table(seed, players)
    found = ratings.elo(games, score, tau)
    best = minimize(
        lambda r: -literal_posterior(r * 100, games, score, tau), np.zeros(players), options={"gtol": 1e-8}
    )
    np.testing.assert_allclose(found.rating, best.x * 100, atol=0.05)
    np.testing.assert_allclose(
        found.error, literal_errors(found.rating, games, score, tau), rtol=2e-3, atol=0.01
    )
    assert found.rating.mean() == pytest.approx(0.0, abs=1e-6)


def test_elo_difference_equals_the_score_odds():
    games, score = np.array([[0, 11000], [11000, 0]]), np.array([[0, 10000.0], [1000, 0]])
    found = ratings.elo(games, score, 1e5)
    assert found.rating[0] - found.rating[1] == pytest.approx(400.0, abs=0.01)
    assert ratings.expected_score(400.0) == pytest.approx(10 / 11)
    assert ratings.expected_score(np.array([-400.0, 0.0])).tolist() == pytest.approx([1 / 11, 0.5])


def test_true_ratings_come_back_within_their_errors():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 200, 60)
    true -= true.mean()
    games, score = np.zeros((60, 60), int), np.zeros((60, 60))
    for i, j in rng.integers(0, 60, (900, 2)):
        if i != j:
            won = rng.binomial(10, ratings.expected_score(true[i] - true[j]))
            for a, b, s in ((i, j, won), (j, i, 10 - won)):
                games[a, b] += 10
                score[a, b] += s
    found = ratings.elo(games, score)
    away = (found.rating - true) / found.error
    assert 0.7 < np.sqrt(np.mean(away**2)) < 1.3
    assert np.abs(away).max() < 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_neither_the_order_of_players_nor_the_start_matters(seed, players):
    games, score = table(seed, players, 20)
    found = ratings.elo(games, score)
    rng = np.random.default_rng(seed)
    order = rng.permutation(players)
    moved = ratings.elo(games[np.ix_(order, order)], score[np.ix_(order, order)])
    np.testing.assert_allclose(moved.rating, found.rating[order], atol=1e-6)
    np.testing.assert_allclose(moved.error, found.error[order], atol=1e-6)
    started = ratings.elo(games, score, start=rng.normal(0, 3000, players))
    np.testing.assert_allclose(started.rating, found.rating, atol=1e-6)


def test_undefeated_players_have_finite_ratings():
    games, score = np.zeros((5, 5), int), np.zeros((5, 5))
    for i, j in ((0, 1), (1, 2)):
        games[i, j] = games[j, i] = 1_000_000
        score[i, j] = 1_000_000
    found = ratings.elo(games, score, 350.0)
    assert np.isfinite(found.rating).all()
    assert found.rating[0] > found.rating[1] + 400 > found.rating[2] + 800
    np.testing.assert_allclose(found.rating[3:], 0.0, atol=1e-9)
    np.testing.assert_allclose(found.error[3:], 350.0 * np.sqrt(4 / 5))
    assert (found.error[:3] < 300.0).all()
    nobody = ratings.elo(np.zeros((0, 0)), np.zeros((0, 0)))
    assert nobody.rating.shape == nobody.error.shape == (0,)


def test_draws_count_as_half_a_win_each():
    games = np.array([[0, 8], [8, 0]])
    drawn = ratings.elo(games, np.array([[0, 4.0], [4.0, 0]]))
    np.testing.assert_allclose(drawn.rating, 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("games", "score"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros((2, 2)), np.zeros((3, 3))),
        (np.ones((2, 2)), np.full((2, 2), 1.5)),
        (np.ones((2, 2)), np.full((2, 2), np.nan)),
        (-np.ones((2, 2)), -np.ones((2, 2))),
    ],
)
def test_invalid_rating_tables_are_rejected(games, score):
    with pytest.raises(ValueError, match="table"):
        ratings.elo(games, score)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0.5, 3))
def test_wilson_bounds_are_z_deviations_from_the_mean(games, share, z):
    low, high = ratings.wilson_interval(games, share * games, z)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(z * np.sqrt(end * (1 - end) / games), rel=1e-6, abs=1e-9)


def test_wilson_interval_has_nominal_coverage():
    rng = np.random.default_rng(1)
    for true in (0.1, 0.5, 0.95):
        low, high = ratings.wilson_interval(np.full(4000, 40), rng.binomial(40, true, 4000))
        assert 0.92 < np.mean((low <= true) & (true <= high)) < 0.985
    assert ratings.wilson_interval(0, 0.0) == (0.0, 1.0)
    low, high = ratings.wilson_interval(np.array([[0, 10]]), np.array([[0.0, 10.0]]))
    assert (low[0, 0], high[0, 0], high[0, 1]) == (0.0, 1.0, 1.0)
    assert low[0, 1] == pytest.approx(10 / (10 + 1.96**2))
