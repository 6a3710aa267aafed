"""Statistics over the runs of a group: interquartile means with bootstrap intervals.

The interquartile mean (IQM) leaves out the lowest and highest quarter of the runs. Its intervals come from a
percentile bootstrap over runs. With one environment there is one stratum.

Source: Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice (arXiv
2108.13264).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hpcmarl.errors import MissingPackageError
from hpcmarl.types import Array

RESAMPLES = 1000
LEVEL = 0.95
SEED = 2108_13264
GRID = 200  # points of a group's curve


class Interval(NamedTuple):
    """A mean with its interval.

    Attributes:
        mean: Interquartile mean.
        low: Lower end of the 95 % interval; NaN with fewer than two runs.
        high: Upper end.
        runs: Number of runs.
    """

    mean: float
    low: float
    high: float
    runs: int


class Band(NamedTuple):
    """A curve of a group.

    Attributes:
        x: Positions, [points].
        mean: Interquartile means, [points].
        low: Lower ends of the 95 % intervals, [points].
        high: Upper ends, [points].
    """

    x: Array
    mean: Array
    low: Array
    high: Array


def interquartile_mean(values: Array) -> Array:
    """Return the interquartile mean over the first axis."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, 0.25, axis=0))


def _ends(values: Array) -> Array:
    """Return the ends of the bootstrap intervals, [2, points], of values [runs, points]."""
    if len(values) < 2:
        return np.full((2, values.shape[1]), np.nan)
    try:
        from arch.bootstrap import IIDBootstrap
    except ImportError as error:
        raise MissingPackageError(
            "intervals over several runs need the package arch: pip install 'hpcmarl[report]'"
        ) from error
    bootstrap = IIDBootstrap(values, seed=np.random.default_rng(SEED))
    ends: Array = bootstrap.conf_int(interquartile_mean, reps=RESAMPLES, method="percentile", size=LEVEL)
    return ends


def interval(values: ArrayLike) -> Interval | None:
    """Return the interquartile mean of one number a run, with its interval.

    Args:
        values: One number for each run; those that are not finite are left out.

    Returns:
        The mean; None without a finite number.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    low, high = _ends(numbers[:, None])[:, 0]
    return Interval(float(interquartile_mean(numbers)), float(low), float(high), numbers.size)


def band(curves: Sequence[tuple[Array, Array]]) -> Band | None:
    """Return the curve of a group of runs, as far as all of them have come.

    Each curve is interpolated linearly on a common grid, which begins where the last curve begins and ends
    where the first one ends.

    Args:
        curves: x and y of each run; x increases.

    Returns:
        The curve. None with fewer than two curves of two points each, or if they do not overlap.
    """
    finite = [(x[keep], y[keep]) for x, y in curves for keep in (np.isfinite(x) & np.isfinite(y),)]
    usable = [(x, y) for x, y in finite if len(x) >= 2]
    if len(usable) < 2:
        return None
    begin, end = max(x[0] for x, _ in usable), min(x[-1] for x, _ in usable)
    if not begin < end:
        return None
    grid = np.linspace(begin, end, GRID)
    values = np.stack([np.interp(grid, x, y) for x, y in usable])
    low, high = _ends(values)
    return Band(grid, interquartile_mean(values), low, high)
