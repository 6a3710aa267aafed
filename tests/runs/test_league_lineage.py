"""Terms of a league are starts of their members' runs: what a kill makes them play again is superseded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.errors import StorageError
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.live_segments import overlaps, superseded
from hpcmarl.io.run_lock import acquire
from hpcmarl.io.shard_reader import ShardReader, list_shards
from hpcmarl.io.starts import read_starts
from hpcmarl.roles.rank import Rank
from hpcmarl.roles.run import make_rank, prepare
from tests.support.leagues import RPS
from tests.support.worlds import SPREAD, run_world

KEPT = ("trajectories.enabled=true", "stop.updates=8")


def members(run: Path) -> list[Path]:
    return sorted((run / "members").glob("*/*"))


@pytest.mark.slow("two starts of a whole league")
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


def test_woken_leader_writes_nothing_over_the_next_teams_files(tmp_path: Path) -> None:
    """A leader that was frozen, given up, and wakes after another team has begun with its member."""
    lock = acquire(tmp_path, {"host": "frozen", "process": 1}, lambda _: True)
    next_team = acquire(tmp_path, {"host": "next", "process": 2}, lambda _: True)
    with pytest.raises(StorageError, match="taken over by process 2 on next"):
        lock.check()
    lock.release()
    next_team.check()
    next_team.release()


def step_often(rank: Rank) -> None:
    for _ in range(1000):
        rank.step()


def test_leader_without_its_lock_keeps_no_checkpoint(tmp_path: Path) -> None:
    context = prepare(LocalWorld(1).transports[0], load_config(SPREAD), str(tmp_path / "run"), None)
    rank = make_rank(context)
    try:
        while rank.roles["server"].engine.version < 2:
            rank.step()
        (tmp_path / "run" / "run.lock").write_text('{"token": "other", "host": "n2", "process": 9}')
        rank.roles["server"].ask_to_stop("interrupted")
        with pytest.raises(StorageError, match="taken over by process 9 on n2"):
            step_often(rank)
    finally:
        rank.close()
    assert list_checkpoints(tmp_path / "run") == []
