"""Start MPI ranks for tests, with a hard time limit.

All processes of a job are killed afterwards, and processes that it left behind are reported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from hpcmarl.launch.mpiexec import command_line, program_of, session_members

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "mpi" / "programs"
MPICH_PYTHON = os.environ.get("HPCMARL_MPICH_PYTHON", "")
needs_mpich = pytest.mark.skipif(
    not MPICH_PYTHON, reason="set HPCMARL_MPICH_PYTHON (tools/test makes that environment)"
)
ranks_take_seconds = pytest.mark.slow("each MPI rank takes two seconds of a core to start")
LIBRARIES = ["openmpi", pytest.param("mpich", marks=needs_mpich)]

# the directory is removed when the tests end
SCRATCH = tempfile.TemporaryDirectory(prefix="hpcmarl-tests-", ignore_cleanup_errors=True)
EXIT_SECONDS = 20.0  # seconds that killed processes may take to end on a busy machine
HOROVOD = find_spec("horovod") is not None
needs_horovod = pytest.mark.skipif(not HOROVOD, reason="Horovod is not installed: run tools/install_horovod")


@dataclass
class Job:
    """Result of a finished job.

    Attributes:
        code: Exit code.
        text: Both outputs as one text.
        seconds: Duration.
        seconds_after_error: Time from the first error line to the end; None without an error.
        orphans: Processes that the job left behind.
    """

    code: int
    text: str
    seconds: float
    seconds_after_error: float | None
    orphans: list[int]


def python_of(library: str) -> str:
    """Return the interpreter whose mpi4py uses this MPI library."""
    return MPICH_PYTHON if library == "mpich" else sys.executable


def mpi_command(library: str, ranks: int, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command prefixed by the `mpiexec` of an MPI library, and the environment for it."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(python_of(library)).parent}{os.pathsep}{environment['PATH']}"
    mpiexec = Path(python_of(library)).parent / "mpiexec"
    program = program_of(
        mpiexec, subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=True).stdout
    )
    start, extra = command_line(
        ranks, program, environment, os.geteuid() == 0, tempfile.mkdtemp(dir=SCRATCH.name)
    )
    return [*start, *command], environment | extra


def run(
    command: Sequence[str],
    environment: dict[str, str] | None = None,
    limit: float = 120.0,
    cwd: Path | None = None,
    meanwhile: Callable[[int], object] = id,
) -> Job:
    """Run a command in its own session.

    At the time limit it is killed, and the test fails with its output so far.

    Args:
        command: Command to run.
        environment: Environment variables; None: those of this process.
        limit: Time limit in seconds.
        cwd: Working directory.
        meanwhile: Called repeatedly with the number of the session while the command runs.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        list(command),
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    killer = subprocess.Popen(["sleep", str(limit)])
    text, first_error = "", None
    try:
        os.set_blocking(process.stdout.fileno(), False)
        while process.poll() is None:
            text += _read_available(process)
            first_error = first_error or (time.monotonic() if "failed:" in text else None)
            if killer.poll() is not None:
                pytest.fail(f"{' '.join(command)} ran past {limit} s:\n{text[-4000:]}")
            meanwhile(process.pid)
            time.sleep(0.02)
        text += _read_available(process)
        ended = time.monotonic()
        first_error = first_error or (ended if "failed:" in text else None)
        while (orphans := session_members(process.pid)) and time.monotonic() < ended + EXIT_SECONDS:
            time.sleep(0.05)
    finally:
        killer.kill()
        killer.wait()
        for member in session_members(process.pid):
            os.kill(member, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    after = None if first_error is None else ended - first_error
    return Job(process.returncode, text, ended - began, after, orphans)


def _read_available(process: subprocess.Popen[bytes]) -> str:
    return (process.stdout.read() or b"").decode(errors="replace")


def run_program(library: str, ranks: int, name: str, *arguments: str, limit: float = 90.0) -> Job:
    """Run one of programs/ on a number of ranks."""
    command, environment = mpi_command(library, ranks, [python_of(library), str(PROGRAMS / name), *arguments])
    environment["PYTHONPATH"] = str(ROOT)
    return run(command, environment, limit)


def run_train(
    library: str,
    ranks: int,
    config: Path,
    *arguments: str,
    limit: float = 120.0,
    cwd: Path | None = None,
    meanwhile: Callable[[int], object] = id,
) -> Job:
    """Run `hpcmarl train` on ranks started by mpiexec."""
    command, environment = mpi_command(
        library, ranks, [python_of(library), "-m", "hpcmarl", "train", str(config), *arguments]
    )
    return run(command, environment, limit, cwd, meanwhile)


def rank_processes(marker: str) -> dict[int, int]:
    """Find the processes of ranks whose command line contains `marker`, for instance their run directory.

    Returns:
        Rank -> process.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() not in (entry / "cmdline").read_bytes():
                continue
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            name, _, value = variable.partition(b"=")
            if name in (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK", b"PMIX_RANK") and value.isdigit():
                found[int(value)] = int(entry.name)
                # any of the variables will do: Open MPI under srun sets only PMIX_RANK
                break
    return found
