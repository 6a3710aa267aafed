"""Values of trials: combinations of a grid, and draws."""

import math

import numpy as np
import pytest

from hpcmarl.config.search import RangeConfig, SearchConfig
from hpcmarl.sweeps.directory import ranges
from hpcmarl.sweeps.points import draw, fixed_trial


def test_grid_trials_are_all_combinations_with_their_seeds():
    sweep = SearchConfig(parameters={"a": (1, 2), "b": ("x", "y", "z")}, seeds=2)
    trials = [fixed_trial(sweep, number) for number in range(1, sweep.count + 1)]
    assert [tuple(trial.values.values()) for trial in trials[::2]] == [
        (1, "x"),
        (1, "y"),
        (1, "z"),
        (2, "x"),
        (2, "y"),
        (2, "z"),
    ]
    assert [trial.seed for trial in trials] == [0, 1] * 6
    assert trials[4].values == trials[5].values


def test_draws_depend_on_the_seed_and_number_alone():
    settings = {
        "search": "random",
        "trials": 50,
        "parameters": {"a": RangeConfig(low=0.0, high=1.0), "b": (1, 2)},
    }
    sweep = SearchConfig(**settings, seeds=2)
    values = [fixed_trial(sweep, number).values for number in range(1, 101)]
    assert values == [fixed_trial(sweep, number).values for number in range(1, 101)]
    assert values[0] == values[1] != values[2]
    assert {each["b"] for each in values} == {1, 2}
    assert fixed_trial(SearchConfig(**settings, seed=1), 1).values != values[0]


@pytest.mark.parametrize(
    ("interval", "check"),
    [
        (RangeConfig(low=0.5, high=2.0), lambda x: isinstance(x, float) and 0.5 <= x <= 2.0),
        (RangeConfig(low=1, high=3), lambda x: isinstance(x, int) and x in (1, 2, 3)),
        (RangeConfig(low=1, high=1000, log=True), lambda x: isinstance(x, int) and 1 <= x <= 1000),
        (RangeConfig(low=10, high=50, step=20), lambda x: isinstance(x, int) and x in (10, 30, 50)),
        (
            RangeConfig(low=0.0, high=0.3, step=0.1),
            lambda x: math.isclose(x * 10, round(x * 10), abs_tol=1e-9),
        ),
    ],
    ids=["float", "integer", "log", "steps", "float-steps"],
)
def test_draws_stay_in_their_range(interval, check):
    generator = np.random.default_rng(0)
    drawn = [draw(interval, generator) for _ in range(300)]
    assert all(check(value) for value in drawn)
    assert min(drawn) < interval.low + 0.2 * (interval.high - interval.low)
    assert max(drawn) >= interval.low + 0.5 * (interval.high - interval.low)


def test_logarithmic_draws_are_even_in_the_logarithm():
    generator = np.random.default_rng(0)
    interval = RangeConfig(low=1e-5, high=1e-1, log=True)
    drawn = np.log10([draw(interval, generator) for _ in range(2000)])
    counts, _ = np.histogram(drawn, bins=4, range=(-5, -1))
    assert counts.min() > 400


def test_numbers_of_an_array_are_ranges():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3,7,9-10"
    assert ranges([4]) == "4"
