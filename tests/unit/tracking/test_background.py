"""Trackers in threads: they never delay the caller, and a failure ends one tracker only."""

import logging
import math
import threading

import pytest

from hpcmarl.errors import StorageError
from hpcmarl.tracking import background
from hpcmarl.tracking.background import Trackers, TrackerThread
from hpcmarl.tracking.base import Tracker
from tests.support.waiting import wait_until

SECONDS = 60.0  # a test that waits longer has failed


class Fake(Tracker):
    """Keeps all calls. `gate` blocks rows, and `fails` raises in a method."""

    def __init__(self, fails=None):
        self.calls, self.fails = [], fails
        self.gate, self.busy = threading.Event(), threading.Event()
        self.gate.set()

    def _call(self, *call):
        self.busy.set()
        assert self.gate.wait(SECONDS)
        if self.fails == call[0]:
            raise ValueError("no\nluck")
        self.calls.append(call)

    def row(self, version, env_steps, seconds, figures):
        self._call("row", version, env_steps, seconds, dict(figures))

    def config(self, values):
        self._call("config", values)

    def summary(self, values):
        self._call("summary", values)

    def close(self):
        self._call("close")


def row(version, **more):
    return {"version": version, "env_steps": 10 * version, "seconds": 0.5, **more}


def started(*fakes, **more):
    return Trackers([TrackerThread(f"fake{index}", lambda f=f: f, **more) for index, f in enumerate(fakes)])


def test_calls_arrive_in_order_without_nonfinite_values():
    fake = Fake()
    trackers = started(fake)
    trackers.config({"seed": 1})
    trackers.row(row(1, a=2, b=math.nan, c=-math.inf, d=None, e="text"))
    trackers.close({"best": math.nan, "list": [math.inf, 1.0]})
    trackers.close()
    assert fake.calls == [
        ("config", {"seed": 1}),
        ("row", 1, 10, 0.5, {"a": 2.0}),
        ("summary", {"best": None, "list": [None, 1.0]}),
        ("close",),
    ]


def test_failed_run_has_no_summary():
    fake = Fake()
    started(fake).close()
    assert fake.calls == [("close",)]


def test_stalled_tracker_drops_rows_and_warns_once(monkeypatch, caplog):
    monkeypatch.setattr(background, "MOST_WAITING", 3)
    fake, other = Fake(), Fake()
    trackers = started(fake, other)
    fake.gate.clear()
    trackers.row(row(0))
    assert fake.busy.wait(SECONDS)
    for version in range(1, 9):
        trackers.row(row(version))
        wait_until(lambda count=version + 1: len(other.calls) == count)  # the other tracker keeps up
    assert trackers.threads[0].dropped == 5
    assert [
        line for line in caplog.messages if "does not respond; rows are dropped" in line
    ] == caplog.messages
    assert len(caplog.messages) == 1
    fake.gate.set()
    trackers.close({})
    assert [call[1] for call in fake.calls if call[0] == "row"] == [0, 1, 2, 3]
    assert [call[1] for call in other.calls if call[0] == "row"] == list(range(9))
    assert "fake0 lacks 5 rows; metrics.csv has all rows" in caplog.messages


@pytest.mark.parametrize("method", ["config", "row", "summary", "close"])
def test_exception_ends_one_tracker_with_one_line(method, caplog):
    bad, good = Fake(method), Fake()
    trackers = started(bad, good)
    trackers.config({})
    for version in range(3):
        trackers.row(row(version))
    trackers.close({})
    assert caplog.messages == ["fake0 stops: no luck; training continues, metrics.csv has all rows"]
    assert len(good.calls) == 6
    assert trackers.threads[0].stopped
    assert not trackers.threads[1].stopped


def test_failing_constructor_ends_the_tracker(caplog):
    def make():
        raise SystemExit

    trackers = Trackers([TrackerThread("fake", make)])
    trackers.row(row(1))
    trackers.close({})
    assert caplog.messages == ["fake stops: SystemExit; training continues, metrics.csv has all rows"]


def test_tracker_stops_when_another_job_owns_the_directory(caplog):
    def guard():
        raise StorageError("another job has the directory")

    fake = Fake()
    trackers = started(fake, guard=guard)
    trackers.row(row(1))
    trackers.close({})
    assert fake.calls == [("close",)]
    assert "another job has the directory" in caplog.text


def test_close_does_not_wait_for_a_stalled_tracker(monkeypatch, caplog):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    fake = Fake(fails="row")
    fake.gate.clear()
    trackers = started(fake)
    trackers.row(row(1))
    trackers.close({})
    assert caplog.messages == ["fake0 does not respond; its last rows may be missing"]
    fake.gate.set()
    trackers.threads[0].join(SECONDS)
    assert len(caplog.messages) == 1  # its later error is not worth a line


def test_without_trackers_nothing_is_started():
    trackers = Trackers()
    trackers.row({})
    trackers.close({})
    assert trackers.threads == ()
