"""Terms of a league are starts of their members' runs: what a kill makes them play again is superseded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.live_segments import overlaps, superseded
from hpcmarl.io.shard_reader import ShardReader, list_shards
from hpcmarl.io.starts import read_starts
from tests.support.leagues import RPS
from tests.support.worlds import run_world

KEPT = ("trajectories.enabled=true", "stop.updates=8")


def members(run: Path) -> list[Path]:
    return sorted((run / "members").glob("*/*"))


def test_terms_are_starts_of_their_members(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "league"
    caplog.set_level(logging.WARNING)
    run_world(3, run, *KEPT, text=RPS, interrupt=3)
    run_world(3, run, "trajectories.enabled=true", "stop.updates=14", text=RPS, resume=str(run))
    assert members(run)
    for member in members(run):
        starts = read_starts(member)
        shards = list_shards(member)
        assert starts
        assert shards
        assert overlaps(member) == []
        recorded = set()
        for shard in shards:
            with ShardReader(shard) as reader:
                recorded |= set(reader.index["start_number"].tolist())
        assert recorded <= set(starts)
        later = [start for start in starts.values() if start.number > min(starts)]
        assert all(start.parent is not None for start in later)
        assert superseded([member]) == {}  # every term ended in order, so that nothing was played twice
    assert all(verify_file(path)["status"] == "good" for path in run_files(run))
