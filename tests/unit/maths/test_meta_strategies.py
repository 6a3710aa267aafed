"""Meta-strategies against known solutions, slow twins, properties and OpenSpiel's alpha-rank."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpcmarl.errors import MissingPackageError
from hpcmarl.maths import meta_strategies as meta

pytest.importorskip("scipy")
ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
matrices = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-3, 3, width=32))
)


def antisymmetric(draw_of, n):
    upper = np.triu(np.random.default_rng(draw_of).normal(size=(n, n)), 1)
    return upper - upper.T


def all_of(payoff):
    symmetric = payoff.shape[0] == payoff.shape[1] and np.array_equal(payoff, -payoff.T)
    yield "uniform", meta.uniform(payoff)
    yield "nash", meta.nash(payoff)
    yield "replicator", meta.replicator(payoff, 100.0)
    yield "alpha_rank", meta.alpha_rank(payoff, symmetric=symmetric)


def literal_exploitability(payoff, row, column):
    rows, columns = payoff.shape
    value = sum(row[i] * payoff[i, j] * column[j] for i in range(rows) for j in range(columns))
    best_row = max(sum(payoff[i, j] * column[j] for j in range(columns)) for i in range(rows))
    best_column = max(-sum(payoff[i, j] * row[i] for i in range(rows)) for j in range(columns))
    return ((best_row - value) + (best_column + value)) / 2


def by_support(payoff):
    """Return an equilibrium found by enumeration of all supports of equal size.

    The game must have an equilibrium with such supports.
    """
    rows, columns = payoff.shape
    for size in range(1, min(rows, columns) + 1):
        for own, theirs in itertools.product(
            itertools.combinations(range(rows), size), itertools.combinations(range(columns), size)
        ):
            block = payoff[np.ix_(own, theirs)]
            # block y = v 1, sum y = 1, and the same for x
            system = np.block([[block, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            twin = np.block([[block.T, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            right = np.append(np.zeros(size), 1.0)
            if min(abs(np.linalg.det(system)), abs(np.linalg.det(twin))) < 1e-9:
                continue
            row, column = np.zeros(rows), np.zeros(columns)
            row[list(own)], column[list(theirs)] = (
                np.linalg.solve(twin, right)[:-1],
                np.linalg.solve(system, right)[:-1],
            )
            if min(row.min(), column.min()) > -1e-9 and literal_exploitability(payoff, row, column) < 1e-9:
                return row, column
    raise AssertionError("no equilibrium")


@settings(max_examples=30, deadline=None)
@given(matrices)
def test_meta_strategies_are_mixtures_and_nash_is_unexploitable(payoff):
    for _name, (row, column) in all_of(payoff):
        for mixture, length in ((row, payoff.shape[0]), (column, payoff.shape[1])):
            assert mixture.shape == (length,)
            assert (mixture >= 0).all()
            assert mixture.sum() == pytest.approx(1.0)
        gained = meta.exploitability_of_mixture(payoff, row, column)
        assert gained == pytest.approx(literal_exploitability(payoff, row, column), abs=1e-9)
        assert gained >= 0
    assert meta.exploitability_of_mixture(payoff, *meta.nash(payoff)) <= 1e-6 * np.ptp(payoff) + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_nash_equals_support_enumeration(seed, rows, columns):
    payoff = np.random.default_rng(seed).normal(size=(rows, columns))
    row, column = by_support(payoff)
    found = meta.nash(payoff)
    np.testing.assert_allclose(found[0], row, atol=1e-5)
    np.testing.assert_allclose(found[1], column, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(matrices, st.sampled_from([20.0, 200.0]))
def test_replicator_exploitability_stays_within_its_bound(payoff, time):
    spread = np.ptp(payoff)
    gained = meta.exploitability_of_mixture(payoff, *meta.replicator(payoff, time))
    # Rounding leaves an apparent gain in a game of equal payoffs.
    rounding = 1e-14 * np.abs(payoff).max()
    assert gained <= spread * (np.log(payoff.size) / (2 * time) * 1.001 + 1e-9) + rounding


def literal_replicator(payoff, time, step):
    """Return the running mean of Euler's method, with the equation as it is written."""
    x, y = meta.uniform(payoff)
    means = [np.zeros_like(x), np.zeros_like(y)]
    for _ in range(round(time / step)):
        means[0] += x * step / time
        means[1] += y * step / time
        row, column = payoff @ y, x @ payoff
        x, y = x + step * x * (row - x @ row), y + step * y * (y @ column - column)
    return means


