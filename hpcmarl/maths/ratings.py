"""Elo ratings from a table of games, and confidence intervals of mean scores.

On Elo's scale a difference of D points means an expected score of 1 / (1 + 10^(-D / 400)). So 400 points are
odds of 10 to 1, and a point is ln 10 / 400 of the natural logarithm of the odds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.types import Array

POINTS = 400.0 / math.log(10.0)  # Elo points in one unit of log odds
_TOLERANCE = 1e-9
_ITERATIONS = 100


@dataclass(frozen=True)
class Ratings:
    """Ratings of N players. Their mean is 0.

    Attributes:
        rating: [N], in Elo points.
        error: [N], standard errors in Elo points.
    """

    rating: Array
    error: Array


def expected_score(difference: Array | float) -> Array:
    """Return the expected score of a player who is `difference` Elo points above the opponent."""
    logit = np.asarray(difference, np.float64) / POINTS
    score: Array = np.exp(-np.logaddexp(0.0, -logit))
    return score


def elo(
    games: NDArray[Any], score: NDArray[Any], prior_deviation: float = 350.0, start: Array | None = None
) -> Ratings:
    """Fit the most probable ratings given all games (a Bradley-Terry model, by Newton's method).

    All games are fitted together, so their order does not matter. The fit maximises

        sum_{i<j} s_ij log p_ij + (n_ij - s_ij) log(1 - p_ij) - sum_i r_i^2 / (2 tau^2)

    where p_ij = 1 / (1 + e^(r_j - r_i)) is the probability that i beats j, and r is in units of log odds.

    The prior keeps the ratings of players who always win (or lose) finite. It also makes the mean rating 0 in
    every part of the table that is connected by games.

    The errors are those of r_i - mean(r). They are the square roots of the diagonal of the inverse Fisher
    information (with the prior), after subtracting tau^2 / N. This is the variance of the common level. A
    player without games has rating 0 and the error tau sqrt(1 - 1/N). Draws make errors slightly too wide.

        symbol -> variable: r -> natural, n -> count, s -> won, p -> chance, tau -> prior_deviation

    Args:
        games: Games of each pair, shape [N, N]. Only entries above the diagonal are read; each pair appears
            there once.
        score: Summed score of the row player in these games, shape [N, N]; a draw counts one half.
        prior_deviation: Standard deviation tau of the prior, in Elo points.
        start: Ratings [N] of a similar table, in Elo points. They save iterations and change nothing else.

    Returns:
        Ratings and their standard errors.

    Raises:
        ValueError: If the tables are not square, or a score is outside [0, games].
    """
    first, second, count, won = _pairs(np.asarray(games), np.asarray(score))
    players = len(np.asarray(games))
    precision = (POINTS / prior_deviation) ** 2
    natural = np.zeros(players) if start is None else np.asarray(start, np.float64) / POINTS
    natural = natural - natural.mean() if players else natural

    def goodness(point: Array) -> float:
        difference = point[first] - point[second]
        return float(
            np.sum(won * difference - count * np.logaddexp(0.0, difference))
            - precision / 2 * np.sum(point**2)
        )

    def information(point: Array) -> tuple[Array, Array]:
        chance = expected_score((point[first] - point[second]) * POINTS)
        surplus, weight = won - count * chance, count * chance * (1.0 - chance)
        slope = (
            np.bincount(first, surplus, players) - np.bincount(second, surplus, players) - precision * point
        )
        curvature = np.diag(
            np.bincount(first, weight, players) + np.bincount(second, weight, players) + precision
        )
        curvature[first, second] = curvature[second, first] = -weight
        return slope, curvature

    best = goodness(natural)
    for _ in range(_ITERATIONS):
        slope, curvature = information(natural)
        step = np.linalg.solve(curvature, slope)
        # The step is too long: the quadratic approximation is only valid locally.
        while (reached := goodness(natural + step)) < best - 1e-9 * abs(best):
            step /= 2
        natural, best = natural + step, reached
        if np.max(np.abs(step), initial=0.0) < _TOLERANCE:
            break
    # The common level is an eigenvector of the curvature; its eigenvalue is the precision.
    variance = np.diag(np.linalg.inv(information(natural)[1])) - 1.0 / (precision * max(players, 1))
    return Ratings(natural * POINTS, np.sqrt(np.maximum(variance, 0.0)) * POINTS)


def _pairs(games: NDArray[Any], score: NDArray[Any]) -> tuple[Array, Array, Array, Array]:
    """Return (i, j, games, score of i) of the pairs i < j that have played."""
    if games.ndim != 2 or games.shape[0] != games.shape[1] or games.shape != score.shape:
        raise ValueError(
            f"games and scores must be square tables of equal size, not {games.shape} and {score.shape}"
        )
    first, second = np.nonzero(np.triu(games, 1))
    count, won = games[first, second].astype(np.float64), score[first, second].astype(np.float64)
    if np.any(count < 0) or not np.all((won >= 0) & (won <= count)):
        raise ValueError(
            "the tables must hold games of 0 or more, and scores between 0 and the number of games"
        )
    return first, second, count, won


def wilson_interval(
    games: NDArray[Any] | float, score: NDArray[Any] | float, z: float = 1.96
) -> tuple[Array, Array]:
    """Return Wilson's confidence interval (low, high) of a mean score.

    With z = 1.96 it contains the true mean in 95 % of cases. With draws, or scores between 0 and 1, it is
    wider than necessary.

    Args:
        games: Numbers of games, any shape.
        score: Summed scores, of the same shape.
        z: Half width in standard deviations.

    Returns:
        Lower and upper ends, of the same shape; (0, 1) if there are no games.

    Source:
        E. B. Wilson, J. Am. Stat. Assoc. 22 (1927): all m' with
        |m - m'| <= z sqrt(m' (1 - m') / n).
    """
    count = np.asarray(games, np.float64)
    mean = np.divide(score, count, out=np.full(count.shape, 0.5), where=count > 0)
    centre = (count * mean + z**2 / 2) / (count + z**2)
    half = z * np.sqrt(count * mean * (1.0 - mean) + z**2 / 4) / (count + z**2)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
