"""Two jobs in one run directory, and a job that is killed before its first checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.bench.faults.jobs import Job, wait_until
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.row_files import read_csv
from hpcmarl.io.run_lock import read_owner
from hpcmarl.io.trajectories.live_segments import overlaps, superseded
from hpcmarl.io.trajectories.merge import merge_shards
from hpcmarl.io.trajectories.shard_reader import ShardReader
from tests.support.launch import ranks_take_seconds
from tests.support.worlds import SPREAD, summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


def arguments(tmp_path: Path, *changes: str) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text(SPREAD)
    kept = ("trajectories={enabled: true, shard_seconds: 0.3}", "logging.every_seconds=0.001")
    return [
        "train",
        str(config),
        "-n",
        "3",
        "--run-dir",
        str(tmp_path / "run"),
        "--resume",
        "auto",
        *kept,
        *changes,
    ]


def rows(run: Path) -> int:
    path = run / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_second_job_in_a_directory_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Job(
        arguments(tmp_path, "stop.updates=1000000", "checkpoint.every_updates=10"), tmp_path / "first.log"
    )
    try:
        wait_until(lambda: rows(run) > 5 or not first.running, 60)
        owner = read_owner(run)
        assert owner is not None
        command = [sys.executable, "-m", "hpcmarl", *arguments(tmp_path, "stop.updates=1000000")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2, second.stderr
        assert [line for line in second.stderr.splitlines() if line.startswith("error: ")] == [
            next(
                line
                for line in second.stderr.splitlines()
                if f"in use by process {owner['process']} on " in line
            )
        ]
        before = rows(run)
        wait_until(lambda: rows(run) > before or not first.running, 30)
        assert first.stop(60) == 75
    finally:
        first.kill()
    assert read_owner(run) is None
    assert all(verify_file(path)["status"] == "good" for path in run_files(run))


def test_job_killed_before_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Job(arguments(tmp_path, "stop.updates=1000000"), tmp_path / "first.log")
    try:
        wait_until(lambda: len(list(run.glob("trajectories/*/shard-*.h5"))) >= 2 or not first.running, 60)
        assert first.running, first.closing_lines()
    finally:
        first.kill()
    assert not list(run.glob("checkpoints/*.h5"))
    again = Job(arguments(tmp_path, "stop.updates=40"), tmp_path / "second.log")
    try:
        wait_until(lambda: not again.running, 90)
    finally:
        again.kill()
    assert summary(run)["updates"] == 40, again.closing_lines()
    assert (np.diff(read_csv(run / "metrics.csv")["version"]) > 0).all()
    assert overlaps(run) == []
    assert set(superseded([run])) == {"1"}
    merge_shards([run], tmp_path / "merged.h5")
    with ShardReader(tmp_path / "merged.h5") as merged:
        assert set(merged.index["start_number"].tolist()) == {2}
        assert merged.index["version"].max() <= 40
    assert not list(run.glob("trajectories/*/*.partial"))
    records = [json.loads(path.read_text()) for path in sorted((run / "starts").glob("*.json"))]
    assert [(record["number"], record["parent"]) for record in records] == [(1, None), (2, None)]
    assert os.path.exists(run / "starts" / "start-0001-metrics.csv")
