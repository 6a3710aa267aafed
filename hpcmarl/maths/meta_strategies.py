"""Meta-strategies of a game of snapshots: mixtures over rows and columns of a payoff matrix. Called by
league/core/psro.py; knows no league.

The game is zero-sum: payoff [m, n] is the row's, the column's is its negative. Every function returns (row
mixture [m], column mixture [n]), float64, that sum to 1. Payoffs must be finite; ValueError otherwise, or
where there are no rows or columns.
"""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import MissingPackageError

Matrix = NDArray[np.float64]
Mixtures = tuple[Matrix, Matrix]

_GAIN = 1e-9  # of payoffs in [0, 1]: what gains less is no better response
_FIRST = (
    16  # rows and columns of the first linear program; then twice as many best responses are added each time
)


def uniform(payoff: Matrix) -> Mixtures:
    """All alike."""
    rows, columns = _checked(payoff).shape
    return np.full(rows, 1.0 / rows), np.full(columns, 1.0 / columns)


def exploitability_of_mixture(payoff: Matrix, row: Matrix, column: Matrix) -> float:
    """(max_i (A y)_i - min_j (x^T A)_j) / 2 for mixtures x [m] and y [n]: what a best response gains,
    averaged over both players.

    It is zero at an equilibrium and nowhere else, and never negative: half of what the literature calls
    NashConv, OpenSpiel's `exploitability`.
    """
    matrix = _checked(payoff)
    return max(0.0, float(np.max(matrix @ column) - np.min(row @ matrix)) / 2)


