"""Ranks that die while the ranks start.

One line names the missing rank, and the job ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from hpcmarl.launch import start_watch
from tests.support.launch import LIBRARIES, mpi_command, python_of, rank_processes, ranks_take_seconds, run
from tests.support.worlds import SPREAD, run_world

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


class KillAtStart:
    """Kill one rank `after` seconds after its process is first seen."""

    def __init__(self, marker: str, rank: int, after: float) -> None:
        self.marker, self.rank, self.after = marker, rank, after
        self.process = 0
        self.seen = 0.0

    def __call__(self, _session: int) -> None:
        if self.process:
            return
        process = rank_processes(self.marker).get(self.rank)
        self.seen = self.seen or (time.monotonic() if process else 0.0)
        if process and time.monotonic() >= self.seen + self.after:
            os.kill(process, signal.SIGKILL)
            self.process = process


def arguments(tmp_path: Path, *more: str) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text(SPREAD)
    return [
        "-m",
        "hpcmarl",
        "train",
        str(config),
        "--run-dir",
        str(tmp_path / "run"),
        "stop.updates=1000000",
        *more,
    ]


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if "error:" in line]


@pytest.mark.parametrize(
    ("rank", "after"), [(2, 0.0), (0, 0.8), pytest.param(3, 1.6, marks=pytest.mark.long("one more moment"))]
)
def test_death_at_start_ends_train_with_one_line(rank: int, after: float, tmp_path: Path) -> None:
    kill = KillAtStart(str(tmp_path / "run"), rank, after)
    job = run([sys.executable, *arguments(tmp_path), "-n", "4"], dict(os.environ), limit=60, meanwhile=kill)
    assert kill.process, job.text
    assert job.code == 1, job.text
    assert not job.orphans
    assert len(errors(job.text)) == 1, job.text
    assert f"rank {rank} " in errors(job.text)[0]
    assert "Traceback" not in job.text


def test_death_at_start_of_a_resumed_run_can_be_resumed(tmp_path: Path) -> None:
    run_world(2, tmp_path / "run", "stop.updates=2")
    kill = KillAtStart(str(tmp_path / "run"), 1, 0.5)
    job = run(
        [sys.executable, *arguments(tmp_path, "--resume", "auto", "-n", "3")],
        dict(os.environ),
        limit=60,
        meanwhile=kill,
    )
    assert kill.process, job.text
    assert job.code == 75, job.text
    assert len(errors(job.text)) == 1, job.text
    assert not job.orphans


@pytest.mark.parametrize("library", LIBRARIES)
def test_death_at_start_ends_a_bare_mpiexec(library: str, tmp_path: Path) -> None:
    kill = KillAtStart(str(tmp_path / "run"), 1, 0.3)
    command, environment = mpi_command(library, 3, [python_of(library), *arguments(tmp_path)])
    job = run(command, environment, limit=60, meanwhile=kill)
    assert kill.process, job.text
    assert job.code != 0, job.text
    assert not job.orphans
    assert "Traceback" not in job.text


def test_a_slow_rank_says_that_it_is_alone(tmp_path: Path) -> None:
    """The end of a quick rank does not end a slow one if the ranks do not meet.

    Ranks do not meet under srun --mpi=none, for example.
    """
    program = tmp_path / "rank.py"
    program.write_text(
        "import os, sys, time\n"
        "from hpcmarl.launch import start_watch\n"
        "watch = start_watch.watch_start(os.environ, '')\n"
        "time.sleep(4.0 if os.environ['SLURM_PROCID'] == '0' else 1.5)\n"
        "watch.joined()\n"
        "sys.exit(2)\n"
    )
    launcher = (
        "import os, subprocess, sys\n"
        "ranks = [subprocess.Popen([sys.executable, sys.argv[1]], env=os.environ | {'SLURM_PROCID': n, "
        "'SLURM_LOCALID': n}) for n in '01']\n"
        "print([rank.wait() for rank in ranks])\n"
    )
    environment = {
        **os.environ,
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_ID": "0",
        "PYTHONPATH": str(Path(start_watch.__file__).parents[2]),
    }
    job = run([sys.executable, "-c", launcher, str(program)], environment, limit=60)
    assert "[2, 2]" in job.text


def test_ranks_that_wait_too_long_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank never joins, as may happen on another host; in this test it sleeps."""
    monkeypatch.setenv("HPCMARL_OUTCOME", str(tmp_path / "code"))
    program = tmp_path / "sleeping.py"
    program.write_text(
        "import os, sys, time\n"
        "from hpcmarl.launch import start_watch\n"
        "start_watch.LIMIT_SECONDS = 3.0\n"
        "if os.environ['OMPI_COMM_WORLD_RANK'] == '1':\n    time.sleep(600)\n"
        "from hpcmarl.training import join_world\n"
        "join_world()\n"
    )
    command, environment = mpi_command("openmpi", 2, [sys.executable, str(program)])
    job = run(command, {**environment, "PYTHONPATH": str(Path(start_watch.__file__).parents[2])}, limit=60)
    assert job.code != 0
    assert "a rank of another host" in job.text
    assert (tmp_path / "code.said").exists()


DYING = """
import os, signal, sys
import hpcmarl.training as run
from hpcmarl.__main__ import main

place, victim = sys.argv.pop(1), int(sys.argv.pop(1))
whole = getattr(run, place)

def dying(*given):
    if int(os.environ["OMPI_COMM_WORLD_RANK"]) == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given)

setattr(run, place, dying)
main()
"""


@pytest.mark.parametrize(
    ("place", "victim"),
    [
        ("check_environments", 0),
        pytest.param("told_by_first", 2, marks=pytest.mark.long("one more moment")),
        pytest.param("told_by_first", 1, marks=pytest.mark.long("one more victim")),
        pytest.param("_processes", 3, marks=pytest.mark.long("one more moment")),
        ("form_reduction_group", 1),
    ],
)
def test_death_before_roles_are_built_is_one_line(place: str, victim: int, tmp_path: Path) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    given = [*arguments(tmp_path)[2:], "rounds.reduce=mpi", "rounds.rule=sync", "topology.groups=2"]
    command, environment = mpi_command(
        "openmpi", 4, [sys.executable, str(program), place, str(victim), *given]
    )
    outcome = tmp_path / "code"
    job = run(
        command,
        {
            **environment,
            "PYTHONPATH": str(Path(start_watch.__file__).parents[2]),
            "HPCMARL_OUTCOME": str(outcome),
        },
        limit=60,
    )
    assert job.code != 0, job.text
    assert len(errors(job.text)) == 1, job.text
    assert f"rank {victim} " in errors(job.text)[0]
    assert "died while the ranks were starting" in errors(job.text)[0]
    assert "MPI reports" not in job.text
    assert "Traceback" not in job.text
    assert outcome.with_name("code.said").exists()
    assert not job.orphans
