"""Workers that die, freeze or crash cost their slots, not the actor; shared memory is freed at any end."""

import os
import signal
import time

import pytest

from hpcmarl.comm.shared_memory import free_shared_bytes
from tests.support.hits import MORE, HitSeveral, HitThenTrain, train_and_hit
from tests.support.launch import rank_processes, ranks_take_seconds, run_train
from tests.support.leagues import RPS
from tests.support.worlds import summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
WORKERS = (
    "topology.workers_per_actor=2",
    "topology.environments_per_actor=4",
    "topology.actors_per_learner=1",
)
# on five ranks: server, learner, actor, two workers
ACTOR, FIRST, SECOND = 2, 3, 4
CRASHING = 'env={id: "tests.support.environments:Crashing", kwargs: {}}'


def lost(directory):
    return [(entry["rank"], entry["roles"]) for entry in summary(directory)["lost_ranks"]]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, f"rank {SECOND} (worker) on "),
        (signal.SIGSTOP, "was not heard for 3 s (topology.heartbeat_timeout_seconds)"),
    ],
)
def test_lost_worker_costs_its_slots_only(number, told, config, tmp_path):
    hit = HitThenTrain(tmp_path / "run", SECOND, number, until=told)
    job, _ = train_and_hit("openmpi", 5, config, tmp_path / "run", SECOND, *WORKERS, hit=hit, updates=10**6)
    assert job.code == 75, job.text  # by the signal
    assert hit.updates_after > hit.updates_when_lost
    assert lost(tmp_path / "run") == [(SECOND, "worker")]
    assert told in job.text


@pytest.mark.parametrize("how", ["segfault", "exit"])
def test_environment_that_ends_its_process_ends_a_worker(how, config, tmp_path):
    kinds = f"topology.workers=[{{}}, {{env: {{kwargs: {{how: {how}}}}}}}]"
    changes = (*WORKERS, CRASHING, kinds, "stop.updates=200", "topology.heartbeat_timeout_seconds=5")
    job = run_train("openmpi", 5, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code == 0, job.text
    assert not job.orphans
    assert summary(tmp_path / "run")["updates"] == 200
    assert lost(tmp_path / "run") == [(SECOND, "worker")]
    if how == "exit":
        assert (
            "an environment has called exit(3)" in (tmp_path / "run" / "logs" / "rank-0004.log").read_text()
        )


def test_killed_worker_is_replaced(config, tmp_path):
    told = "is replaced by process"
    hit = HitThenTrain(tmp_path / "run", SECOND, until=told)
    changes = (*WORKERS, "topology.respawn=true")
    job, _ = train_and_hit("openmpi", 5, config, tmp_path / "run", SECOND, *changes, hit=hit, updates=10**6)
    assert job.code == 75, job.text
    assert hit.updates_after > hit.updates_when_lost
    entries = summary(tmp_path / "run")["lost_ranks"]
    assert [(entry["rank"], entry["replaced"]) for entry in entries] == [(SECOND, True)]
    assert f"rank {SECOND} (worker) on " in job.text


def test_dead_actor_ends_its_workers(config, tmp_path):
    changes = (*WORKERS[:2], "topology.actors_per_learner=2")
    job, _ = train_and_hit("openmpi", 8, config, tmp_path / "run", ACTOR, *changes)
    assert job.code == 0, job.text
    assert summary(tmp_path / "run")["updates"] == MORE
    assert lost(tmp_path / "run") == [(ACTOR, "actor")]


@pytest.mark.parametrize(("ranks", "victim", "role"), [(5, 4, "worker"), (8, 2, "actor")])
def test_team_of_a_league_continues_without_a_lost_rank(ranks, victim, role, config, tmp_path):
    config.write_text(RPS)
    changes = ("topology.workers_per_actor=2", "topology.environments_per_actor=4", "league.members={a: {}}")
    freeze = "league.freeze.most_updates=300"
    job, _ = train_and_hit("openmpi", ranks, config, tmp_path / "run", victim, *changes, freeze, updates=600)
    assert job.code == 0, job.text
    assert lost(tmp_path / "run") == [(victim, role)]
    assert summary(tmp_path / "run")["members"]["a"]["updates"] == 600


def test_run_stops_with_the_workers_of_its_only_actor(config, tmp_path):
    hit = HitSeveral(tmp_path / "run", (FIRST, SECOND))
    job, _ = train_and_hit("openmpi", 5, config, tmp_path / "run", FIRST, *WORKERS, hit=hit, updates=10**6)
    assert job.code == 75, job.text
    assert summary(tmp_path / "run")["status"] == "interrupted"


def test_nothing_is_left_in_shared_memory_after_a_kill_of_all(config, tmp_path):
    names, free = set(os.listdir("/dev/shm")), free_shared_bytes()
    large = ("topology.environments_per_actor=2000", "stop.updates=1000000")
    everything = KillSession(tmp_path / "run")
    job = run_train(
        "openmpi", 5, config, "--run-dir", str(tmp_path / "run"), WORKERS[0], *large, meanwhile=everything
    )
    assert everything.used > 5_000_000, job.text
    until = time.monotonic() + 10
    while free_shared_bytes() < free - 2_000_000 and time.monotonic() < until:
        time.sleep(0.1)
    assert free_shared_bytes() >= free - 2_000_000
    assert not [name for name in set(os.listdir("/dev/shm")) - names if "hpcmarl" in name]


class KillSession:
    """Kill all processes of a run with SIGKILL once it has made updates.

    Attributes:
        used: Bytes of shared memory that the run used then.
    """

    def __init__(self, directory):
        self.directory, self.used, self.free = directory, 0, free_shared_bytes()

    def __call__(self, session):
        if self.used == 0 and (self.directory / "metrics.csv").exists():
            self.used = max(1, self.free - free_shared_bytes())
            os.killpg(session, signal.SIGKILL)
            for process in rank_processes(str(self.directory)).values():
                os.kill(process, signal.SIGKILL)
