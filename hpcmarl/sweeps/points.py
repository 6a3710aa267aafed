"""Values of the trials of a sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config.search import RangeConfig, SearchConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: Number from 1.
        point: Number of its combination of values, from 0.
        seed: Number that is added to the seed of the configuration.
        values: Values by dotted key.
    """

    number: int
    point: int
    seed: int
    values: Mapping[str, Any]


def place_of(sweep: SearchConfig, number: int) -> tuple[int, int]:
    """Return the combination and the seed of a trial.

    Args:
        sweep: The sweep.
        number: Number of the trial, from 1.
    """
    return (number - 1) // sweep.seeds, (number - 1) % sweep.seeds


def fixed_trial(sweep: SearchConfig, number: int) -> Trial:
    """Return a trial of a grid or of a random search, which depends on nothing but the file and its number.

    Args:
        sweep: The sweep; not of `optuna`.
        number: Number of the trial, from 1.
    """
    point, seed = place_of(sweep, number)
    values = _grid_values(sweep, point) if sweep.search == "grid" else _drawn_values(sweep, point)
    return Trial(number, point, seed, values)


def _grid_values(sweep: SearchConfig, point: int) -> Values:
    lists = [values for values in sweep.parameters.values() if isinstance(values, tuple)]
    return dict(
        zip(sweep.parameters, next(itertools.islice(itertools.product(*lists), point, None)), strict=True)
    )


def _drawn_values(sweep: SearchConfig, point: int) -> Values:
    generator = np.random.default_rng([sweep.seed, point])
    return {
        key: draw(values, generator)
        if isinstance(values, RangeConfig)
        else values[generator.integers(len(values))]
        for key, values in sweep.parameters.items()
    }


def draw(interval: RangeConfig, generator: np.random.Generator) -> int | float:
    """Draw a value from a range."""
    low, high = interval.low, interval.high
    if interval.step is not None:
        count = math.floor((high - low) / interval.step + 1e-9) + 1
        value = low + interval.step * int(generator.integers(count))
        return value if interval.whole else float(value)
    if interval.whole and not interval.log:
        return int(generator.integers(int(low), int(high) + 1))
    if interval.log:
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
        return min(int(high), max(int(low), round(drawn))) if interval.whole else drawn
    return float(generator.uniform(low, high))
