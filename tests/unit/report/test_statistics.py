"""Interquartile means, their intervals and the curves of groups."""

import numpy as np
import pytest

from hpcmarl.report.statistics import GRID, band, interquartile_mean, interval


def test_interquartile_mean_leaves_out_the_outer_quarters():
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, 3.0, 4.0, -1e9, 2.0, 3.0])) == 2.5
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0  # nothing to leave out


def test_interval_holds_the_mean_and_is_repeatable():
    values = np.random.default_rng(0).normal(5.0, 1.0, size=10)
    found = interval(values)
    assert found == interval(values)
    assert found.low < found.mean < found.high
    assert found.runs == 10
    assert 0.5 < found.high - found.low < 3.0  # four standard errors of the mean are 1.26


def test_interval_of_one_run_has_no_ends():
    found = interval([3.0, np.nan])
    assert (found.mean, found.runs) == (3.0, 1)
    assert np.isnan(found.low)
    assert interval([np.nan]) is None


def test_band_covers_what_all_runs_have_reached():
    first = (np.array([0.0, 100.0]), np.array([0.0, 1.0]))
    second = (np.array([10.0, 50.0, 80.0]), np.array([1.0, 1.0, np.nan]))
    found = band([first, second])
    assert len(found.x) == GRID
    assert (found.x[0], found.x[-1]) == (10.0, 50.0)
    assert found.mean[0] == pytest.approx(0.55)
    assert (found.low <= found.mean).all()
    assert (found.mean <= found.high).all()


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [(np.array([0.0, 1.0]), np.array([0.0, 1.0]))],
        [(np.array([0.0, 1.0]), np.array([0.0, 1.0])), (np.array([2.0, 3.0]), np.array([0.0, 1.0]))],
        [(np.array([0.0, 1.0]), np.array([0.0, 1.0])), (np.array([0.0]), np.array([1.0]))],
    ],
    ids=["none", "one", "apart", "point"],
)
def test_band_needs_two_overlapping_curves(curves):
    assert band(curves) is None