def test_replicator_equals_the_integrated_equation():
    payoff = np.array([[0.1, 0.9, 0.3], [0.6, 0.0, 1.0]])
    for found, expected in zip(
        meta.replicator(payoff, 8.0), literal_replicator(payoff, 8.0, 1e-3), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_meta_strategies_solve_rock_paper_scissors():
    for name, (row, column) in all_of(ROCK_PAPER_SCISSORS):
        np.testing.assert_allclose(row, 1 / 3, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(column, 1 / 3, atol=1e-6, err_msg=name)
    a, b, c = 1.0, 2.0, 5.0
    biased = np.array([[0, -a, b], [a, 0, -c], [-b, c, 0]])
    expected = np.array([c, b, a]) / (a + b + c)
    for mixture in meta.nash(biased):
        np.testing.assert_allclose(mixture, expected, atol=1e-6)
    for mixture in meta.replicator(biased, 3000.0):
        np.testing.assert_allclose(mixture, expected, atol=0.02)


def test_nash_solves_matching_pennies_with_unequal_stakes():
    row, column = meta.nash(np.array([[3.0, -1.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(row, [1 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(column, [1 / 3, 2 / 3], atol=1e-6)


def test_dominated_strategies_have_no_weight():
    payoff = np.pad(ROCK_PAPER_SCISSORS, (0, 1), constant_values=3.0)
    payoff[3], payoff[3, 3] = -3.0, 0.0
    for name, (row, column) in all_of(payoff):
        if name != "uniform":
            assert max(row[3], column[3]) < 0.03, name
            np.testing.assert_allclose(row[:3], 1 / 3, atol=0.03, err_msg=name)
    row, column = meta.alpha_rank(np.array([[1.0, 2.0], [0.0, -1.0]]), symmetric=False)
    np.testing.assert_allclose(row, [1, 0], atol=1e-9)
    np.testing.assert_allclose(column, [1, 0], atol=1e-9)


def test_ladder_top_or_top_cycle_has_all_the_weight():
    ladder = np.sign(np.subtract.outer(np.arange(5), np.arange(5))).astype(float)
    for name, (row, _) in all_of(ladder):
        if name != "uniform":
            np.testing.assert_allclose(row, [0, 0, 0, 0, 1], atol=0.05, err_msg=name)
    circle = ladder.copy()
    circle[2:, 2:] = ROCK_PAPER_SCISSORS
    for name, (row, _) in all_of(circle):
        if name != "uniform":
            np.testing.assert_allclose(row, [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.05, err_msg=name)


def test_duplicate_strategies_share_equal_weight():
    places = [0, 1, 2, 2, 2]
    doubled = ROCK_PAPER_SCISSORS[np.ix_(places, places)]
    for mixture in meta.nash(doubled):
        np.testing.assert_allclose(mixture, [1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9], atol=1e-6)
    for name, (row, column) in all_of(np.full((3, 4), 0.5)):
        np.testing.assert_allclose(row, 1 / 3, err_msg=name)
        np.testing.assert_allclose(column, 1 / 4, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 5), st.booleans())
def test_the_order_of_snapshots_does_not_matter(seed, rows, columns, symmetric):
    rng = np.random.default_rng(seed)
    payoff = antisymmetric(seed, rows) if symmetric else rng.normal(size=(rows, columns))
    order = rng.permutation(rows)
    other = order if symmetric else rng.permutation(columns)
    for (name, (row, column)), (_, shuffled) in zip(
        all_of(payoff), all_of(payoff[np.ix_(order, other)]), strict=True
    ):
        np.testing.assert_allclose(shuffled[0], row[order], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(shuffled[1], column[other], atol=1e-6, err_msg=name)


def literal_alpha_rank(payoffs, alpha, population):
    """Return alpha-rank from literal rates and a least-squares stationary distribution.

    The rates use the sum over the number of mutants.

    Args:
        payoffs: One matrix, or one for each side.
        alpha: Intensity of selection.
        population: Size of the population.
    """
    shape = payoffs[0].shape if len(payoffs) == 2 else payoffs[0].shape[:1]
    states = list(itertools.product(*map(range, shape)))
    chain = np.zeros((len(states), len(states)))
    for (one, old), (other, new) in itertools.permutations(enumerate(states), 2):
        changed = [k for k in range(len(shape)) if old[k] != new[k]]
        if len(changed) == 1:
            k = changed[0]
            gain = (
                payoffs[k][new] - payoffs[k][old]
                if len(shape) == 2
                else payoffs[0][new[0], old[0]] - payoffs[0][old[0], new[0]]
            )
            chain[one, other] = 1 / sum(np.exp(-alpha * gain * mutants) for mutants in range(population))
    np.fill_diagonal(chain, -chain.sum(axis=1))
    system = np.vstack([chain.T, np.ones(len(states))])
    mass = np.linalg.lstsq(system, np.append(np.zeros(len(states)), 1.0), rcond=None)[0].reshape(shape)
    return [mass] if len(shape) == 1 else [mass.sum(axis=1), mass.sum(axis=0)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3), st.floats(0.01, 2.0), st.integers(2, 6)
)
def test_alpha_rank_equals_its_stationary_distribution(seed, rows, columns, alpha, population):
    payoff = np.random.default_rng(seed).uniform(-1, 1, (rows, columns))
    for found, expected in zip(
        meta.alpha_rank(payoff, alpha, population, symmetric=False),
        literal_alpha_rank([payoff, -payoff], alpha, population),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    one = antisymmetric(seed, rows)
    np.testing.assert_allclose(
        meta.alpha_rank(one, alpha, population, symmetric=True)[0],
        literal_alpha_rank([one], alpha, population)[0],
        atol=1e-7,
    )


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_alpha_rank_equals_openspiel(alpha):
    alpharank = pytest.importorskip(
        "open_spiel.python.egt.alpharank", reason="OpenSpiel is not installed (extra league)"
    )
    rng = np.random.default_rng(3)
    for size in (2, 5):
        payoff = antisymmetric(size, size)
        expected = alpharank.compute([payoff], m=20, alpha=alpha)[2]
        np.testing.assert_allclose(meta.alpha_rank(payoff, alpha, 20, symmetric=True)[0], expected, atol=1e-7)
        payoff = rng.uniform(-0.2, 0.2, (size, 3))
        expected = alpharank.compute([payoff, -payoff], m=20, alpha=alpha)[2].reshape(size, 3)
        row, column = meta.alpha_rank(payoff, alpha, 20, symmetric=False)
        np.testing.assert_allclose(row, expected.sum(axis=1), atol=1e-6)
        np.testing.assert_allclose(column, expected.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("alpha", [1e3, 1e6, 1e12])
def test_alpha_rank_is_stable_for_large_alpha(alpha):
    """Three strategies in a cycle get equal mass; a weak fourth one gets none.

    The stakes in the cycle are unequal, but any winner takes over.
    """
    payoff = np.array([[0, -1, 2, 3], [1, 0, -5, 3], [-2, 5, 0, 3], [-3, -3, -3, 0.0]])
    for mixture in meta.alpha_rank(payoff, alpha, 50, symmetric=True):
        np.testing.assert_allclose(mixture, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-9)
    with np.errstate(all="raise", under="ignore"):
        large = meta.alpha_rank(antisymmetric(1, 100), alpha, symmetric=True)[0]
    assert np.isfinite(large).all()


@settings(max_examples=12, deadline=None)
@given(matrices)
def test_meta_strategies_are_invariant_to_shift_and_scale(payoff):
    assume(np.ptp(payoff) > 1e-3)
    for (name, mixtures), (_, moved) in zip(all_of(payoff), all_of(payoff + 7.0), strict=True):
        # Nash may find another one of several equilibria.
        if name == "nash":
            assert meta.exploitability_of_mixture(payoff, *moved) <= 1e-6
        elif name != "alpha_rank" or payoff.shape[0] != payoff.shape[1]:
            for one, other in zip(mixtures, moved, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4, err_msg=name)
    for one, other in zip(meta.replicator(payoff, 50.0), meta.replicator(64.0 * payoff, 50.0), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_missing_scipy_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingPackageError, match=r"hpcmarl\[league\]"):
        meta.nash(ROCK_PAPER_SCISSORS)


@pytest.mark.parametrize("payoff", [np.zeros((0, 2)), np.zeros(3), [[np.nan]], [[0.0, np.inf]]])
def test_invalid_payoff_matrices_are_rejected(payoff):
    for solve in (
        meta.uniform,
        meta.nash,
        meta.replicator,
        lambda matrix: meta.alpha_rank(matrix, symmetric=False),
    ):
        with pytest.raises(ValueError, match="finite"):
            solve(np.asarray(payoff))
    with pytest.raises(ValueError, match="square"):
        meta.alpha_rank(np.zeros((2, 3)), symmetric=True)
