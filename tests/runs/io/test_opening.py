"""Opening of a run directory: locks, differences, other runs, checkpoints from other places."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.io.run_lock import NAME
from hpcmarl.launch.ownership import this_owner
from hpcmarl.launch.processes import started_at
from hpcmarl.training import prepare, start_logging
from tests.support.worlds import SPREAD, run_world, summary

CLIMBING = ("env.id=matrix:stag_hunt", "env.kwargs={}")


def records(run: Path) -> list[tuple[int, int | None, int]]:
    found = [json.loads(path.read_text()) for path in sorted((run / "starts").glob("*.json"))]
    return [(record["number"], record["parent"], record["version"]) for record in found]


def lock_by_living(run: Path) -> None:
    """Write the lock of a living process: the parent of this one."""
    owner = {**this_owner({}), "process": os.getppid(), "started": started_at(os.getppid()), "token": "x"}
    (run / NAME).write_text(json.dumps(owner))


@pytest.mark.parametrize("resume", [None, "auto", "path"])
def test_directory_in_use_is_refused(tmp_path: Path, resume: str | None) -> None:
    run = tmp_path / "run"
    if resume is None:
        run.mkdir()
    else:
        run_world(2, run)
    lock_by_living(run)
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match=rf"--run-dir .*run: in use by process {os.getppid()} on "):
        run_world(2, run, resume=str(run) if resume == "path" else resume)
    assert sorted(run.rglob("*")) == before


def test_lock_is_given_back_at_the_end(tmp_path: Path) -> None:
    run_world(2, tmp_path / "run")
    assert not (tmp_path / "run" / NAME).exists()


def test_refused_start_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        run_world(2, tmp_path / "new", resume=str(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


def test_starts_and_configurations_are_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(2, run)
    run_world(2, run, "stop.updates=8", resume=str(run))
    assert records(run) == [(1, None, 0), (2, 1, 6)]
    assert "updates: 6" in (run / "starts" / "start-0001.yaml").read_text()
    assert "updates: 8" in (run / "config.yaml").read_text()
    facts = json.loads((run / "starts" / "start-0002.json").read_text())["facts"]
    assert facts["process"] == os.getpid()
    assert facts["ranks"] == 2


def test_start_without_checkpoint_supersedes_the_earlier(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(2, run)
    for path in list_checkpoints(run):
        path.write_bytes(b"damaged")
    run_world(2, run, resume="auto")
    assert records(run) == [(1, None, 0), (2, None, 0)]
    assert [path.name for path in (run / "checkpoints" / "superseded" / "start-0002").iterdir()] == [
        "checkpoint-0000000006.h5"
    ]


def test_differences_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run_world(2, run)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    changes = ["stop.updates=8", "optimizer.step_size=0.5", "seed=9"]
    context = prepare(LocalWorld(1).transports[0], load_config(SPREAD, changes), str(run), "auto")
    with caplog.at_level(logging.INFO):
        start_logging(context)
    assert context.lock is not None
    context.lock.release()
    assert f"resumed from version 6 of {run} (checkpoint-0000000006.h5); start 2 of run" in caplog.text
    assert "changed since that checkpoint: optimizer.step_size: " in caplog.text
    assert "-> 0.5" in caplog.text
    assert "changed since that checkpoint: seed: 0 -> 9" in caplog.text
    fork = prepare(LocalWorld(1).transports[0], load_config(SPREAD), str(tmp_path / "fork"), str(run))
    assert fork.lock is not None
    fork.lock.release()
    assert [line.partition(" (")[0] for line in fork.remarks[1:]] == [
        f"forked into {tmp_path / 'fork'} from version 6 of {run}",
        "the configuration is that of the checkpoint",
    ]


def test_another_environment_is_refused_unless_accepted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(2, run, *CLIMBING)
    other = load_config(SPREAD, [*CLIMBING, "env.id=matrix:chicken", "stop.updates=8"])
    transport = LocalWorld(1).transports[0]
    with pytest.raises(
        ConfigError,
        match=r"of another environment \(env\.id: matrix:stag_hunt -> matrix:chicken\); .*--accept-changes",
    ):
        prepare(transport, other, str(run), "auto")
    context = prepare(transport, other, str(run), "auto", accept_changes=True)
    assert context.lock is not None
    context.lock.release()


def test_another_name_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    run_world(2, tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"belongs to another run \(name: run -> other\); .*--accept-changes"
    ):
        run_world(2, tmp_path / "run", "name=other", resume="auto")
    run_world(2, tmp_path / "new", "name=other", resume=str(list_checkpoints(tmp_path / "run")[0]))


def test_run_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    run_world(2, tmp_path / "one")
    run_world(2, tmp_path / "two")
    with pytest.raises(ConfigError, match=r"two: not empty; continue that run with --resume"):
        run_world(2, tmp_path / "two", resume=str(tmp_path / "one"))


def test_checkpoint_goes_on_in_a_new_directory(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_world(2, one)
    run_world(2, one, "stop.updates=7", resume=str(one))
    run_world(2, two, "stop.updates=8", "checkpoint.keep=9", resume=str(list_checkpoints(one)[0]))
    assert records(two) == [(1, None, 7)]
    assert [path.name for path in list_checkpoints(two)] == [
        "checkpoint-0000000008.h5",
        "checkpoint-0000000007.h5",
    ]
    run_world(2, two, "stop.updates=9", resume=str(list_checkpoints(two)[1]))
    assert records(two) == [(1, None, 7), (2, None, 7)]


def test_superseded_checkpoint_can_be_gone_on_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(2, run, "stop.updates=3")
    run_world(2, run, resume=str(run))
    run_world(2, run, "stop.updates=6", resume=str(list_checkpoints(run)[1]))
    superseded = run / "checkpoints" / "superseded" / "start-0003" / "checkpoint-0000000006.h5"
    run_world(2, run, "stop.updates=8", resume=str(superseded))
    assert records(run)[3] == (4, 2, 6)
    names = [path.relative_to(run / "checkpoints").as_posix() for path in (run / "checkpoints").rglob("*.h5")]
    assert sorted(names) == [
        "checkpoint-0000000003.h5",
        "checkpoint-0000000006.h5",
        "checkpoint-0000000008.h5",
        "superseded/start-0003/checkpoint-0000000006.h5",
        "superseded/start-0004/checkpoint-0000000006.h5",
    ]


def test_auto_takes_no_run_whose_name_only_begins_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_world(2, Path("runs/quick-2-20260101-120000"), "name=quick-2")
    context = prepare(LocalWorld(1).transports[0], load_config(SPREAD, ["name=quick"]), None, "auto")
    assert context.resume is None
    assert context.run_directory.name.startswith("quick-20")
    assert context.lock is not None
    context.lock.release()
    run_world(2, Path("runs/quick-20260101-120000-2"), "name=quick")
    again = prepare(LocalWorld(1).transports[0], load_config(SPREAD, ["name=quick"]), None, "auto")
    assert again.run_directory.name == "quick-20260101-120000-2"
    assert again.lock is not None
    again.lock.release()


def test_stray_checkpoint_needs_a_run_directory(tmp_path: Path) -> None:
    run_world(2, tmp_path / "run")
    stray = tmp_path / "copied.h5"
    stray.write_bytes(list_checkpoints(tmp_path / "run")[0].read_bytes())
    with pytest.raises(
        ConfigError, match="is in no run's checkpoints/; name the directory of the resumed run with --run-dir"
    ):
        prepare(LocalWorld(1).transports[0], load_config(SPREAD), None, str(stray))


def test_run_interrupted_before_it_begins_keeps_its_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(2, run)
    ranks = run_world(2, run, "stop.updates=12", resume=str(run), interrupt=0)
    assert ranks[0].exit_code == 75
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-0000000006.h5"]
    assert summary(run)["updates"] == 6


def test_file_in_the_run_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ConfigError, match=r"run: a file, not a directory"):
        run_world(1, tmp_path / "run", resume="auto")
