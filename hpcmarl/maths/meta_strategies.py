"""Meta-strategies of a game between snapshots: mixtures over the rows and columns of a payoff matrix.

The game is zero-sum: payoff [m, n] is the payoff of the row player, and the column player gets its negative.
Every meta-strategy returns (row mixture [m], column mixture [n]) in float64; each mixture sums to 1. All
functions raise ValueError if the matrix is empty or a payoff is not finite.
"""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import MissingPackageError

Matrix = NDArray[np.float64]
Mixtures = tuple[Matrix, Matrix]

# A response that gains less than this, with payoffs scaled to [0, 1], does not count as better.
_GAIN = 1e-9
# Rows and columns of the first linear program. The number of best responses that are added doubles each time.
_FIRST = 16


def uniform(payoff: Matrix) -> Mixtures:
    """Return uniform mixtures over all rows and all columns."""
    rows, columns = _checked(payoff).shape
    return np.full(rows, 1.0 / rows), np.full(columns, 1.0 / columns)


def exploitability_of_mixture(payoff: Matrix, row: Matrix, column: Matrix) -> float:
    """Return the gain of a best response against two mixtures, averaged over both players.

        (max_i (A y)_i - min_j (x^T A)_j) / 2

    It is never negative, and zero exactly at an equilibrium. It equals OpenSpiel's `exploitability`, which is
    half of NashConv in the literature.

    Args:
        payoff: A, shape [m, n].
        row: Mixture x, shape [m].
        column: Mixture y, shape [n].

    Returns:
        The gain in units of the payoff.
    """
    matrix = _checked(payoff)
    return max(0.0, float(np.max(matrix @ column) - np.min(row @ matrix)) / 2)


def nash(payoff: Matrix) -> Mixtures:
    """Compute an equilibrium by linear programming (HiGHS in scipy).

    The mixture x maximises v subject to x^T A >= v; y are the multipliers of these constraints.

    The program is first solved for a few rows and columns. Then the best responses among all others are added
    until none of them gains. This is fast because few snapshots of a large pool have a share.

    If there are several equilibria, any of them may be returned. But snapshots with identical payoffs always
    get equal shares, so the mixtures are uniform as long as no payoffs are known.

    Args:
        payoff: A, shape [m, n].

    Returns:
        Row mixture [m] and column mixture [n].

    Raises:
        MissingPackageError: If scipy is not installed.
        ValueError: If the matrix is empty or not finite, or if the solver fails.
    """
    matrix = _checked(payoff)
    scaled = (matrix - matrix.min()) / (np.ptp(matrix) or 1.0)
    # Distinct rows and columns: index of the first of each kind, kind of each, number of each kind.
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
    """Return the indices of the largest gains [K]: at most `count` of them, and only those above `least`."""
    order = np.argsort(-gains)[:count]
    return order[gains[order] > least]


def _program(game: Matrix) -> tuple[Matrix, Matrix, float]:
    """Solve the linear program of a matrix of payoffs in [0, 1]; return (x, y, v)."""
    try:
        optimize = importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise MissingPackageError(
            "the meta-strategy nash needs scipy, which is not installed; pip install 'hpcmarl[league]'"
        ) from error
    rows, columns = game.shape
    solution = optimize.linprog(
        np.append(np.zeros(rows), -1.0),
        A_ub=np.column_stack([-game.T, np.ones(columns)]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
        method="highs",
    )
    if solution.status != 0:
        raise ValueError(f"the equilibrium of a payoff matrix was not found: {solution.message}")
    row, column = np.maximum(solution.x[:-1], 0.0), np.maximum(-solution.ineqlin.marginals, 0.0)
    return row / row.sum(), column / column.sum(), float(solution.x[-1])


def replicator(payoff: Matrix, time: float = 1000.0) -> Mixtures:
    """Compute time averages of the replicator dynamics of both populations, from uniform mixtures.

        dx_i/dt = x_i ((A y)_i - x^T A y)        dy_j/dt = y_j (x^T A y - (x^T A)_j)

    In logits z with x = softmax(z) the dynamics are dz/dt = A y. A Runge-Kutta method of fourth order follows
    them without leaving the simplex. The mixtures themselves cycle; their time averages converge. The
    exploitability of the averages is at most (log m + log n) / (2 time), plus the error of the integration
    steps.

    Args:
        payoff: A, shape [m, n].
        time: Length of the integration, in units of 1 / (range of the payoffs).

    Returns:
        Row mixture [m] and column mixture [n].
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
        # By linearity this is the weighted sum of the slopes of the stages. So the logits are payoffs against
        # the averages, and the bound holds.
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
    """Compute alpha-rank: the share of time of each strategy in evolving populations with rare mutants.

    A mutant tau takes over a population of m that plays sigma with the fixation probability (eq. 2)

        rho = (1 - e^(-u)) / (1 - e^(-m u)),  u = alpha (f_tau - f_sigma);  1/m if u = 0

    The mixture is the stationary distribution of the Markov chain with rates proportional to rho. With one
    population (`symmetric`) its members meet each other, and f is the payoff against the other of the two
    strategies. With two populations a state is a pair (row, column), and f is the payoff of the population
    that changes. The mixtures are then the marginals.

    All computations are in logarithms and without subtractions, so the result is accurate for any alpha. The
    time grows with the cube of the number of states, which is n or m n (docs/league.md gives measured times).

        symbol -> variable: f -> payoff, m -> population, rho -> fixation, alpha -> alpha

    Args:
        payoff: Shape [m, n]; [n, n] if symmetric.
        alpha: Selection intensity, in one over the unit of the payoffs.
        population: Members of each population.
        symmetric: Whether there is one population; then both mixtures are the same.

    Returns:
        Row mixture [m] and column mixture [n].

    Raises:
        ValueError: If the matrix is empty or not finite, or if the matrix of a symmetric game is not square.

    Source:
        alpha-rank, arXiv 1903.01373.
    """
    matrix = _checked(payoff)
    rows, columns = matrix.shape
    if symmetric:
        if rows != columns:
            raise ValueError(f"the matrix of a symmetric game must be square, not {rows} x {columns}")
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
    """Return log rho for u = `gain`.

    This is log((1 - e^-|u|) / (1 - e^-m|u|)), less (m - 1) |u| if u < 0.
    """
    size = np.maximum(np.abs(gain), 1e-300)
    chance = np.where(
        size < 1e-14, -np.log(population), np.log(-np.expm1(-size)) - np.log(-np.expm1(-population * size))
    )
    logarithm: Matrix = chance + np.minimum(gain, 0.0) * (population - 1)
    return logarithm


def _stationary(rates: Matrix) -> Matrix:
    """Return the stationary distribution [N] of an irreducible Markov chain.

    States are eliminated one by one (Grassmann, Taksar and Heyman 1985). This needs only sums, products and
    quotients of positive numbers.

    Args:
        rates: Logarithms of the transition rates, shape [N, N]; the diagonal is ignored.
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
        nonfinite = np.count_nonzero(~np.isfinite(matrix))
        raise ValueError(
            "a payoff matrix must have at least one row and column, and finite entries only; this one has "
            f"shape {matrix.shape} and {nonfinite} non-finite entries"
        )
    return matrix
