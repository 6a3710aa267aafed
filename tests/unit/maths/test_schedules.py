"""Numbers that change during a run."""

import pytest

from hpcmarl.maths.schedules import falling


def test_falling_interpolates_and_then_stays_constant():
    assert [falling(1.0, 0.2, 100, done) for done in (0, 50, 100, 1000)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )
