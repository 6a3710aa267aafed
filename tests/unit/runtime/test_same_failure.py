"""Ranks that meet the same bug of an environment: one prints it, and the others let it end the job."""

from types import SimpleNamespace

import pytest

from hpcmarl.runtime import abort as abort_module
from hpcmarl.runtime.abort import CLOSING_SECONDS, AbortHook


class Waiting:
    """The transport of a rank, with a simulated clock that only sleep() advances."""

    rank, size, host = 3, 4, "h"

    def __init__(self, monkeypatch):
        self.now, self.ended = 0.0, None
        monkeypatch.setattr(abort_module.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def abort(self):
        self.ended = self.now


@pytest.fixture
def failing(monkeypatch, tmp_path):
    def fail(*, first):
        monkeypatch.setattr(abort_module.threading, "excepthook", None)
        monkeypatch.setattr(abort_module, "record_failure", lambda *_: (first, tmp_path / "failure.log"))
        monkeypatch.setattr(abort_module, "last_frames", lambda error: ["line 4"])
        monkeypatch.setattr(AbortHook, "_close_soon", lambda hook: None)  # would end this process later
        transport = Waiting(monkeypatch)
        hook = AbortHook(transport)
        hook.context = SimpleNamespace()
        hook.fail(RuntimeError("the wheel came off"))
        return transport.ended

    return fail


def test_rank_that_reports_a_failure_ends_the_job_soon(failing, capsys):
    assert failing(first=True) < CLOSING_SECONDS
    assert capsys.readouterr().err.count("error: ") == 1


def test_other_rank_leaves_time_to_the_one_that_reports(failing, capsys):
    """The reporting rank may be delayed by a busy machine, and then closes its files."""
    assert failing(first=False) > CLOSING_SECONDS
    assert capsys.readouterr().err == ""
