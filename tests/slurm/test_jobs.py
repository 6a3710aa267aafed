"""Whole jobs as a user of a cluster sees them: submitted, stopped, requeued, preempted, cancelled, verified.

The order matters for the time all this takes: what has to wait for a time limit is submitted first and looked at last.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.mpi.launch import MPICH_PYTHON
from tests.slurm.cluster import ROOT, check_nothing_lost

pytestmark = [pytest.mark.slurm, pytest.mark.mpi, pytest.mark.slow]
LAUNCHERS = ["srun", "mpirun"]
TWO_NODES = ("--nodes=2", "--ntasks-per-node=2")
LONG = "stop.updates=100000"


def for_seconds(seconds):
    """Changes for a run of so many seconds of training, all starts together."""
    return (f"stop.seconds={seconds}", LONG)


@pytest.fixture(scope="module")
def limited(cluster):
    """Runs that need more than one minute's job: the signal to stop comes from Slurm, 10 to 40 seconds after the start."""
    return {
        launcher: cluster.submit(
            f"limit-{launcher}", *TWO_NODES, "--time=1", *for_seconds(42), "slurm.signal_seconds=50", f"slurm.launcher={launcher}"
        )
        for launcher in LAUNCHERS
    }


@pytest.fixture(scope="module", autouse=True)
def submitted_first(limited):
    """Time limits take their time: other tests run meanwhile."""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_over_two_nodes_trains_and_a_dependent_job_verifies_it(cluster, launcher):
    run = cluster.submit(f"plain-{launcher}", *TWO_NODES, f"slurm.launcher={launcher}", "trajectories.enabled=true", "--depend-verify")
    summary = run.finish()
    assert (summary["ranks"], summary["updates"]) == (4, 5)
    logs = "".join(path.read_text() for path in (run.directory / "logs").iterdir())
    assert "on node" in logs
    assert len({line.split(" on ")[1] for line in logs.splitlines() if " is " in line and " on node" in line}) == 2
    cluster.wait(run.later[0], "COMPLETED", limit=30, on_failure=lambda: run.output)
    assert ", 0 bad" in run.output


def test_a_run_that_fails_has_no_dependent_job_waiting_for_ever(cluster):
    run = cluster.submit("broken", "--ntasks-per-node=2", "faults.raise_in=actor", "faults.after=50", "--depend-verify")
    cluster.wait(run.job, "FAILED", on_failure=lambda: run.output)
    assert cluster.show(run.job, "ExitCode") == "1:0"
    cluster.wait(run.later[0], "CANCELLED", limit=30)


def test_the_script_as_it_stands_in_slurm_takes_a_configuration_and_changes(cluster):
    cluster.environ["RUN_DIR"] = "runs/by hand"
    try:
        options = ("--nodes=2", "--ntasks-per-node=1", "--time=5")
        job = cluster.sbatch(*options, ROOT / "slurm" / "train.sbatch", "tiny.yaml", "stop.updates=3", "name=a b")
        cluster.wait(job, "FAILED")  # a name with a blank: passed on as one word, and refused
        assert cluster.show(job, "ExitCode") == "2:0"
        job = cluster.sbatch(*options, ROOT / "slurm" / "train.sbatch", "tiny.yaml", "stop.updates=3", "name=ab")
        cluster.wait(job, "COMPLETED", on_failure=lambda: (cluster.directory / f"hpcmarl-{job}.out").read_text())
    finally:
        del cluster.environ["RUN_DIR"]
    assert json.loads((cluster.directory / "runs" / "by hand" / "summary.json").read_text())["updates"] == 3


@pytest.mark.skipif(not MPICH_PYTHON, reason="set HPCMARL_MPICH_PYTHON (tools/test makes that environment)")
def test_mpich_trains_by_pmi2(cluster):
    environment = Path(MPICH_PYTHON).parents[1]
    run = cluster.submit("mpich", *TWO_NODES, f"slurm.environment={environment}", "slurm.mpi=pmi2")
    assert run.finish()["ranks"] == 4


def test_silent_singletons_are_refused_with_the_hint_that_helps(cluster):
    run = cluster.submit("singletons", "--ntasks-per-node=3", "slurm.mpi=none")
    cluster.wait(run.job, "FAILED", on_failure=lambda: run.output)
    assert cluster.show(run.job, "ExitCode") == "2:0"
    assert "srun started 3 separate worlds of one rank: Open MPI needs srun --mpi=pmix" in run.output
    assert not run.summary


def test_sbatch_speaks_for_itself(cluster):
    done = cluster.run(sys.executable, "-m", "hpcmarl", "submit", "tiny.yaml", "--partition=nowhere", "--run-dir=runs/nowhere")
    assert done.returncode == 1
    assert "sbatch refused the job" in done.stderr
    assert "invalid partition specified" in done.stderr
    assert not (cluster.directory / "runs" / "nowhere").exists()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_by_scancel_stops_and_requeues(cluster, launcher):
    run = cluster.submit(f"signal-{launcher}", *TWO_NODES, *for_seconds(8), f"slurm.launcher={launcher}")
    run.wait_for_training()
    cluster.ask("scancel", "--batch", "--signal=USR1", run.job)
    summaries = run.finish_after_stops()
    check_nothing_lost(summaries)
    assert len(summaries) == 2
    assert cluster.show(run.job, "Restarts") == "1"
    assert "SIGUSR1: asking the ranks for a checkpoint" in run.output


