"""Ranks that are killed in jobs of one or two nodes.

With Open MPI's fault tolerance, a job replaces a dead actor and continues. After other deaths, it is requeued
and resumes.
"""

import os
import signal

import pytest

from hpcmarl.io.checkpoint import list_checkpoints
from tests.support.launch import rank_processes

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.mpi,
    pytest.mark.slow("jobs wait for Slurm: scheduling, requeueing and time limits take seconds"),
]
LASTING = ("stop.updates=400", "checkpoint.every_updates=5")


def kill(run, rank):
    os.kill(rank_processes(str(run.directory))[rank], signal.SIGKILL)


def test_dead_actor_is_replaced_and_dead_server_requeues_the_job(cluster):
    mpirun = ("slurm.launcher=mpirun", "topology.respawn=true")
    run = cluster.submit("dead", "--nodes=2", "--ntasks-per-node=2", *LASTING, *mpirun)
    run.wait_for_training(10)
    kill(run, 3)
    cluster.until(
        lambda: "rank 3 (actor) on node2 is replaced by process " in run.output, 30, lambda: run.output
    )
    run.wait_for_training(10)
    kill(run, 0)
    run.finish(limit=150)
    assert int(cluster.show(run.job, "Restarts")) == 1
    assert run.summary["updates"] == 400
    assert run.summary["resumed_from"]
    assert len(set(run.hosts().values())) == 2


def test_dead_rank_under_srun_requeues_the_job(cluster):
    run = cluster.submit("dead-srun", "--nodes=2", "--ntasks-per-node=2", *LASTING)
    cluster.until(lambda: list_checkpoints(run.directory), 60, lambda: run.output)
    kill(run, 3)
    run.finish(limit=150)
    assert int(cluster.show(run.job, "Restarts")) == 1
    assert run.summary["updates"] == 400
    assert run.summary["resumed_from"]


def test_job_that_lost_all_ranks_is_requeued_and_not_completed(cluster):
    run = cluster.submit("all-dead", "--ntasks-per-node=2", *LASTING, "slurm.launcher=mpirun")
    cluster.until(lambda: list_checkpoints(run.directory), 60, lambda: run.output)
    for process in rank_processes(str(run.directory)).values():
        os.kill(process, signal.SIGKILL)
    run.finish(limit=150)
    assert int(cluster.show(run.job, "Restarts")) == 1
    assert run.summary["resumed_from"]
