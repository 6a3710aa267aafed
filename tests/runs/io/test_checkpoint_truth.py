"""Agreement of checkpoints with their version: AllReduce, dead learners, late states and full disks."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcmarl.errors import ConfigError, StorageError
from hpcmarl.io import checkpoint as checkpoints
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from hpcmarl.io.trajectories.live_segments import overlaps
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.roles.server import checkpointing as saving
from hpcmarl.roles.server import server
from tests.support.worlds import run_world, summary

COLLECTIVE = ("rounds.reduce=mpi", "topology.groups=2", "topology.server=dedicated")
EVERY = ("checkpoint.every_updates=2", "checkpoint.keep=9", "stop.updates=12")


def versions(directory: Path) -> list[int]:
    """Return the versions of the checkpoints; check that each agrees with its number of steps."""
    found = []
    for path in list_checkpoints(directory):
        state, attributes = load_checkpoint(path)
        assert (
            state["engine"]["optimizer"]["updates"]
            == state["engine"]["rule"]["round"]
            == attributes["version"]
        )
        found.append(int(attributes["version"]))
    return sorted(found)


def test_allreduce_checkpoint_without_learners_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = run_world(5, tmp_path / "run", *COLLECTIVE, *EVERY, "stop.updates=500", deaths={1: 12, 3: 12})
    found = versions(tmp_path / "run")
    assert found
    assert max(found) <= 12
    assert ranks[0].exit_code == 75
    assert "because no learner's parameters arrived" in caplog.text


def test_allreduce_run_without_any_checkpoint_fails(tmp_path: Path) -> None:
    ranks = run_world(5, tmp_path / "run", *COLLECTIVE, "stop.updates=500", deaths={1: 3, 3: 3})
    assert versions(tmp_path / "run") == []
    assert ranks[0].exit_code == 1


def test_allreduce_checkpoint_waits_for_slow_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "STATE_TIMEOUT", 0.0)
    monkeypatch.setattr(server, "FINAL_STATE_TIMEOUT", 0.0)
    run_world(5, tmp_path / "run", *COLLECTIVE, *EVERY)
    found = versions(tmp_path / "run")
    assert found[-1] == 12
    assert len(found) > 2


def test_missing_states_are_named_when_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FINAL_STATE_TIMEOUT", 0.0)
    run_world(3, tmp_path / "run")
    state, _ = load_checkpoint(list_checkpoints(tmp_path / "run")[0])
    assert "actor 0" in state["missing"]
    caplog.set_level(logging.INFO)
    run_world(3, tmp_path / "run", "stop.updates=8", resume=str(tmp_path / "run"))
    assert "without the state of" in caplog.text
    assert "actor 0" in caplog.text


def test_deterministic_checkpoint_waits_for_every_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "STATE_TIMEOUT", 0.0)
    monkeypatch.setattr(server, "FINAL_STATE_TIMEOUT", 0.0)
    deterministic = ("deterministic=true", "checkpoint.every_updates=2", "checkpoint.keep=9")
    run_world(3, tmp_path / "whole", *deterministic, "stop.updates=8")
    run_world(3, tmp_path / "halves", *deterministic, "stop.updates=4")
    run_world(3, tmp_path / "halves", *deterministic, "stop.updates=8", resume=str(tmp_path / "halves"))
    states = [load_checkpoint(list_checkpoints(tmp_path / name)[0])[0] for name in ("whole", "halves")]
    assert all(not state["missing"] for state in states)
    np.testing.assert_array_equal(*[state["engine"]["optimizer"]["parameters"] for state in states])


def test_deterministic_run_refuses_an_incomplete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FINAL_STATE_TIMEOUT", 0.0)
    run_world(3, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"deterministic: .* lacks the state of .*actor 0"):
        run_world(3, tmp_path / "run", "deterministic=true", resume=str(tmp_path / "run"))
    assert sorted(tmp_path.rglob("*")) == before


def test_deterministic_run_refuses_other_actors(tmp_path: Path) -> None:
    run_world(3, tmp_path / "run", "deterministic=true")
    with pytest.raises(ConfigError, match=r"deterministic: .*2 actors .* 3 now"):
        run_world(5, tmp_path / "run", "deterministic=true", "stop.updates=8", resume=str(tmp_path / "run"))


def test_lost_final_checkpoint_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = checkpoints.save_checkpoint

    def full(directory: Path, state: object, *, version: int, **rest: object) -> Path:
        if version == 12:
            raise StorageError(f"{directory}: cannot write: No space left on device; free some space")
        return whole(directory, state, version=version, **rest)

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    ranks = run_world(3, tmp_path / "run", "checkpoint.every_updates=3", "stop.updates=12")
    assert {rank.exit_code for rank in ranks} == {1}
    assert "No space left" in summary(tmp_path / "run")["checkpoint_error"]
    kept = versions(tmp_path / "run")
    assert 12 not in kept
    assert f"the last good one is of version {kept[-1]}" in caplog.text


def test_resuming_an_older_checkpoint_abandons_the_newer(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(3, run, "stop.updates=4")
    run_world(3, run, "checkpoint.keep=2", resume=str(run))
    assert versions(run) == [4, 6]
    older = list_checkpoints(run)[1]
    run_world(3, run, "checkpoint.keep=2", "stop.updates=5", resume=str(older))
    assert versions(run) == [4, 5]
    assert [path.name for path in (run / "checkpoints" / "superseded" / "start-0003").iterdir()] == [
        "checkpoint-0000000006.h5"
    ]
    records = [json.loads(path.read_text()) for path in sorted((run / "starts").glob("*.json"))]
    assert [(record["number"], record["parent"], record["version"]) for record in records] == [
        (1, None, 0),
        (2, 1, 4),
        (3, 1, 4),
    ]


def test_replaced_actor_records_in_the_same_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept = (
        "trajectories.enabled=true",
        "topology.respawn=true",
        "checkpoint.every_updates=5",
        "stop.updates=40",
    )
    run_world(3, run, *kept, deaths={2: 10})
    run_world(3, run, *kept, "stop.updates=80", deaths={2: 50}, resume=str(run))
    assert overlaps(run) == []
    found = {}
    for shard in list_shards(run):
        with ShardReader(shard) as reader:
            for start in set(reader.index["start_number"].tolist()):
                found.setdefault((start, int(reader.attributes["rank"])), []).extend(
                    reader.index["rollout"].tolist()
                )
    assert {start for start, _ in found} == {1, 2}
    for start in (1, 2):
        # The process that replaced the dead rank wrote these.
        assert max(found[start, 2]) >= server.ROLLOUTS_AHEAD
        assert max(found[start, 1]) < server.ROLLOUTS_AHEAD


@pytest.mark.parametrize("disk_seconds", [0.0, 0.3])
def test_deterministic_run_resumes_from_whole_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_seconds: float
) -> None:
    """Resume from a whole state, even if a slow disk had not written the first one when the rank died."""
    save = checkpoints.save_checkpoint

    def slowly(*arguments: Any, **named: Any) -> Path:
        time.sleep(disk_seconds)
        return save(*arguments, **named)

    monkeypatch.setattr(checkpoints, "save_checkpoint", slowly)
    run, deterministic = (
        tmp_path / "run",
        ("deterministic=true", "checkpoint.every_updates=2", "checkpoint.keep=9"),
    )
    ranks = run_world(3, run, *deterministic, "stop.updates=30", deaths={2: 9})
    assert ranks[0].exit_code == 75
    found = [load_checkpoint(path)[0] for path in list_checkpoints(run)]
    assert found
    assert all(not state["missing"] for state in found)
    run_world(3, run, *deterministic, "stop.updates=30", resume="auto")
    run_world(3, tmp_path / "whole", *deterministic, "stop.updates=30")
    states = [load_checkpoint(list_checkpoints(path)[0])[0] for path in (run, tmp_path / "whole")]
    np.testing.assert_array_equal(*[state["engine"]["optimizer"]["parameters"] for state in states])


def test_actors_whose_state_arrived_go_on_from_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_world(4, run, "stop.updates=30", deaths={3: 5})
    state, _ = load_checkpoint(list_checkpoints(run)[0])
    assert state["missing"] == ["actor 1"]
    ranks = run_world(4, run, "stop.updates=31", resume=str(run))
    assert ranks[0].exit_code == 0
    resumed, _ = load_checkpoint(list_checkpoints(run)[0])
    generators = [found["roles"]["actor"]["0"]["generator"]["state"]["inc"] for found in (state, resumed)]
    assert generators[0] == generators[1]  # the same stream, not a new one