def test_a_cancelled_job_leaves_a_checkpoint_and_stays_cancelled_until_it_is_submitted_again(cluster):
    run = cluster.submit("cancelled", *TWO_NODES, *for_seconds(6))
    run.wait_for_training()
    cluster.ask("scancel", run.job)
    cluster.wait(run.job, "CANCELLED", limit=40, on_failure=lambda: run.output)
    cluster.until(lambda: not cluster.ask("squeue", "--noheader", f"--jobs={run.job}"), 20, lambda: "the end of the cancelled job")
    stopped = run.summary
    assert stopped["status"] == "interrupted"
    assert cluster.show(run.job, "JobState") == "CANCELLED"
    assert cluster.show(run.job, "Restarts") == "0"
    run.job = cluster.sbatch(run.directory / "job.sbatch")
    check_nothing_lost([stopped, run.finish()])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_preempted_job_stops_gives_way_and_goes_on(cluster, launcher):
    node = f"node{3 - LAUNCHERS.index(launcher)}"
    place = ("--ntasks-per-node=3", f"--sbatch=--nodelist={node}", f"slurm.launcher={launcher}")
    run = cluster.submit(f"preempted-{launcher}", *place, *for_seconds(8))
    run.wait_for_training()
    urgent = cluster.sbatch("--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    summaries = run.finish_after_stops()
    check_nothing_lost(summaries)
    cluster.wait(urgent, "COMPLETED", limit=10)
    assert cluster.show(run.job, "Restarts") == "1"


def test_an_array_trains_every_seed_in_a_directory_of_its_own_and_requeues_one_task_alone(cluster):
    (cluster.directory / "seeds.yaml").write_text((cluster.directory / "tiny.yaml").read_text() + "seed: 7\n")
    directory = cluster.directory / "runs" / "array"
    done = cluster.ask(
        *(sys.executable, "-m", "hpcmarl", "submit", "seeds.yaml", "--seeds=2", "--ntasks-per-node=2", "--time=5", "--run-dir", directory),
        *for_seconds(8),
    )
    job = done.split()[1].rstrip(",")
    last = directory / "seed-8"
    cluster.until(lambda: (last / "metrics.csv").exists() and len((last / "metrics.csv").read_text().splitlines()) > 2, 60, lambda: done)
    cluster.ask("scancel", "--batch", "--signal=USR1", f"{job}_8")
    for seed, restarts in ((7, "0"), (8, "1")):
        cluster.wait(f"{job}_{seed}", "COMPLETED", limit=60, on_failure=lambda: "\n".join(path.read_text() for path in directory.glob("*.out")))
        assert cluster.show(f"{job}_{seed}", "Restarts") == restarts
        assert f"\nseed: {seed}\n" in (directory / f"seed-{seed}" / "config.yaml").read_text()
        assert json.loads((directory / f"seed-{seed}" / "summary.json").read_text())["status"] == "finished"


def test_a_heterogeneous_job_is_one_world_and_requeues_as_one(cluster):
    groups = "topology.groups=2"
    run = cluster.submit("het", "--ntasks-per-node=3", "--cpus-per-task=2", "--hetjob=2x1", groups, *for_seconds(8))
    run.wait_for_training()
    cluster.ask("scancel", "--batch", "--signal=USR1", run.job)
    summaries = run.finish_after_stops()
    check_nothing_lost(summaries)
    assert summaries[-1]["roles"] == ["server+evaluator", "learner", "learner", "actor", "actor"]
    logs = "".join((run.directory / "logs" / f"rank-{rank:04d}.log").read_text() for rank in range(5))
    hosts = {int(line.split(" rank ")[1].split()[0]): line.split(" on ")[1] for line in logs.splitlines() if " of 5 is " in line}
    assert len({hosts[rank] for rank in (0, 1, 2)}) == 1
    assert len({hosts[rank] for rank in (0, 3, 4)}) == 3


def test_the_environment_is_unpacked_on_every_node_and_removed_afterwards(cluster):
    environment = cluster.directory / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next((environment / "lib").glob("python3*/site-packages"))
    note = f"import os, sys; open({str(cluster.directory / 'prefixes')!r}, 'a').write(sys.prefix + ' ' + os.uname().nodename + chr(10))"
    (packages / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n{note}\n")
    local = cluster.directory / "cluster" / "local"
    cluster.environ["TMPDIR"] = str(local)  # each node has a directory of its own there
    try:
        run = cluster.submit("staged", "--nodes=2", "--ntasks-per-node=1", f"slurm.environment={environment}", "slurm.stage=true")
        run.finish()
    finally:
        del cluster.environ["TMPDIR"]
    seen = {tuple(line.split()) for line in (cluster.directory / "prefixes").read_text().splitlines()}
    staged = {(prefix, host) for prefix, host in seen if prefix == str(local / f"hpcmarl-{run.job}")}
    assert len({host for _, host in staged}) == 2
    for node in (1, 2, 3):
        assert not list((cluster.directory / "cluster" / f"local.node{node}").glob("hpcmarl-*"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_reaches_its_time_limit_goes_on_until_the_run_is_done(cluster, limited, launcher):
    run = limited[launcher]
    summaries = run.finish_after_stops(limit=180)
    check_nothing_lost(summaries)
    assert int(cluster.show(run.job, "Restarts")) == len(summaries) - 1
    assert "TIME LIMIT" not in run.output
