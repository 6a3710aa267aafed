"""Start watch: a separate process that watches the ranks of one host while they start.

A rank that waits in MPI_Init cannot check the other ranks or print a message. So the first two ranks of each
host start this file as a program (`watch_start`); it imports only the standard library. If a rank of this
host ends before all have joined the world, or if the start takes too long, the watch prints one line and ends
the ranks. The second watch acts only if the first rank has ended. If both ranks die, an alarm ends the other
ranks.
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

# Interval between checks. MPI itself ends the other ranks about three seconds after a death in MPI_Init,
# without a message; the watch must be quicker.
LOOK_SECONDS = 0.4
# time in which a launcher starts all ranks of a host
SETTLING_SECONDS = 10.0
# time for a launcher to end its ranks
TERM_SECONDS = 3.0
# time after LIMIT_SECONDS at which an alarm ends a rank without a watch
ALARM_MARGIN = 30.0
# Maximum time in MPI_Init while all ranks of this host are alive; then a rank of another host is missing.
LIMIT_SECONDS = 300.0
# Time until rank 0's watch first says that ranks are still starting; later lines follow at tripled times.
FIRST_WORD_SECONDS = 10.0
JOINED = b"joined"
LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
LOCAL_SIZE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# Variables of launchers that connect their ranks. Without them each rank is alone in its world, as under
# srun --mpi=none, and waits for no other rank.
MEETING = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_")
# programs that end all their ranks on SIGTERM, including those on other hosts
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "prterun", "prte", "prted", "orted", "hydra_pmi_proxy")


class StartWatch:
    """Handle of the watch over a starting rank.

    Args:
        process: Watch process that this rank has started; None: only an alarm.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(LIMIT_SECONDS + ALARM_MARGIN))

    def joined(self) -> None:
        """End the watch, because this rank has joined the world."""
        signal.alarm(0)
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate(JOINED)


def watch_start(environ: Mapping[str, str], said: str) -> StartWatch:
    """Start the alarm of this rank, and on the first two ranks of a host the watch over all its ranks.

    Args:
        environ: Environment variables of this rank.
        said: File that the watch creates after it has printed why the job ends; empty: none.
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
    """Return the environment variables of the ranks that a process has started, by process number.

    Args:
        parent: Process number of the launcher or its daemon.

    Returns:
        Only ranks that are alive.
    """
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
    """Describe the rank of this host that has ended or never started.

    Args:
        known: Variables of the ranks seen so far, by process number.
        there: Variables of the ranks that are alive, by process number.
        expected: Number of ranks that the launcher starts on this host; 0: unknown.
        seconds: Time since the watch began.

    Returns:
        Words for a message; None if no rank is missing.
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
        # if all ranks are on this host, the number on the host is the rank
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
    """Watch the ranks of this host until the starter has joined the world; end all ranks if one is missing.

    The starter writes JOINED to the standard input of this process. If the input ends without it, the starter
    has ended.

    Args:
        local: Number on this host of the rank that started the watch: 0 or 1.
        parent: Process that started the ranks of this host.
        expected: Number of ranks on this host; 0: unknown.
        limit: Seconds until a rank of another host counts as missing.
        said: File to create after the message; empty: none.
    """
    known: dict[int, dict[str, str]] = {}
    starter = f"rank {_number(os.environ, RANK)}"
    began, starter_ended = time.monotonic(), False
    word_at = FIRST_WORD_SECONDS if _number(os.environ, RANK) == 0 else limit
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
        if missing is None and seconds > word_at:
            word_at *= 3
            of = f" of {expected}" if expected else ""
            _say(
                f"waiting for ranks to start for {seconds:.0f} s: {len(there)}{of} run on "
                f"{os.uname().nodename}\n",
                "",
            )
        if missing is None and seconds > limit:
            missing = "a rank of another host (all of this one are alive)"
        if local > 0 and any(_number(variables, LOCAL_RANK) == 0 for variables in there.values()):
            # the watch of the first rank acts
            continue
        if missing is not None:
            # If the launcher is ending all ranks of a failed job, no rank is left after this pause.
            time.sleep(LOOK_SECONDS)
            if there := siblings(parent):
                _say(
                    (
                        f"error: {missing} on {os.uname().nodename} died or did not start while the ranks "
                        "were starting; the job ends\n"
                    ),
                    said,
                )
                end_ranks(parent, list(there))
            return


def end_ranks(parent: int, ranks: list[int]) -> None:
    """End the ranks, by way of their launcher if it also ends those on other hosts.

    Args:
        parent: Process that started the ranks of this host.
        ranks: Process numbers; those that the launcher does not end get SIGKILL.
    """
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
