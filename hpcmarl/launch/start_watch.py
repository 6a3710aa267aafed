"""Watches the ranks of one host while they start, from outside: a rank that waits in MPI_Init can neither
look nor speak.

The first two ranks of each host start this file as a program of their own (`watch_start`), which imports the
standard library alone. If a rank of this host ends before all have joined the world, or they take too long,
it says so in one line and ends the ranks. The second watch acts only where the first rank is gone. Should
both ranks die, an alarm ends the others.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

LOOK_SECONDS = (
    0.4  # MPI itself ends the others some three seconds after a death in MPI_Init, without a word about it
)
SETTLING_SECONDS = 10.0  # by then the launcher has started all ranks of a host
TERM_SECONDS = 3.0  # for a launcher to end its ranks
ALARM_MARGIN = 30.0  # seconds after that, an alarm ends a rank over which nobody watches
LIMIT_SECONDS = 300.0  # in MPI_Init with every rank of this host alive: one on another host is missing
JOINED = b"joined"
LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
LOCAL_SIZE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# the launcher lets its ranks meet; without, each finds itself alone in its world, as under srun --mpi=none,
# and waits for nobody
MEETING = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_")
# programs that end all their ranks, also those on other hosts, when they get SIGTERM
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "prterun", "prte", "prted", "orted", "hydra_pmi_proxy")


class StartWatch:
    """The watch over a starting rank; `joined` ends it."""

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(LIMIT_SECONDS + ALARM_MARGIN))

    def joined(self) -> None:
        """This rank has joined the world: the watch is over."""
        signal.alarm(0)
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate(JOINED)


def watch_start(environ: Mapping[str, str], said: str) -> StartWatch:
    """Start the watch over this rank, and on the first two of a host the one over the others.

    Args:
        environ: variables of this rank.
        said: a file that is made when the watch has said why the job ends; empty: none.
    """
    local = _number(environ, LOCAL_RANK)
    if local is None or local > 1 or not any(name.startswith(MEETING) for name in environ):
        return StartWatch(None)
    expected = _number(environ, LOCAL_SIZE) or 0
    command = [
        sys.executable,
        "-E",
        "-S",
        __file__,
        str(local),
        str(os.getppid()),
        str(expected),
        str(LIMIT_SECONDS),
        said,
    ]
    return StartWatch(subprocess.Popen(command, stdin=subprocess.PIPE))


def siblings(parent: int) -> dict[int, dict[str, str]]:
    """Return the living processes that `parent` started, which are ranks, with their variables."""
    found = {}
    for process in _children(parent):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
            variables = dict(part.partition("=")[::2] for part in text.split("\0"))
            if _number(variables, RANK) is not None:
                found[process] = variables
    return found


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, own = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(own) == parent and state not in "ZX":
                yield int(entry.parent.name)


def missing_rank(
    known: Mapping[int, Mapping[str, str]],
    there: Mapping[int, Mapping[str, str]],
    expected: int,
    seconds: float,
) -> str | None:
    """Say in words which rank of this host is gone.

    Args:
        known: ranks seen so far, by process.
        there: ranks that are alive.
        expected: how many the launcher starts on this host; 0: it does not say.
        seconds: since the watch began.
    """
    gone = sorted(
        (_number(variables, RANK) or 0, process)
        for process, variables in known.items()
        if process not in there
    )
    if gone:
        return f"rank {gone[0][0]} (process {gone[0][1]})"
    if seconds > SETTLING_SECONDS and len(there) < expected:
        absent = sorted(
            set(range(expected)) - {_number(variables, LOCAL_RANK) or 0 for variables in there.values()}
        )
        # all ranks are on this host
        alone = any(_number(variables, SIZE) == expected for variables in there.values())
        return (
            f"rank {absent[0]}"
            if alone and absent
            else f"the rank with number {absent[0]} of its host"
            if absent
            else "a rank"
        )
    return None


def watch(local: int, parent: int, expected: int, limit: float, said: str) -> None:
    """Look at the ranks until the one with the number `local` on this host has joined the world; end them all
    when one is missing."""
    known: dict[int, dict[str, str]] = {}
    starter = f"rank {_number(os.environ, RANK)}"
    began, starter_ended = time.monotonic(), False
    while True:
        if select.select([sys.stdin.buffer], [], [], LOOK_SECONDS)[0]:
            if sys.stdin.buffer.read() == JOINED:
                return
            starter_ended = True
            time.sleep(LOOK_SECONDS)
        there = siblings(parent)
        if not there:
            return
        seconds = time.monotonic() - began
        missing = missing_rank(known, there, expected, seconds) or (starter if starter_ended else None)
        known |= there
        if missing is None and seconds > limit:
            missing = "a rank of another host (all of this one are alive)"
        if local > 0 and any(_number(variables, LOCAL_RANK) == 0 for variables in there.values()):
            continue  # the first rank's watch says so
        if missing is not None:
            # one of a failing job is not the cause: the launcher is ending the others, too
            time.sleep(LOOK_SECONDS)
            if there := siblings(parent):
                _say(
                    (
                        f"error: {missing} on {os.uname().nodename} ended or never came while the ranks were "
                        "starting; the job ends\n"
                    ),
                    said,
                )
                end_ranks(parent, list(there))
            return


def end_ranks(parent: int, ranks: list[int]) -> None:
    """End the ranks, through their launcher where it is one that takes those on other hosts along."""
    with contextlib.suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() in LAUNCHERS:
            os.kill(parent, signal.SIGTERM)
            end = time.monotonic() + TERM_SECONDS
            while time.monotonic() < end and any(True for _ in _children(parent)):
                time.sleep(0.1)
    for process in ranks:
        with contextlib.suppress(OSError):
            if process in set(_children(parent)) | set(_children(1)):
                os.kill(process, signal.SIGKILL)


def _say(line: str, said: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
    if said:
        with contextlib.suppress(OSError):
            Path(said).touch()


def _number(variables: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((int(variables[name]) for name in names if variables.get(name, "").isdecimal()), None)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    watch(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
