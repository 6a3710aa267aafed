"""Jobs in which all ranks are killed, or the server and another rank.

An error line reports the deaths, and the exit code shows whether the run can be resumed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.launch import rank_processes, ranks_take_seconds, run
from tests.support.worlds import SPREAD, final_state

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


class KillRanks:
    """Kill ranks at the same moment.

    Without `ranks`, all ranks are killed. The kill waits until `count` ranks run and, with `checkpoint`,
    until a checkpoint exists.
    """

    def __init__(self, directory: Path, ranks: tuple[int, ...] = (), *, count: int, checkpoint: bool) -> None:
        self.directory, self.ranks, self.count, self.checkpoint = directory, ranks, count, checkpoint
        self.done = False

    def __call__(self, _session: int) -> None:
        if self.done or (self.checkpoint and not list(self.directory.glob("checkpoints/checkpoint-*.h5"))):
            return
        there = rank_processes(str(self.directory))
        if len(there) == self.count:
            for rank in self.ranks or there:
                os.kill(there[rank], signal.SIGKILL)
            self.done = True


def train(tmp_path: Path, ranks: int, kill: KillRanks) -> tuple[int, str]:
    config = tmp_path / "config.yaml"
    config.write_text(SPREAD)
    changes = ("stop.updates=1000000", "checkpoint.every_updates=20")
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "train",
        str(config),
        "-n",
        str(ranks),
        "--run-dir",
        str(kill.directory),
        *changes,
    ]
    job = run(command, dict(os.environ), limit=120, meanwhile=kill)
    assert kill.done, job.text
    assert not job.orphans
    return job.code, job.text


def test_job_whose_ranks_are_all_killed_can_be_resumed(tmp_path: Path) -> None:
    code, text = train(tmp_path, 3, KillRanks(tmp_path / "run", count=3, checkpoint=True))
    assert code == 75, text
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, text
    assert "all ranks ended without a message" in lines[0]
    assert f"--resume {tmp_path / 'run'}" in lines[0]
    assert final_state(tmp_path / "run")["engine"]["optimizer"]["updates"] >= 20


def test_job_whose_ranks_are_killed_before_a_checkpoint_fails(tmp_path: Path) -> None:
    code, text = train(tmp_path, 3, KillRanks(tmp_path / "run", count=3, checkpoint=False))
    assert code == 1, text
    assert len([line for line in text.splitlines() if line.startswith("error:")]) == 1, text


def test_server_killed_with_its_neighbour_is_reported_once(tmp_path: Path) -> None:
    code, text = train(tmp_path, 4, KillRanks(tmp_path / "run", (0, 1), count=4, checkpoint=True))
    assert code == 75, text
    assert len([line for line in text.splitlines() if line.startswith("error:")]) == 1, text
    assert "rank 0 (server) has died" in text
