"""Ratings from a table of games, and intervals of mean scores. Called by the league's reports; knows no
league, file or rank.

Elo's scale: a difference of D points means an expected score of 1 / (1 + 10^(-D / 400)), so 400 points are
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
    """rating [N] and its standard error [N], in Elo points; the ratings' mean is 0."""

    rating: Array
    error: Array


def expected_score(difference: Array | float) -> Array:
    """Expected score of a player who is so many Elo points above the other."""
    logit = np.asarray(difference, np.float64) / POINTS
    score: Array = np.exp(-np.logaddexp(0.0, -logit))
    return score


def elo(
    games: NDArray[Any], score: NDArray[Any], prior_deviation: float = 350.0, start: Array | None = None
) -> Ratings:
    """The most probable ratings given all games at once, so that their order does not matter: a Bradley-Terry
    fit by Newton's method.

    games, score [N, N]: games of each pair and their row's summed score, of which a draw is one half; read
    above the diagonal, where each pair stands once. The probability that i beats j is 1 / (1 + e^(r_j -
    r_i)), with r in units of log odds; maximised is

        sum_{i<j} s_ij log p_ij + (n_ij - s_ij) log(1 - p_ij) - sum_i r_i^2 / (2 tau^2)

    The prior, tau = `prior_deviation` points, keeps those who always win (or lose) finite, and makes the mean
    0 by itself, in every part of the table that is connected by games. The errors are those of r_i - mean(r):
    roots of the diagonal of the inverse Fisher information with the prior's, less the tau^2 / N that is the
    common level's. Who has played nobody has rating 0 and the error tau sqrt(1 - 1/N); draws make errors
    slightly too wide. `start` [N], ratings of a table that was nearly the same, saves iterations and changes
    nothing else. Raises ValueError for tables that are not square or scores outside [0, games].

    symbol -> variable: r -> natural, n -> count, s -> won, p -> chance, tau -> prior_deviation
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
        # too far: the quadratic holds near by only
        while (reached := goodness(natural + step)) < best - 1e-9 * abs(best):
            step /= 2
        natural, best = natural + step, reached
        if np.max(np.abs(step), initial=0.0) < _TOLERANCE:
            break
    # the level is an eigenvector of the curvature, whose eigenvalue is the precision
    variance = np.diag(np.linalg.inv(information(natural)[1])) - 1.0 / (precision * max(players, 1))
    return Ratings(natural * POINTS, np.sqrt(np.maximum(variance, 0.0)) * POINTS)


def _pairs(games: NDArray[Any], score: NDArray[Any]) -> tuple[Array, Array, Array, Array]:
    """(i, j, games, score of i) of the pairs i < j that have played."""
    if games.ndim != 2 or games.shape[0] != games.shape[1] or games.shape != score.shape:
        raise ValueError(
            f"games and scores are square tables of one size, not {games.shape} and {score.shape}"
        )
    first, second = np.nonzero(np.triu(games, 1))
    count, won = games[first, second].astype(np.float64), score[first, second].astype(np.float64)
    if np.any(count < 0) or not np.all((won >= 0) & (won <= count)):
        raise ValueError("a table has games fewer than 0, or scores below 0 or above the number of games")
    return first, second, count, won


def wilson_interval(
    games: NDArray[Any] | float, score: NDArray[Any] | float, z: float = 1.96
) -> tuple[Array, Array]:
    """(low, high): Wilson's interval of a mean score from so many games and their summed score; (0, 1) where
    there are none.

    z = 1.96: 95 % of the time the true mean is inside. With draws, or scores between 0 and 1, it is wider
    than it need be. Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927): the means m' for which |m - m'| <= z
    sqrt(m' (1 - m') / n).
    """
    count = np.asarray(games, np.float64)
    mean = np.divide(score, count, out=np.full(count.shape, 0.5), where=count > 0)
    centre = (count * mean + z**2 / 2) / (count + z**2)
    half = z * np.sqrt(count * mean * (1.0 - mean) + z**2 / 4) / (count + z**2)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
