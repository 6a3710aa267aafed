"""The display of a running run: a panel in a terminal, and occasional lines elsewhere."""

import io
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmarl.config.file import load_config
from hpcmarl.io.curve import MOST_POINTS, Curve
from hpcmarl.roles.base import Interval
from hpcmarl.roles.server.progress import Display
from tests.support.contexts import make_context
from tests.support.worlds import SPREAD

FIGURES = {
    "version": 12,
    "seconds": 30.0,
    "env_steps": 4000,
    "episodes": 160,
    "return_mean": -21.5,
    "return_std": 3.25,
    "staleness_mean": 0.5,
    "wasted_gradients": 7,
    "lost_ranks": 2,
    "replaced_ranks": 1,
    "groups": [1000] * 9,
    "time_shares": {"actors": {"acting": 0.25, "waiting": 0.5}, "server": {"serving": 0.125}},
    "bare_env_steps_per_second": None,
}
KEPT_UP = {
    "share_of_bare": None,
    "unused_share": 0.0,
    "replay_shortfall": None,
    "time_shares": {"learners": {"learning": 0.5}},
}

SUMMARY = {
    "status": "finished",
    "seconds": 61.0,
    "updates": 48,
    "env_steps": 9000,
    "env_steps_per_second": 147.5,
    "return_mean": -21.5,
} | KEPT_UP
SUMMARY["eval_return_mean"] = None


def display_of(*changes, monkeypatch, width=""):
    monkeypatch.setenv("HPCMARL_TERMINAL", width)
    config = load_config(SPREAD, ["logging.progress=true", "stop={updates: 48, seconds: 600}", *changes])
    display = Display(make_context(config, directory=Path("runs/x")))
    display.due = Interval(0.0)
    return display


def test_plain_line_tells_progress_and_lost_ranks(monkeypatch, caplog):
    display = display_of(monkeypatch=monkeypatch)
    with caplog.at_level(logging.INFO):
        display.update(lambda: FIGURES)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("25 %, about 1 min 30 s left; 30 s, version 12, 4,000 environment steps (")
    assert line.endswith("160 episodes, return -21.50 ± 3.25, 2 ranks lost, 1 rank replaced")


def test_first_speed_after_a_resume_leaves_out_earlier_steps(monkeypatch, caplog):
    display = display_of(monkeypatch=monkeypatch)
    display.begin(11, 3_999, 29.0)
    display.last = (display.last[0] - 1.0, display.last[1])
    with caplog.at_level(logging.INFO):
        display.update(lambda: FIGURES)
    assert "4,000 environment steps (1/s)" in caplog.text
    assert "25 %, about 36 s left" in caplog.text  # an update a second; 36 are left


def test_run_without_an_update_says_why_no_round_ended(monkeypatch, caplog):
    display = display_of(monkeypatch=monkeypatch)
    with caplog.at_level(logging.INFO):
        display.finish(SUMMARY | {"updates": 0, "trajectories_by_group": [3, 0]})
        display.finish(SUMMARY | {"updates": 0, "trajectories_by_group": [0]})
    some, none = [record.message for record in caplog.records if "no round ended" in record.message]
    assert f"needs {display.context.batch} trajectories (rounds.batch) and 3 had arrived" in some
    assert some.endswith("Raise stop.seconds, or lower rounds.batch")
    assert "and none had arrived; a trajectory is one unroll of 6 steps (algo.unroll)" in none


def test_plain_lines_become_rarer(monkeypatch):
    display = display_of(monkeypatch=monkeypatch)
    for before, after in ((5.0, 10.0), (40.0, 60.0), (60.0, 60.0)):
        display.due = Interval(before)
        display.due._last -= before
        display.update(lambda: FIGURES)
        assert display.due.seconds == after
        display.update(lambda: pytest.fail("nothing is due"))


def test_panel_has_every_figure(monkeypatch):
    display = display_of(monkeypatch=monkeypatch, width="100")
    display.console.file = shown = io.StringIO()
    display.update(lambda: FIGURES)
    display.close()
    for words in (
        "25 %, about 1 min 30 s left",
        "30 s",
        "staleness 0.50",
        "wasted 7",
        "4,000",
        "2 ranks lost, 1 rank replaced",
        "over 160 episodes",
        "1,000 … trajectories",
        "actors acting 25 %, waiting 50 %; server serving 12 %",
    ):
        assert words in shown.getvalue()


def test_returns_are_drawn_while_a_run_goes_on_and_at_its_end(monkeypatch):
    display = display_of(monkeypatch=monkeypatch, width="100")
    display.console.file = shown = io.TextIOWrapper(io.BytesIO(), "utf-8")
    for number in range(6):
        display.due = Interval(0.0)
        display.update(
            lambda number=number: (
                FIGURES
                | {"seconds": 10.0 * number, "return_mean": -26.0 + 3 * number if number else float("nan")}
            )
        )
    display.finish(SUMMARY)
    shown.seek(0)
    text = shown.read()
    assert "(seconds)" in text
    # The first return is NaN and is not drawn; -23.0 is the next one.
    assert "-23.0" in text
    # The panel is drawn repeatedly, and its last state stays in the terminal.
    assert text.rstrip().count("(return)") >= 4
    narrow = display_of(monkeypatch=monkeypatch, width="30")
    narrow.curve = display.curve
    assert not narrow._curve()


@given(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=900))
def test_curves_hold_what_a_terminal_can_show(values):
    curve = Curve()
    for number, value in enumerate(values):
        curve.add(0.5 * number, value)
    assert len(curve.seconds) <= MOST_POINTS
    assert curve.seconds[0] == 0.0
    assert curve.seconds[-1] >= 0.5 * (len(values) - 1) - 4.0
    assert max(map(len, curve.text(80).splitlines())) <= 80


def test_curves_name_hours_where_a_run_is_long():
    curve = Curve()
    for hours in range(20):
        curve.add(3600.0 * hours, float(hours))
    assert "(hours)" in curve.text(80)


def test_nothing_is_shown_without_progress(monkeypatch, caplog):
    display = display_of("logging.progress=false", monkeypatch=monkeypatch)
    with caplog.at_level(logging.INFO):
        display.update(lambda: pytest.fail("figures were requested"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("evaluated", "words"), [(None, "return -21.50"), (-18.25, "return -21.50, evaluated -18.25")]
)
def test_last_line_tells_what_was_reached(monkeypatch, caplog, evaluated, words):
    with caplog.at_level(logging.INFO):
        display_of(monkeypatch=monkeypatch).finish({**SUMMARY, "eval_return_mean": evaluated})
    told = [record.message for record in caplog.records]
    assert told == [
        f"finished after 61.0 s: 48 updates, 9,000 environment steps (148/s), {words}",
        "time: learners learning 50 %",
        "results in runs/x",
    ]


def test_speed_is_shown_beside_bare_stepping(monkeypatch, caplog):
    display = display_of(monkeypatch=monkeypatch)
    with caplog.at_level(logging.INFO):
        display.update(lambda: FIGURES | {"bare_env_steps_per_second": 1e-9})
    assert "% of bare stepping), 160 episodes" in caplog.text
