"""Trackers in whole runs and leagues: one writer, the rows of metrics.csv, and resumed curves."""

import json
import math

import pytest

from hpcmarl.errors import MissingPackageError
from hpcmarl.io.metrics import read_metrics
from hpcmarl.tracking.tensorboard import TensorBoard, tag_of
from tests.support.event_files import curve, events, rows
from tests.support.leagues import RPS
from tests.support.worlds import run_world, summary

TRACKED = ("logging.every_seconds=0.0001", "logging.tensorboard=true")


def assert_same_rows(run):
    """Compare all columns and rows of metrics.csv with the event files, in float32."""
    columns = read_metrics(run)
    found = rows(run / "tensorboard")
    assert [row["run/version"] for row in found] == columns["version"].tolist()
    for name, values in columns.items():
        tag = "step" if name == "env_steps" else tag_of(name)
        finite = {number: value for number, value in enumerate(values.tolist()) if math.isfinite(value)}
        own = {number: row[tag] for number, row in enumerate(found) if tag in row}
        assert own == pytest.approx(finite, rel=1e-6), name


def test_event_files_hold_the_rows_of_metrics(tmp_path):
    run = tmp_path / "run"
    run_world(3, run, *TRACKED)
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert_same_rows(run)
    found = events(run / "tensorboard")
    assert all(math.isfinite(value) for each in found for value in each.scalars.values())
    [config] = [each.texts["config"] for each in found if "config" in each.texts]
    assert json.loads(config)["stop"]["updates"] == 6
    [results] = [each.texts["summary"] for each in found if "summary" in each.texts]
    assert json.loads(results)["updates"] == summary(run)["updates"] == 6


def test_resumed_run_continues_the_same_curves(tmp_path):
    run = tmp_path / "run"
    # Without reuse, each version has more environment steps than the one before.
    changes = (*TRACKED, "algo.reuse=1", "checkpoint.every_updates=2", "checkpoint.keep=9")
    run_world(2, run, *changes, "stop.updates=9")
    # As after a kill whose newest checkpoint is of version 2 or 4. A checkpoint is left out while
    # an earlier one is written, so that of version 4 may not exist.
    for path in (run / "checkpoints").iterdir():
        if int(path.stem.partition("-")[2]) > 4:
            path.unlink()
    run_world(2, run, *changes, "stop.updates=7", resume=str(run))
    assert sum(each.start for each in events(run / "tensorboard")) == 1
    assert summary(run)["updates"] == 7
    assert [row["run/version"] for row in rows(run / "tensorboard")] == list(range(1, 8))
    assert_same_rows(run)


def test_start_without_a_checkpoint_begins_new_curves(tmp_path):
    run = tmp_path / "run"
    run_world(2, run, *TRACKED, "stop.updates=9")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    run_world(2, run, *TRACKED, resume="auto")
    assert [version for _, version in curve(run / "tensorboard", "run/version")] == list(range(1, 7))


@pytest.mark.parametrize("method", ["row", "__init__", "close"])
def test_broken_tracker_does_not_change_the_run(tmp_path, monkeypatch, caplog, method):
    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(TensorBoard, method, broken)
    run_world(2, tmp_path / "run", *TRACKED)
    assert summary(tmp_path / "run")["status"] == "finished"
    assert len(read_metrics(tmp_path / "run")["version"]) == 6
    assert caplog.text.count("broken on purpose") == 1


def test_no_tracker_leaves_no_folder(tmp_path):
    run_world(2, tmp_path / "run", TRACKED[0])
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert not (tmp_path / "run" / "wandb").exists()


def test_missing_wandb_ends_before_the_run_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcmarl.tracking.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"hpcmarl\[wandb\]"):
        run_world(2, tmp_path / "run", "logging.wandb=offline")
    assert not (tmp_path / "run").exists()


def test_league_tracks_totals_and_each_member(tmp_path):
    run_world(3, tmp_path, *TRACKED, text=RPS)
    totals = events(tmp_path / "tensorboard")
    names = sorted(path.name for path in (tmp_path / "members").iterdir())
    last = next(each.scalars for each in reversed(totals) if "run/snapshots" in each.scalars)
    assert last["run/snapshots"] == summary(tmp_path)["snapshots"]
    for name in names:
        tags = {tag for each in totals for tag in each.scalars}
        assert {f"{name}/updates", f"{name}/env_steps"} <= tags
        member = tmp_path / "members" / name / "0001"
        versions = [version for _, version in curve(member / "tensorboard", "run/version")]
        assert versions == sorted(set(versions))
        assert versions[-1] == summary(tmp_path)["members"][name]["updates"]
