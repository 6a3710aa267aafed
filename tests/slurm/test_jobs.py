"""Whole jobs as users of a cluster see them: submitted, stopped, requeued, preempted, cancelled, verified.

The order saves time: jobs that wait for a time limit are submitted first and checked last.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.slurm.cluster import Run, check_nothing_lost
from tests.support.launch import MPICH_PYTHON, needs_mpich

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.mpi,
    pytest.mark.slow("jobs wait for Slurm: scheduling, requeueing and time limits take seconds"),
]
# By default mpirun binds ranks to cores. This machine has fewer cores than the cluster claims.
LAUNCHERS = {
    "srun": ["slurm.launcher=srun"],
    "mpirun": ["slurm.launcher=mpirun", "slurm.launcher_options=[--bind-to, none]"],
}
TWO_NODES = ("--nodes=2", "--ntasks-per-node=2")
# For tests of the job: few ranks, because starting ranks takes most of the time.
A_RANK_A_NODE = (
    "--nodes=2",
    "--ntasks-per-node=1",
)
# at least three seconds: long enough to send a signal
MANY = "stop.updates=30"
# at least fifteen seconds: long enough to request another job and then to cancel this one
LONG = "stop.updates=150"


@pytest.fixture(scope="module")
def limited(cluster):
    """Submit runs that need more than one job of a minute.

    Slurm sends the signal to stop 29 to 59 seconds after the start. It checks every 30 s whether a limit
    comes within signal_seconds + 30 s, and whether a limit has passed.

    The first two runs end after a number of updates, not seconds, so that a stopped run always has updates
    left. Two actors wait 0.2 s in each of the six steps of an update. 110 updates take them at least 66
    seconds.

    The third run gets only a signal without meaning. The clock stops it (stop.seconds_before_limit).
    """
    size = ("--nodes=2", "--ntasks-per-node=1", "--time=1")
    slow = ("stop.updates=110", "topology.groups.0.delay.step=0.2")
    signalled = (*size, *slow, "slurm.signal_seconds=1", "stop.seconds_before_limit=null")
    runs = {
        name: cluster.submit(f"limit-{name}", *signalled, *launcher) for name, launcher in LAUNCHERS.items()
    }
    job, directory = cluster.by_hand(
        "limit-clock", *size, "--signal=B:CONT@1", changes=("stop.updates=100000", "stop.seconds=45")
    )
    return {**runs, "clock": Run(cluster, job, directory, [])}


@pytest.fixture(scope="module", autouse=True)
def submitted_first(limited):
    """Submit the runs with time limits first, so that other tests run meanwhile."""


def test_two_node_jobs_train_and_dependent_jobs_verify(cluster):
    more = ("trajectories.enabled=true", "--depend-verify")
    for run in [
        cluster.submit(f"plain-{name}", *TWO_NODES, *launcher, *more) for name, launcher in LAUNCHERS.items()
    ]:
        summary = run.finish()
        assert (summary["ranks"], summary["updates"]) == (4, 5)
        assert len(set(run.hosts().values())) == 2
        cluster.wait(run.later[0], "COMPLETED", limit=30, on_failure=lambda run=run: run.output)
        assert ", 0 bad" in run.output


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_actors_of_two_nodes_have_their_workers_beside_them(cluster, launcher):
    workers = ("topology.workers_per_actor=2", "topology.environments_per_actor=6")
    size = ("--nodes=2", "--ntasks-per-node=4", *workers)
    summary = cluster.submit(f"workers-{launcher}", *size, *LAUNCHERS[launcher]).finish()
    own, other = ["actor", "worker"], ["actor", "worker", "worker", "worker"]
    assert summary["roles"] == ["server+evaluator", "learner", *own, *other]
    assert (summary["updates"], summary["lost_ranks"]) == (5, [])


def test_failed_run_cancels_its_dependent_job(cluster):
    run = cluster.submit(
        "broken", "--ntasks-per-node=2", "faults.raise_in=actor", "faults.after=50", "--depend-verify"
    )
    cluster.wait(run.job, "FAILED", on_failure=lambda: run.output)
    assert cluster.show(run.job, "ExitCode") == "1:0"
    cluster.wait(run.later[0], "CANCELLED", limit=30)


def test_shipped_slurm_script_accepts_config_and_overrides(cluster):
    options = ("--nodes=2", "--ntasks-per-node=1", "--time=5")
    # The override stays one argument despite its blank. It is refused because names have no blanks.
    job, _ = cluster.by_hand("refused", *options, changes=("name=a b",))
    cluster.wait(job, "FAILED")
    assert cluster.show(job, "ExitCode") == "2:0"
    job, directory = cluster.by_hand("by hand", *options, changes=("stop.updates=3", "name=ab"))
    assert Run(cluster, job, directory, []).finish()["updates"] == 3


@needs_mpich
def test_mpich_trains_by_pmi2(cluster):
    environment = Path(MPICH_PYTHON).parents[1]
    # Without this option MPICH sometimes fails: docs/cluster.md, Troubleshooting.
    options = "slurm.options=['--export=ALL,MPIR_CVAR_CH4_NETMOD=ofi']"
    run = cluster.submit("mpich", *TWO_NODES, f"slurm.environment={environment}", "slurm.mpi=pmi2", options)
    assert run.finish()["ranks"] == 4


def test_srun_singletons_are_rejected_with_the_pmix_hint(cluster):
    run = cluster.submit("singletons", "--ntasks-per-node=3", "slurm.mpi=none")
    cluster.wait(run.job, "FAILED", on_failure=lambda: run.output)
    assert cluster.show(run.job, "ExitCode") == "2:0"
    assert "srun started 3 separate worlds of one rank: Open MPI needs srun --mpi=pmix" in run.output
    assert not run.summary


def test_sbatch_refusal_is_quoted_in_the_error(cluster):
    done = cluster.run(
        sys.executable,
        "-m",
        "hpcmarl",
        "submit",
        "tiny.yaml",
        "--partition=nowhere",
        "--run-dir=runs/nowhere",
    )
    assert done.returncode == 1
    assert "sbatch refused the job" in done.stderr
    assert "invalid partition specified" in done.stderr
    assert not (cluster.directory / "runs" / "nowhere").exists()


def test_scancel_signal_checkpoints_and_requeues_the_job(cluster):
    runs = [
        cluster.submit(f"signal-{name}", *A_RANK_A_NODE, MANY, *launcher, "--depend-verify")
        for name, launcher in LAUNCHERS.items()
    ]
    for run in runs:
        run.wait_for_training()
        cluster.ask("scancel", "--batch", "--signal=USR1", run.job)
    for run in runs:
        run.finish()
        check_nothing_lost(run, restarts=1)
        assert "SIGUSR1: asking the ranks for a checkpoint" in run.output
        # The job was requeued and did not fail, so the dependent job has waited.
        cluster.wait(run.later[0], "COMPLETED", limit=30)


def test_cancelled_job_checkpoints_and_is_not_requeued(cluster):
    run = cluster.submit("cancelled", *A_RANK_A_NODE, LONG)
    run.wait_for_training()
    again = cluster.run(
        sys.executable,
        "-m",
        "hpcmarl",
        "submit",
        "tiny.yaml",
        "--run-dir",
        run.directory,
        "optimizer.step_size=0.5",
    )
    assert again.returncode == 2
    assert f"job {run.job} (RUNNING) of an earlier submission uses it" in again.stderr
    cluster.ask("scancel", run.job)
    cluster.wait(run.job, "CANCELLED", limit=40, on_failure=lambda: run.output)
    cluster.until(
        lambda: not cluster.ask("squeue", "--noheader", f"--jobs={run.job}"),
        20,
        lambda: "the end of the cancelled job",
    )
    assert run.summary["status"] == "interrupted"
    assert cluster.show(run.job, "JobState") == "CANCELLED"
    assert cluster.show(run.job, "Restarts") == "0"
    # `hpcmarl submit` recognises by this text that a job no longer exists.
    assert "Invalid job id" in cluster.run("squeue", "--jobs=999999").stderr
    (run.directory / "submissions" / "0001.job").unlink()
    (run.directory / "submissions" / "0001.job").write_text("999999\n")
    run = cluster.submit("cancelled", *A_RANK_A_NODE, LONG)
    assert (run.directory / "submissions" / "0002.job").read_text() == f"{run.job}\n"
    run.finish()
    check_nothing_lost(run, restarts=0)


def test_a_job_that_may_not_be_requeued_ends_with_a_checkpoint(cluster):
    run = cluster.submit("once", "--ntasks-per-node=2", MANY, *LAUNCHERS["mpirun"])
    run.wait_for_training()
    cluster.ask("scontrol", "update", f"JobId={run.job}", "Requeue=0")
    cluster.ask("scancel", "--batch", "--signal=TERM", run.job)
    cluster.wait(run.job, "FAILED", limit=30)
    assert cluster.show(run.job, "ExitCode") == "75:0"
    assert run.summary["status"] == "interrupted"


def test_preempted_jobs_checkpoint_and_resume(cluster):
    runs, urgent = {}, {}
    long = ("--ntasks-per-node=2", "stop.seconds=15", "stop.updates=100000")
    for node, (name, launcher) in zip(("node2", "node3"), LAUNCHERS.items(), strict=True):
        runs[node] = cluster.submit(f"preempted-{name}", f"--sbatch=--nodelist={node}", *long, *launcher)
    for node, run in runs.items():
        run.wait_for_training()
        urgent[node] = cluster.sbatch(
            "--partition=high",
            f"--nodelist={node}",
            "--nodes=1",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=sleep 1",
        )
    for node, run in runs.items():
        run.finish()
        check_nothing_lost(run, restarts=1)
        cluster.wait(urgent[node], "COMPLETED", limit=10)


def test_array_tasks_have_own_directories_and_requeue_alone(cluster):
    (cluster.directory / "seeds.yaml").write_text((cluster.directory / "tiny.yaml").read_text() + "seed: 7\n")
    array = cluster.submit("array", "--seeds=2", "--ntasks-per-node=2", MANY, config="seeds.yaml")
    seeds = {
        seed: Run(cluster, f"{array.job}_{seed}", array.directory / f"seed-{seed}", []) for seed in (7, 8)
    }
    seeds[8].wait_for_training()
    # The last task has the job number of the array.
    cluster.ask("scancel", "--batch", "--signal=USR1", seeds[8].job)
    for seed, run in seeds.items():
        run.finish()
        assert f"\nseed: {seed}\n" in (run.directory / "config.yaml").read_text()
    assert not seeds[7].stops()
    check_nothing_lost(seeds[8], restarts=1)


def test_a_heterogeneous_job_is_one_world(cluster):
    # With Slurm 22.05 and PMIx, the names of the first component's nodes must come first.
    size = (
        "--ntasks-per-node=3",
        "--cpus-per-task=2",
        "--hetjob=2x1",
        "--sbatch=--nodelist=node1",
        "--actor-sbatch=--nodelist=node[2-3]",
    )
    run = cluster.submit("het", *size, "topology.groups=2")
    summary = run.finish()
    assert summary["roles"] == ["server+evaluator", "learner", "learner", "actor", "actor"]
    assert run.hosts() == {0: "node1", 1: "node1", 2: "node1", 3: "node2", 4: "node3"}


def test_environment_is_staged_on_every_node_and_removed(cluster):
    environment = cluster.directory / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next((environment / "lib").glob("python3*/site-packages"))
    note = (
        f"import os, sys; open({str(cluster.directory / 'prefixes')!r}, 'a').write(sys.prefix + ' ' + "
        "os.uname().nodename + chr(10))"
    )
    (packages / "shared.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n{note}\n"
    )
    local = cluster.directory / "cluster" / "local"
    # Each node has its own directory there. The MPI library is not staged.
    cluster.environ |= {"TMPDIR": str(local), "MPI4PY_LIBMPI": str(Path(sys.prefix) / "lib" / "libmpi.so.40")}
    try:
        run = cluster.submit(
            "staged",
            "--nodes=2",
            "--ntasks-per-node=1",
            f"slurm.environment={environment}",
            "slurm.stage=true",
        )
        run.finish()
    finally:
        del cluster.environ["TMPDIR"], cluster.environ["MPI4PY_LIBMPI"]
    seen = {tuple(line.split()) for line in (cluster.directory / "prefixes").read_text().splitlines()}
    staged = {(prefix, host) for prefix, host in seen if prefix == str(local / f"hpcmarl-{run.job}")}
    assert len({host for _, host in staged}) == 2
    for node in (1, 2, 3):
        assert not list((cluster.directory / "cluster" / f"local.node{node}").glob("hpcmarl-*"))


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "clock"])
def test_time_limited_job_resumes_until_the_run_is_done(cluster, limited, launcher):
    run = limited[launcher]
    run.finish(limit=180)
    check_nothing_lost(run)
    told = "the Slurm job ends soon" if launcher == "clock" else "SIGUSR1: asking the ranks for a checkpoint"
    asked = run.output.count(told)
    # The last request to stop may come when the run has just ended.
    assert len(run.stops()) <= asked <= len(run.stops()) + 1
    assert "TIME LIMIT" not in run.output
