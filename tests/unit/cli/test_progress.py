"""Progress of long commands: a bar in a terminal, rare lines elsewhere, and nothing for quick commands."""

import os
import pty
import select
import sys
import types

import pytest

from hpcmarl.cli import progress
from hpcmarl.cli.progress import BYTES, Progress


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until its attribute `now` is set."""
    own = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: own.now))
    return own


def test_a_quick_command_prints_nothing(clock, capsys):
    with Progress("runs", 10) as shown:
        for _ in range(10):
            clock.now += 0.9
            shown.advance()
    assert capsys.readouterr() == ("", "")


def test_lines_are_rare_and_estimate_the_time_left(clock, capsys):
    """A part takes 5 s: lines come after 10 s, and then every 30 s."""
    with Progress("runs", 1000) as shown:
        for _ in range(10):
            clock.now += 5.0
            shown.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "2 of 1,000 runs, about 1 h 23 min left",
        "8 of 1,000 runs, about 1 h 22 min left",
    ]


def test_parts_of_an_earlier_start_do_not_count_for_the_estimate(clock):
    for shown in (Progress("trials", 10, 4), Progress("trials")):
        shown.at(4, 10)
        assert shown.line() == "4 of 10 trials"
        clock.now += 8.0
        shown.at(6)
        assert shown.line() == "6 of 10 trials, about 16 s left"


def test_bytes_are_shown_as_megabytes_and_parts_without_fraction(clock):
    shown = Progress(BYTES, 3_000_000_000)
    shown.at(1_500_000)
    assert shown.line().startswith("1.5 of 3,000.0 MB")
    shown = Progress("percent", 100)
    shown.at(37.8)
    assert shown.line().startswith("37 of 100 percent")
    unknown = Progress("episodes")
    unknown.advance()
    assert unknown.line() == "1 episodes"


@pytest.mark.parametrize("what", ["episodes", BYTES])
def test_a_terminal_shows_a_bar_and_the_output_stays_clean(monkeypatch, capsys, what):
    """Standard error is a pseudo-terminal."""
    reader, writer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(what, 4) as shown:
            shown.at(3, words="[red]case 7[/red]")
            shown.say("a line of the result")
            shown.say("a remark", error=True)
        terminal.flush()
        text = ""
        while select.select([reader], [], [], 0.2)[0]:  # a terminal hands over at most 4 kB at a time
            text += os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "━" in text
    assert "3/4" in text
    assert "[red]case 7[/red]" in text  # names are not markup
    assert "a remark" in text
    assert capsys.readouterr().out == "a line of the result\n"
