"""Terms of a league are starts of the runs of its members.

Steps that a kill causes to be played again are superseded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.transport import PeerFailure
from hpcmarl.config.file import load_config
from hpcmarl.errors import StorageError
from hpcmarl.io import run_lock
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.run_lock import acquire
from hpcmarl.io.starts import read_starts
from hpcmarl.io.trajectories.live_segments import overlaps, superseded
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.league.runtime.team import lock_member
from hpcmarl.runtime.rank import Rank
from hpcmarl.training import make_rank, prepare
from tests.support.leagues import RPS
from tests.support.worlds import LIMIT, SPREAD, run_world, summary

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
        # Every term ended in order: no step was played twice.
        assert superseded([member]) == {}
    assert all(verify_file(path)["status"] == "good" for path in run_files(run))


def test_woken_leader_writes_nothing_over_the_next_teams_files(tmp_path: Path) -> None:
    """Check the lock of a leader that was frozen and declared dead.

    It wakes after another team has started with its member.
    """
    lock = acquire(tmp_path, {"host": "frozen", "process": 1}, lambda _: True)
    next_team = acquire(tmp_path, {"host": "next", "process": 2}, lambda _: True)
    with pytest.raises(StorageError, match="taken over by process 2 on next"):
        lock.check()
    lock.release()
    next_team.check()
    next_team.release()


def contents(directory: Path) -> dict[str, bytes]:
    """Return the contents of the files of a member, except its lock."""
    files = (path for path in directory.rglob("*") if path.is_file() and "run.lock" not in path.name)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_woken_leader_leaves_alone_and_its_member_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a frozen leader wake before it has read that it was declared dead.

    A leader on another host cannot be killed.
    """
    changes = (
        "topology.groups=2",
        "topology.actors_per_learner=0",
        "topology.server=dedicated",
        "stop.updates=60",
        "checkpoint.every_updates=1",
    )
    config, world = load_config(RPS, [*changes, "league.freeze.most_updates=30"]), LocalWorld(3)
    ranks = [make_rank(prepare(transport, config, str(tmp_path), None)) for transport in world.transports]
    first, second = (rank.roles["client"] for rank in ranks[1:])
    try:
        step_until(ranks, lambda: first.team is not None and first.team.server.engine.version >= 3)
        member, directory = first.team.assignment.member, first.team.inner.run_directory
        world.dead.add(1)
        healthy = [ranks[0], ranks[2]]
        step_until(
            healthy,
            lambda: (
                second.team is not None
                and second.team.assignment.member == member
                and second.team.server.engine.version >= 6
            ),
        )
        second.team.server.recorder.metrics.wait()
        second.team.server.checkpoints.writer.wait()
        # The leader checks its lock at once, as after a long freeze.
        monkeypatch.setattr(run_lock, "LOOK_SECONDS", 0.0)
        before = contents(directory)
        with pytest.raises(
            PeerFailure, match=r"the other ranks continued without rank 1: .*run\.lock: taken over"
        ):
            step_often(ranks[1])
        ranks[1].close()
        assert contents(directory) == before
        step_until(healthy, lambda: all(rank.exit_code is not None for rank in healthy))
    finally:
        for rank in ranks:
            rank.close()
    assert all(verify_file(path)["status"] == "good" for path in run_files(tmp_path))
    assert {name: row["updates"] for name, row in summary(tmp_path)["members"].items()} == {"a": 60, "b": 60}


def step_until(ranks: list[Rank], there: Callable[[], bool]) -> None:
    for _ in range(LIMIT):
        if there():
            return
        for rank in ranks:
            if rank.exit_code is None:
                rank.step()
    raise AssertionError("it never came")


def test_leader_that_wakes_late_takes_no_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "RENEWAL_SECONDS", 0.02)
    held = lock_member(tmp_path, start=7)
    with pytest.raises(PeerFailure, match=r"the other ranks continued without this rank: .*: in use by"):
        lock_member(tmp_path, start=6)
    held.check()
    lock_member(tmp_path, start=8).release()
    held.release()


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
