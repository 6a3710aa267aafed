"""`hpcmarl watch`: views of runs that wait, run, have ended or were killed."""

import json

import pytest
from typer.testing import CliRunner

from hpcmarl.analysis.watch import follow, look
from hpcmarl.cli.main import app
from hpcmarl.errors import UsageError
from hpcmarl.io.run_lock import acquire
from tests.support.worlds import run_world


def watch(*arguments):
    """Return the exit code and the output of the command."""
    result = CliRunner().invoke(app, ["watch", *map(str, arguments)])
    return result.exit_code, result.stdout


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    """The run begins while it is awaited, and the last view is that of its end."""
    seen = []

    def sleep(_):
        assert seen[-1].line() == "not started"
        run_world(2, tmp_path / "run")

    last = follow(tmp_path / "run", 1.0, seen.append, sleep=sleep)
    assert [view.state.state for view in seen] == ["empty", "finished"]
    assert "version 6" in last.line()
    assert "environment steps" in last.line()


def test_a_running_run_shows_its_share_and_time_left(tmp_path):
    run_world(2, tmp_path, "stop.updates=6")
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("updates: 6", "updates: 12"))
    lock = acquire(tmp_path, {"host": "node3"}, lambda _: None, print)
    try:
        view = look(tmp_path)
    finally:
        lock.release()
    assert view.share == pytest.approx(0.5)
    assert view.seconds_left == pytest.approx(view.columns["seconds"][-1])
    assert "on node3" in view.line()
    assert "50 %, about 0 s left" in view.line()
    assert not view.ended


def test_a_killed_run_ends_the_watch_unless_it_may_restart(tmp_path):
    run_world(2, tmp_path, interrupt=3)
    assert watch(tmp_path, "--once")[0] == 75
    (tmp_path / "summary.json").unlink()
    code, shown = watch(tmp_path)
    assert code == 1
    assert shown.startswith("killed (started")
    seen = []

    def sleep(_):
        run_world(2, tmp_path, resume="auto")

    last = follow(tmp_path, 1.0, seen.append, through_restarts=True, sleep=sleep)
    assert [view.state.state for view in seen] == ["killed", "finished"]
    assert last.state.starts == 2


def test_the_command_prints_one_json_object(tmp_path):
    run_world(2, tmp_path)
    code, shown = watch(tmp_path, "--json")
    found = json.loads(shown)
    assert code == 0
    assert (found["state"], found["share"], found["last_row"]["version"]) == ("finished", 1.0, 6.0)
    code, shown = watch(tmp_path / "none", "--json")
    assert (code, json.loads(shown)["state"]) == (0, "empty")


def test_damaged_files_do_not_end_a_watch(tmp_path):
    run_world(2, tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"\0" * 100)
    (tmp_path / "summary.json").write_text("{")
    assert look(tmp_path).line().startswith("killed")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("quickstart.yaml", "quickstart.yaml: does not exist and has the name of a file; allowed: the dir"),
        (
            "nowhere/run",
            "nowhere is no directory, so no run can begin in it; allowed: the directory of a run",
        ),
        ("kept.txt", "kept.txt: a file; allowed: the directory of a run"),
    ],
)
def test_a_path_that_no_run_can_have_is_refused(tmp_path, path, why):
    """Without the error, the command would wait without end."""
    (tmp_path / "kept.txt").touch()
    with pytest.raises(UsageError, match=why) as raised:
        CliRunner().invoke(app, ["watch", str(tmp_path / path)], catch_exceptions=False)
    assert raised.value.exit_code == 2
