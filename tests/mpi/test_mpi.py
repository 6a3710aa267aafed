"""Real ranks under both MPI libraries: messages, training, exact resume, traces, failures, worlds that are not what was asked for."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpcmarl.comm import protocol
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from hpcmarl.roles.replica import Replica
from tests.mpi.launch import LIBRARIES, mpi_command, needs_horovod, needs_mpich, run, run_program, run_train
from tests.unit.test_sparse_messages import SPARSE, assert_same
from tests.worlds import ECHO, SPREAD, final_parameters, final_state, run_world, summary

pytestmark = pytest.mark.mpi


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SPREAD)
    return path


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_messages_arrive_whole_and_in_order_and_idle_ranks_sleep(library, ranks):
    job = run_program(library, ranks, "exchange.py")
    assert job.code == 0, job.text
    assert "exchanged" in job.text
    assert not job.orphans


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_ranks_train(library, ranks, reduce, config, tmp_path):
    changes = (f"rounds.reduce={reduce}", "eval.episodes=2", "trajectories.enabled=true")
    job = run_train(library, ranks, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code == 0, job.text
    told = summary(tmp_path / "run")
    assert (told["status"], told["ranks"], told["updates"]) == ("finished", ranks, 6)
    assert not job.orphans
    verified = run([sys.executable, "-m", "hpcmarl", "data", "verify", str(tmp_path / "run")])
    assert verified.code == 0, verified.text


def test_eight_oversubscribed_ranks_in_three_groups(config, tmp_path):
    job = run_train("openmpi", 8, config, "--run-dir", str(tmp_path / "run"), "topology.groups=3", "rounds.rule=malenia", "rounds.batch=6")
    assert job.code == 0, job.text
    assert min(summary(tmp_path / "run")["trajectories_by_group"]) > 0


@pytest.mark.parametrize("reduce", ["server", "mpi", "gloo", pytest.param("horovod", marks=needs_horovod)])
def test_sparse_messages_over_mpi_train_as_whole_ones_on_virtual_ranks(reduce, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(ECHO)
    changes = (*SPARSE, f"rounds.reduce={reduce}", "deterministic=true", "stop.updates=8")
    job = run_train("openmpi", 3, config, "--run-dir", str(tmp_path / "mpi"), *changes)
    assert job.code == 0, job.text
    monkeypatch.setattr(protocol, "sparse_bytes", lambda size, count: 4 * size)
    monkeypatch.setattr(Replica, "summed", None)
    run_world(3, tmp_path / "virtual", *changes, text=ECHO)
    assert_same(*(final_state(tmp_path / name)["engine"]["optimizer"] for name in ("mpi", "virtual")), updates=8)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_deterministic_run_is_the_same_on_mpi_and_on_virtual_ranks(library, config, tmp_path):
    changes = ("deterministic=true", "stop.updates=8")
    first = run_train(library, 4, config, "--run-dir", str(tmp_path / "mpi"), "deterministic=true", "stop.updates=4")
    assert first.code == 0, first.text
    second = run_train(library, 4, config, "--run-dir", str(tmp_path / "mpi"), "--resume", "auto", *changes)
    assert second.code == 0, second.text
    run_world(4, tmp_path / "local", *changes)
    np.testing.assert_array_equal(final_parameters(tmp_path / "mpi"), final_parameters(tmp_path / "local"))


def test_so_is_one_that_replays_episodes(tmp_path):
    (tmp_path / "echo.yaml").write_text(ECHO)
    changes = ("deterministic=true", "algo.replay={starts: 6, ratio: 3}", "algo.epsilon_steps=150", "algo.target_every=3")
    for updates in (4, 8):
        resume = ("--resume", "auto") if updates == 8 else ()
        job = run_train("openmpi", 3, tmp_path / "echo.yaml", "--run-dir", str(tmp_path / "mpi"), *resume, *changes, f"stop.updates={updates}")
        assert job.code == 0, job.text
    run_world(3, tmp_path / "virtual", *changes, "stop.updates=8", text=ECHO)
    np.testing.assert_array_equal(final_parameters(tmp_path / "mpi"), final_parameters(tmp_path / "virtual"))
    verified = run([sys.executable, "-m", "hpcmarl", "data", "verify", str(tmp_path / "mpi")])
    assert verified.code == 0, verified.text
    assert "replay/group-0000/checkpoint-0000000008.h5" in verified.text


RENNALA = ("rounds.rule=rennala", "rounds.batch=5", "algo.name=reinforce", "optimizer.name=nigt", "rounds.late=ignore")


@pytest.mark.parametrize("library", LIBRARIES)
def test_actors_wait_for_a_learner_that_is_behind(library, tmp_path):
    (tmp_path / "echo.yaml").write_text(ECHO)
    changes = ("rounds.backpressure=true", "algo.replay.ratio=64", "stop.updates=300")
    job = run_train(library, 3, tmp_path / "echo.yaml", "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code == 0, job.text
    held = load_checkpoint(list_checkpoints(tmp_path / "run" / "replay" / "group-0000")[0])[0]
    counted = held["collected"] - 15  # the sixteenth is the first that allows 64 draws
    assert 8 < held["used"] / counted <= 64  # without waiting 1 or 2; what a starved learner has not yet stopped is on its way when the run ends
    assert not job.orphans


@pytest.mark.parametrize(
    ("library", "changes"),
    [
        ("openmpi", RENNALA),
        ("openmpi", ("rounds.rule=malenia", "rounds.batch=6", "optimizer.name=nigt")),
        ("openmpi", ("rounds.rule=sync", "optimizer.name=adam")),
        ("openmpi", ("rounds.rule=afedpg", "rounds.batch=2", "optimizer.name=nigt")),
        pytest.param("mpich", RENNALA, marks=needs_mpich),
    ],
)
def test_a_recorded_trace_replays_bit_for_bit(library, changes, config, tmp_path):
    job = run_program(library, 5, "trace.py", str(config), str(tmp_path / "run"), "topology.groups=2", "stop.updates=20", *changes)
    assert job.code == 0, job.text
    assert "identical" in job.text


ROLES = ("actor", "learner", "server", "evaluator")


@pytest.mark.parametrize(("library", "role"), [*(("openmpi", role) for role in ROLES), pytest.param("mpich", "actor", marks=needs_mpich)])
def test_a_failing_rank_ends_the_job_and_says_who_it_was(library, role, config, tmp_path):
    changes = (f"faults.raise_in={role}", "faults.after=20", "stop.updates=1000000", "eval.every_updates=1", "eval.episodes=2")
    job = run_train(library, 4, config, "--run-dir", str(tmp_path / "run"), *changes)
    assert job.code != 0
    assert f"({role}" in job.text
    assert "Traceback" in job.text
    assert "injected fault" in job.text
    assert job.seconds_after_error is not None
    assert job.seconds_after_error < 10
    assert not job.orphans


@pytest.mark.parametrize("library", LIBRARIES)
def test_so_does_one_that_fails_when_the_others_are_leaving(library):
    job = run_program(library, 3, "fails_late.py", limit=60.0)
    assert job.code != 0
    assert "RuntimeError: too late" in job.text
    assert not job.orphans


def test_a_rank_that_went_first_keeps_nobody_from_leaving():
    job = run_program("openmpi", 2, "leaves_late.py", limit=60.0)
    assert job.code == 0, job.text
    assert "rank 0 has left" in job.text
    assert "Traceback" not in job.text


def test_a_failing_rank_ends_a_job_that_train_started(config, tmp_path):
    command = [sys.executable, "-m", "hpcmarl", "train", str(config), "-n", "4", "--run-dir", str(tmp_path / "run")]
    job = run([*command, "faults.raise_in=learner", "faults.after=20", "stop.updates=1000000"])
    assert job.code not in (0, 2)
    assert "rank 1 of 4 (learner)" in job.text
    assert job.seconds_after_error is not None
    assert job.seconds_after_error < 10
    assert not job.orphans


def test_a_bad_configuration_is_one_line_on_a_whole_world(config, tmp_path):
    job = run_train("openmpi", 3, config, "--run-dir", str(tmp_path / "run"), "topology.groups=5")
    assert job.code == 2, job.text
    assert job.text.count("5 learners") == 1
    assert "Traceback" not in job.text
    assert not (tmp_path / "run").exists()


def test_a_run_on_images_says_once_what_networks_do_with_them(config, tmp_path):
    images = ("env.id=tests.envs_for_tests:screen", "env.kwargs={}", "stop={seconds: 1}", "eval.episodes=0")
    job = run_train("openmpi", 2, config, "--run-dir", str(tmp_path / "run"), *images)
    assert job.code == 0, job.text
    assert job.text.count("look like images (64x64x3, 12,288 numbers)") == 1


@needs_mpich
def test_silent_singletons_are_refused_with_a_hint(config, tmp_path):
    ranks = [sys.executable, "-m", "hpcmarl", "train", str(config), "--run-dir", str(tmp_path / "run")]
    command, environment = mpi_command("mpich", 3, ranks)  # another library's launcher
    job = run(command, environment)
    assert job.code == 2, job.text
    assert "separate worlds of one rank" in job.text
    assert not (tmp_path / "run").exists()


def test_a_signal_stops_all_ranks_with_a_checkpoint_and_the_run_goes_on(config, tmp_path):
    command = [sys.executable, "-m", "hpcmarl", "train", str(config), "-n", "3", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen([*command, "stop.updates=1000000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
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
