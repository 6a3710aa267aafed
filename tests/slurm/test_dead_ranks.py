"""Ranks killed inside a job over two nodes, with Open MPI's fault tolerance: it goes on, or is requeued and goes on."""

import os
import signal

import pytest

from tests.support.launch import rank_processes

pytestmark = [pytest.mark.slurm, pytest.mark.mpi, pytest.mark.slow("jobs wait for Slurm: scheduling, requeueing and time limits take seconds")]
# coll/han of Open MPI 5 segfaults after a death where there are several nodes
TOLERANT = ("slurm.launcher=mpirun", "slurm.launcher_options=[--bind-to, none, --with-ft, ulfm, --mca, coll, ^han]")


def kill(run, rank):
    os.kill(rank_processes(str(run.directory))[rank], signal.SIGKILL)


def test_dead_actor_is_replaced_and_dead_server_requeues_the_job(cluster):
    changes = ("topology.respawn=true", "stop.updates=400", "checkpoint.every_updates=5")
    run = cluster.submit("dead", "--nodes=2", "--ntasks-per-node=2", *changes, *TOLERANT)
    run.wait_for_training(10)
    kill(run, 3)
    cluster.until(lambda: "rank 3 (actor) on node2 is replaced by process " in run.output, 30, lambda: run.output)
    run.wait_for_training(10)
    kill(run, 0)
    run.finish(limit=150)
    assert int(cluster.show(run.job, "Restarts")) == 1
    assert run.summary["updates"] == 400
    assert run.summary["resumed_from"]
    assert len(set(run.hosts().values())) == 2