def nash(payoff: Matrix) -> Mixtures:
    """An equilibrium by linear programming (HiGHS in scipy): x maximises v with x^T A >= v, y are the
    multipliers of these constraints.

    Solved for a few rows and columns first, to which the best responses among all others are added until
    there are none that gain: in a large pool few snapshots have a share. Where there are several equilibria
    it is any of them, except that snapshots whose payoffs are the same throughout share alike: where nothing
    is known yet, the mixtures are uniform. Raises MissingPackageError without scipy.
    """
    matrix = _checked(payoff)
    scaled = (matrix - matrix.min()) / (np.ptp(matrix) or 1.0)
    # distinct rows and columns: [the first of each kind], [which kind each is], [how many of each]
    _, rows, row_kind, row_count = np.unique(
        scaled, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    _, columns, column_kind, column_count = np.unique(
        scaled, axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    game = scaled[np.ix_(rows, columns)]
    count = _FIRST
    some_rows, some_columns = (
        _best(game.mean(axis=1), -np.inf, count),
        _best(-game.mean(axis=0), -np.inf, count),
    )
    while True:
        row, column, value = _program(game[np.ix_(some_rows, some_columns)])
        more_rows = np.setdiff1d(_best(game[:, some_columns] @ column, value + _GAIN, count), some_rows)
        more_columns = np.setdiff1d(_best(-(row @ game[some_rows]), -value + _GAIN, count), some_columns)
        if not len(more_rows) and not len(more_columns):
            break
        count *= 2
        some_rows, some_columns = np.append(some_rows, more_rows), np.append(some_columns, more_columns)
    row_share, column_share = np.zeros(len(rows)), np.zeros(len(columns))
    row_share[some_rows], column_share[some_columns] = row, column
    return (row_share / row_count)[row_kind.ravel()], (column_share / column_count)[column_kind.ravel()]


def _best(gains: Matrix, least: float, count: int) -> NDArray[np.intp]:
    """Where the largest of the gains [K] are, so many at most, that are above `least`."""
    order = np.argsort(-gains)[:count]
    return order[gains[order] > least]


def _program(game: Matrix) -> tuple[Matrix, Matrix, float]:
    """(x, y, v) of a matrix of payoffs in [0, 1]."""
    try:
        optimize = importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise MissingPackageError(
            "the meta-strategy nash needs scipy, which is not installed; pip install 'hpcmarl[league]'"
        ) from error
    rows, columns = game.shape
    found = optimize.linprog(
        np.append(np.zeros(rows), -1.0),
        A_ub=np.column_stack([-game.T, np.ones(columns)]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
        method="highs",
    )
    if found.status != 0:
        raise ValueError(f"the equilibrium of a payoff matrix was not found: {found.message}")
    row, column = np.maximum(found.x[:-1], 0.0), np.maximum(-found.ineqlin.marginals, 0.0)
    return row / row.sum(), column / column.sum(), float(found.x[-1])


def replicator(payoff: Matrix, time: float = 1000.0) -> Mixtures:
    """Time averages of the replicator dynamics of both populations, from uniform mixtures.

        dx_i/dt = x_i ((A y)_i - x^T A y)        dy_j/dt = y_j (x^T A y - (x^T A)_j)

    In logits z with x = softmax(z) that is dz/dt = A y, which a Runge-Kutta method of fourth order follows
    without leaving the simplex. In zero-sum games the averages' exploitability is at most (log m + log n) /
    (2 time) and the error of the steps; the mixtures themselves go round in circles. `time` is in units of 1
    / (range of the payoffs).
    """
    matrix = _checked(payoff)
    spread = float(np.ptp(matrix))
    if spread == 0.0:
        return uniform(payoff)
    scaled = (matrix - matrix.min()) / spread
    steps = max(1, round(time))
    step = time / steps
    row_logits, column_logits = np.zeros(len(scaled)), np.zeros(scaled.shape[1])
    row_sum, column_sum = np.zeros_like(row_logits), np.zeros_like(column_logits)
    for _ in range(steps):
        row_slope = column_slope = None
        row_mean, column_mean = np.zeros_like(row_logits), np.zeros_like(column_logits)
        for share, weight in ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)):
            row = _softmax(row_logits if row_slope is None else row_logits + share * step * row_slope)
            column = _softmax(
                column_logits if column_slope is None else column_logits + share * step * column_slope
            )
            row_slope, column_slope = scaled @ column, -(row @ scaled)
            row_mean += weight * row
            column_mean += weight * column
        # the sum of the stages' slopes, by linearity: so the logits are the payoffs against the averages, and
        # the bound holds
        row_logits += step * (scaled @ column_mean)
        column_logits -= step * (row_mean @ scaled)
        row_sum += row_mean
        column_sum += column_mean
    return row_sum / row_sum.sum(), column_sum / column_sum.sum()


def _softmax(logits: Matrix) -> Matrix:
    powers: Matrix = np.exp(logits - logits.max())
    powers /= powers.sum()
    return powers


def alpha_rank(payoff: Matrix, alpha: float = 100.0, population: int = 50, *, symmetric: bool) -> Mixtures:
    """alpha-rank (arXiv 1903.01373): how long evolving populations hold each strategy, when mutants are rare.

    A mutant tau takes over a population of m that plays sigma with the fixation probability (eq. 2)
        rho = (1 - e^(-u)) / (1 - e^(-m u)),  u = alpha (f_tau - f_sigma);  1/m where u = 0
    and the mixture is the stationary distribution of the Markov chain with rates proportional to rho.
    symmetric: one population, whose members meet each other; f is the payoff against the other of the two;
    payoff [n, n], both mixtures are the same. Else two populations; a state is a pair (row, column), f the
    payoff of who changes, the mixtures are the marginals.

    In logarithms throughout, without subtractions: right for any alpha. Takes time in proportion to the cube
    of the number of states, n or m n (docs/league.md says how long). Raises ValueError where a symmetric
    game's matrix is not square.

    symbol -> variable: f -> payoff, m -> population, rho -> fixation, alpha -> alpha
    """
    matrix = _checked(payoff)
    rows, columns = matrix.shape
    if symmetric:
        if rows != columns:
            raise ValueError(f"the matrix of a symmetric game is square, not {rows} x {columns}")
        # [sigma, tau]: f(tau, sigma) - f(sigma, tau)
        mass = _stationary(_log_fixation(alpha * (matrix.T - matrix), population))
        return mass, mass.copy()
    rates = np.full((rows, columns, rows, columns), -np.inf)
    for column in range(columns):
        gain = matrix[None, :, column] - matrix[:, None, column]
        rates[:, column, :, column] = _log_fixation(alpha * gain, population)
    for row in range(rows):
        gain = matrix[row, :, None] - matrix[row, None, :]
        rates[row, :, row, :] = _log_fixation(alpha * gain, population)
    joint = _stationary(rates.reshape(rows * columns, -1)).reshape(rows, columns)
    return joint.sum(axis=1), joint.sum(axis=0)


def _log_fixation(gain: Matrix, population: int) -> Matrix:
    """log rho for u = gain: log((1 - e^-|u|) / (1 - e^-m|u|)), and (m - 1) |u| less where u < 0."""
    size = np.maximum(np.abs(gain), 1e-300)
    chance = np.where(
        size < 1e-14, -np.log(population), np.log(-np.expm1(-size)) - np.log(-np.expm1(-population * size))
    )
    logarithm: Matrix = chance + np.minimum(gain, 0.0) * (population - 1)
    return logarithm


def _stationary(rates: Matrix) -> Matrix:
    """The stationary distribution [N] of an irreducible chain with these logarithms of rates [N, N], whose
    diagonal is ignored.

    State by state is taken out of the chain (Grassmann, Taksar and Heyman 1985): only sums, products and
    quotients of positive numbers.
    """
    rates = rates.copy()
    count = len(rates)
    for state in range(count - 1, 0, -1):
        rates[:state, state] -= np.logaddexp.reduce(rates[state, :state])
        np.logaddexp(
            rates[:state, :state],
            rates[:state, state, None] + rates[state, None, :state],
            out=rates[:state, :state],
        )
    mass = np.zeros(count)
    for state in range(1, count):
        mass[state] = np.logaddexp.reduce(mass[:state] + rates[:state, state])
    return _softmax(mass)


def _checked(payoff: Matrix) -> Matrix:
    matrix: Matrix = np.asarray(payoff, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0 or not np.all(np.isfinite(matrix)):
        raise ValueError(
            f"a payoff matrix has rows and columns of finite numbers, not shape {matrix.shape} with numbers "
            "that are not finite"
        )
    return matrix
