"""Periodic actions: a fixed interval, and an interval that grows with the cost of the action."""

import pytest

from hpcmarl.roles import base
from hpcmarl.roles.base import Interval, Paced


def test_an_interval_is_due_once_the_time_has_passed(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(base.time, "monotonic", lambda: now[0])
    interval = Interval(2.0)
    told = []
    for moment in (11.0, 12.5, 13.0, 14.6):
        now[0] = moment
        told.append(interval.due())
    assert told == [False, True, False, True]


def test_paced_interval_grows_with_cost_and_ignores_outliers(monkeypatch):
    monkeypatch.setattr(Paced, "SHARE", 0.01)
    pace = Paced(1.0)
    told = []
    for taken in (0.5, 0.001, 0.02, 0.04, 9.0, 0.03, 0.001):
        pace.took(taken)
        told.append(pace.seconds)
    assert told == pytest.approx([1.0, 1.0, 1.0, 2.0, 4.0, 3.0, 1.0])
