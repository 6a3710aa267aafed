"""The time that ranks spent: thinning, shares, the file."""

import h5py
import numpy as np
import pytest

from hpcmarl.errors import FormatError
from hpcmarl.io.activity import (
    ACTIVITIES,
    MOST_ROWS,
    ActivityFile,
    ActivityHistory,
    RankActivity,
    activity_path,
    read_activity,
)
from hpcmarl.io.describe import describe, verify_file

RANKS = ("server (a)", "actor (b)")


def spent(stepping):
    """Cumulative seconds of two ranks, of which the second steps."""
    rows = np.zeros((2, len(ACTIVITIES)))
    rows[1, ACTIVITIES.index("stepping")] = stepping
    return rows


def test_activity_rows_are_thinned_over_the_whole_run():
    history = ActivityHistory(2)
    for second in range(5 * MOST_ROWS):
        history.append(float(second), spent(0.5 * second))
    rows = history.rows(RANKS)
    assert MOST_ROWS // 2 <= len(rows.seconds) <= MOST_ROWS
    assert rows.seconds[0] == 0.0
    assert rows.seconds[-1] > 5 * MOST_ROWS - 20
    gaps = np.diff(rows.seconds)
    assert gaps.max() <= 4 * gaps.min()
    assert np.allclose(rows.shares()[:, 1, ACTIVITIES.index("stepping")], 0.5)


def test_activity_of_many_ranks_has_fewer_rows():
    assert ActivityHistory(100_000).most < ActivityHistory(10_000).most < MOST_ROWS


def test_late_reports_give_shares_of_at_most_one():
    rows = RankActivity(
        np.array([0.0, 1.0, 2.0, 3.0]),
        np.stack([spent(0), spent(0), spent(1.8), spent(1.5)]).astype(np.float32),
        ACTIVITIES,
        RANKS,
    )
    shares = rows.shares()
    assert shares.shape == (3, 2, len(ACTIVITIES))
    assert shares[:, 1, 0].tolist() == [0.0, 1.0, 0.0]  # a smaller count is not negative work


def test_activity_file_is_read_back_and_verified(tmp_path):
    (tmp_path / "starts").mkdir()
    path = activity_path(tmp_path, 3)
    file = ActivityFile(path, RANKS, {"env": "a.b", "start": 3})
    file.append(0.0, spent(0.0))
    file.append(2.0, spent(1.0))
    file.write()
    rows = read_activity(path)
    assert rows.ranks == RANKS
    assert rows.activities == ACTIVITIES
    assert rows.seconds.tolist() == [0.0, 2.0]
    assert np.array_equal(rows.spent[1], spent(1.0))
    assert verify_file(path)["status"] == "good"
    assert describe(path)["seconds"]["stepping"] == 1.0


def test_activity_without_rows_is_a_good_file(tmp_path):
    (tmp_path / "starts").mkdir()
    path = activity_path(tmp_path, 1)
    ActivityFile(path, RANKS, {}).write()
    assert verify_file(path)["status"] == "good"
    assert read_activity(path).shares().shape == (0, 2, len(ACTIVITIES))


def test_activity_of_another_shape_is_refused(tmp_path):
    (tmp_path / "starts").mkdir()
    path = activity_path(tmp_path, 1)
    file = ActivityFile(path, RANKS, {})
    file.append(0.0, spent(0.0))
    file.write()
    with h5py.File(path, "r+") as opened:
        del opened["spent"]
        opened["spent"] = np.zeros((1, 5, len(ACTIVITIES)), np.float32)
    with pytest.raises(FormatError, match=r"start-0001-ranks\.h5: float32\[1, 5, 9\] does not match"):
        read_activity(path)
