"""Real ranks under both MPI libraries: training, signals and resumption, failures, and rejected worlds."""

import json
import signal
import subprocess
import sys

import pytest

from hpcmarl.algos import ALGORITHMS
from hpcmarl.bench.faults.jobs import Progress
from tests.support.launch import (
    LIBRARIES,
    mpi_command,
    needs_mpich,
    python_of,
    ranks_take_seconds,
    run,
    run_program,
    run_train,
)
from tests.support.waiting import wait_until
from tests.support.worlds import summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


FAILING = [
    ("openmpi", "actor"),
    pytest.param(
        "openmpi",
        "learner",
        marks=pytest.mark.long(
            "test_a_failing_rank_ends_a_job_that_train_started has a failing learner, too"
        ),
    ),
    ("openmpi", "server"),
    ("openmpi", "evaluator"),
    pytest.param("mpich", "actor", marks=needs_mpich),
]


@pytest.mark.parametrize(("library", "role"), FAILING)
def test_failing_rank_ends_the_job_and_names_its_role(library, role, config, tmp_path):
    changes = (
        f"faults.raise_in={role}",
        "faults.after=20",
        "stop.updates=1000000",
        "eval.every_updates=1",
        "eval.episodes=2",
    )
    job = run_train(library, 4, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code != 0
    assert f"({role}" in job.text
    assert "Traceback" in job.text
    assert "injected fault" in job.text
    assert job.seconds_after_error is not None
    assert job.seconds_after_error < 10
    assert not job.orphans


@pytest.mark.parametrize("library", LIBRARIES)
def test_workers_train_under_every_mpi_library(library, config, tmp_path):
    changes = ("topology.workers_per_actor=2", "topology.environments_per_actor=6", "stop.updates=20")
    job = run_train(library, 5, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code == 0, job.text
    assert not job.orphans
    told = summary(tmp_path / "run")
    assert (told["updates"], told["roles"][-3:]) == (20, ["actor", "worker", "worker"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_rank_failing_during_shutdown_ends_the_job(library):
    job = run_program(library, 3, "fails_late.py", limit=60.0)
    assert job.code != 0
    assert "RuntimeError: too late" in job.text
    assert not job.orphans


def test_early_finished_rank_does_not_block_shutdown():
    job = run_program("openmpi", 2, "leaves_late.py", limit=60.0)
    assert job.code == 0, job.text
    assert "rank 0 has left" in job.text
    assert "Traceback" not in job.text


def test_a_failing_rank_ends_a_job_that_train_started(config, tmp_path):
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "train",
        str(config),
        "-n",
        "4",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    job = run([*command, "faults.raise_in=learner", "faults.after=20", "stop.updates=1000000"])
    assert job.code not in (0, 2)
    assert "rank 1 of 4 (learner)" in job.text
    assert job.seconds_after_error is not None
    assert job.seconds_after_error < 10
    assert not job.orphans


def test_invalid_configuration_is_reported_once_for_all_ranks(config, tmp_path):
    job = run_train("openmpi", 3, config, "--run-dir", str(tmp_path / "run"), "topology.groups=5")
    assert job.code == 2, job.text
    assert job.text.count("5 learners") == 1
    assert "Traceback" not in job.text
    assert not (tmp_path / "run").exists()


ONLY_THE_FIRST = """
import os, sys
from hpcmarl.__main__ import main

if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) != "0":
    sys.argv[2] = "none.yaml"
main()
"""


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_the_first_rank_reads_the_configuration(library, config, tmp_path):
    program = tmp_path / "only.py"
    program.write_text(ONLY_THE_FIRST)
    changes = ("stop.updates=2", "eval.episodes=0", "--run-dir", str(tmp_path / "run"))
    command, environment = mpi_command(
        library, 3, [python_of(library), str(program), "train", str(config), *changes]
    )
    job = run(command, environment)
    assert job.code == 0, job.text
    assert summary(tmp_path / "run")["updates"] == 2
    command[-len(changes)] = "stop.updates=none"
    job = run(command, environment)
    assert job.code == 2, job.text
    assert [line for line in job.text.splitlines() if "error:" in line] == [
        next(line for line in job.text.splitlines() if "stop.updates" in line)
    ]


def test_image_observations_are_warned_about_once(config, tmp_path):
    images = (
        "env.id=tests.support.environments:screen",
        "env.kwargs={}",
        "stop={seconds: 1}",
        "eval.episodes=0",
        "algo.network.encoder=flat",
    )
    job = run_train("openmpi", 2, config, "--run-dir", str(tmp_path / "run"), *images)
    assert job.code == 0, job.text
    assert job.text.count("look like images (64x64x3 uint8, 12,288 numbers)") == 1


@needs_mpich
def test_singleton_worlds_are_rejected_with_a_hint(config, tmp_path):
    ranks = [sys.executable, "-m", "hpcmarl", "train", str(config), "--run-dir", str(tmp_path / "run")]
    command, environment = mpi_command("mpich", 3, ranks)  # the launcher of another MPI library
    job = run(command, environment)
    assert job.code == 2, job.text
    assert "separate worlds of one rank" in job.text
    assert not (tmp_path / "run").exists()


def test_signal_checkpoints_all_ranks_and_the_run_resumes(config, tmp_path):
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "train",
        str(config),
        "-n",
        "3",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        [*command, "stop.updates=1000000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: Progress(tmp_path / "run").version > 5, 60)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 75
    stopped = summary(tmp_path / "run")
    assert stopped["status"] == "interrupted"
    target = stopped["updates"] + 5
    job = run([*command, "--resume", "auto", f"stop.updates={target}"])
    assert job.code == 0, job.text
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["updates"] == target
    assert told["env_steps"] > stopped["env_steps"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_mpiexec_ranks_train_and_their_files_verify(library, ranks, config, tmp_path, run_json):
    job = run_train(
        library,
        ranks,
        config,
        "--run-dir",
        str(tmp_path / "run"),
        "eval.episodes=2",
        "trajectories.enabled=true",
    )
    assert job.code == 0, job.text
    told = summary(tmp_path / "run")
    assert (told["status"], told["ranks"], told["updates"]) == ("finished", ranks, 6)
    assert not job.orphans
    assert run_json("data", "verify", tmp_path / "run")["bad"] == 0


def test_learners_alone_load_torch(tmp_path):
    """Other ranks do not load torch even after evaluation and writing of checkpoints."""
    job = run_program("openmpi", 3, "acts_with_little.py", str(tmp_path), limit=120)
    assert job.code == 0, job.text
    told = [line.split() for line in job.text.splitlines() if "learner=" in line]
    assert {line[0] for line in told} == set(ALGORITHMS)
    for _, *ranks in told:
        assert len(ranks) == 3
        for roles, loaded in (rank.split("=") for rank in ranks):
            assert ("torch" in loaded) == ("learner" in roles), job.text
            # The server makes an environment and sends its specification to the other ranks.
            assert ("mpe2" in loaded) == ("server" in roles), job.text
