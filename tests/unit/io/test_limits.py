"""Progress towards the limits of a run, and the time left."""

import pytest

from hpcmarl.config import StopConfig
from hpcmarl.io.limits import duration, seconds_left, share_done

NOW = {"version": 60, "env_steps": 5000, "seconds": 30.0}


@pytest.mark.parametrize(
    ("stop", "share", "left"),
    [
        ({"updates": 100}, 0.6, 20.0),
        ({"seconds": 40}, 0.75, 10.0),
        ({"updates": 100, "seconds": 40}, 0.75, 10.0),
        ({"env_steps": 4000}, 1.0, 0.0),
        ({"return_mean": 3.0, "seconds": None, "updates": None}, None, None),
    ],
)
def test_the_first_limit_gives_share_and_time_left(stop, share, left):
    """The speeds are those since an earlier moment: 20 updates and 1000 steps in 10 s."""
    limits = StopConfig(**stop)
    before = {"version": 40, "env_steps": 4000, "seconds": 20.0}
    assert share_done(limits, NOW) == (None if share is None else pytest.approx(share))
    assert seconds_left(limits, NOW, before) == (None if left is None else pytest.approx(left))


def test_a_run_that_stands_still_has_no_estimate():
    assert seconds_left(StopConfig(updates=100), NOW, NOW) is None


def test_durations_have_at_most_two_units():
    shown = [duration(seconds) for seconds in (0.4, 59, 200, 3700, 90_000)]
    assert shown == ["0 s", "59 s", "3 min 20 s", "1 h 1 min", "1 d 1 h"]
