"""Leagues on real ranks: both MPI libraries, a killed leader, and a killed job resumed with other ranks."""

import json
import os
import signal

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.io.pool import list_snapshots
from hpcmarl.training import train
from tests.support.launch import (
    LIBRARIES,
    mpi_command,
    python_of,
    rank_processes,
    ranks_take_seconds,
    run,
    run_train,
)
from tests.support.leagues import RPS
from tests.support.worlds import final_state, summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
TWO_TEAMS = ("topology.groups=2", "topology.actors_per_learner=0", "topology.server=dedicated")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(RPS)
    return path


@pytest.mark.parametrize("library", LIBRARIES)
def test_exploiter_is_trained_and_evaluated_on_three_ranks(library, config, tmp_path):
    """Rank 0 selects the target and plays the final match.

    It sends the target to the other ranks, which wait during the match.
    """
    assert train(load_config(config, ["stop.updates=2"]), str(tmp_path / "run"), None) == 0
    arguments = ["league", "exploit", str(tmp_path / "run"), "a", "stop.updates=4", "--episodes", "20"]
    command, environment = mpi_command(library, 3, [python_of(library), "-m", "hpcmarl", *arguments])
    job = run(command, environment)
    assert job.code == 0, job.text
    assert not job.orphans
    found = json.loads((tmp_path / "run" / "exploiters" / "a-000001" / "exploit.json").read_text())
    assert (found["target"], found["updates"], found["episodes"]) == ("a-000001", 4, 20)
    assert summary(tmp_path / "run" / "exploiters" / "a-000001")["ranks"] == 3
    job = run(command, environment)
    assert job.code == 2
    assert job.text.count("error: ") == 1
    assert "not empty" in job.text


class Kill:
    """Kill ranks once the pool has a number of snapshots; without ranks, kill the whole job."""

    def __init__(self, directory, snapshots, *ranks):
        self.directory, self.snapshots, self.ranks, self.done = directory, snapshots, ranks, False

    def __call__(self, _session):
        if not self.done and len(list_snapshots(self.directory / "pool")) >= self.snapshots:
            processes = rank_processes(str(self.directory))
            for rank in self.ranks or processes:
                os.kill(processes[rank], signal.SIGKILL)
            self.done = True


def test_member_of_a_killed_leader_continues_in_the_other_team(config, tmp_path):
    directory = tmp_path / "run"
    changes = (*TWO_TEAMS, "stop.updates=60", "league.freeze.most_updates=10", "checkpoint.every_updates=5")
    job = run_train(
        "openmpi", 3, config, "--run-dir", str(directory), *changes, meanwhile=Kill(directory, 4, 1)
    )
    assert job.code == 0, job.text
    assert not job.orphans
    told = summary(directory)
    assert [row["rank"] for row in told["lost_ranks"]] == [1]
    assert {name: row["updates"] for name, row in told["members"].items()} == {"a": 60, "b": 60}


def test_killed_league_resumes_on_fewer_ranks_without_loss(config, tmp_path):
    directory = tmp_path / "run"
    changes = ("stop.updates=40", "league.freeze.most_updates=10")
    job = run_train(
        "openmpi", 3, config, "--run-dir", str(directory), *TWO_TEAMS, *changes, meanwhile=Kill(directory, 5)
    )
    assert not job.orphans
    assert not (directory / "summary.json").exists(), job.text
    there, known = list_snapshots(directory / "pool"), final_state(directory)["league"]
    assert len(there) >= 5
    again = run_train("openmpi", 1, config, "--run-dir", str(directory), "--resume", "auto", *changes)
    assert again.code == 0, again.text
    state = final_state(directory)["league"]
    names = state["snapshots"]["names"].split()
    assert set(there) <= set(names)
    assert (
        sorted(names)
        == list_snapshots(directory / "pool")
        == [f"{member}-{term:06d}" for member in "ab" for term in range(5)]
    )
    size = len(known["snapshots"]["names"].split())
    assert (state["payoff"]["games"][:size, :size] >= known["payoff"]["games"]).all()
    assert summary(directory)["seconds"] > 0
