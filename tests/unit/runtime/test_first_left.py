"""Which rank reports that the server's rank has died."""

from types import SimpleNamespace

import pytest

from hpcmarl.runtime import abort as abort_module
from hpcmarl.runtime.abort import AbortHook


class Watched:
    """The transport of rank 2 of four, with a simulated clock that only sleep() advances.

    MPI reports the death of rank 1 to it after the given number of seconds.
    """

    rank = 2

    def __init__(self, seconds, monkeypatch):
        self.seconds, self.now = seconds, 0.0
        monkeypatch.setattr(abort_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(abort_module.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def receive(self):
        return None

    def lost(self):
        return [1] if self.now >= self.seconds else []


@pytest.fixture
def first_left(monkeypatch, tmp_path):
    def ask(seconds, *, noted=True, hosts=("h", "h", "h", "h")):
        if noted:
            monkeypatch.setenv("HPCMARL_OUTCOME", str(tmp_path / "code"))
        else:
            monkeypatch.delenv("HPCMARL_OUTCOME", raising=False)
        monkeypatch.setattr(abort_module.threading, "excepthook", None)
        hook = AbortHook(Watched(seconds, monkeypatch))
        hook.rank = SimpleNamespace(dead={0}, context=SimpleNamespace(topology=SimpleNamespace(hosts=hosts)))
        return hook._is_first_left()

    return ask


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_rank_reports_where_its_neighbour_died_too(first_left, seconds):
    assert first_left(seconds)


def test_rank_is_silent_where_a_lower_one_lives(first_left):
    assert not first_left(1000.0)


def test_rank_is_silent_once_somebody_has_reported(first_left, tmp_path):
    (tmp_path / "code.said").touch()
    assert not first_left(0.0)


@pytest.mark.parametrize("more", [{"noted": False}, {"hosts": ("a", "a", "b", "b")}])
def test_ranks_do_not_wait_where_no_file_tells(first_left, more):
    assert first_left(0.1, **more)
    assert not first_left(2.0, **more)
