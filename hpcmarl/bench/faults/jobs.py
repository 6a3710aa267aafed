"""A training job seen from outside: its processes, which of them is which rank, and how far it has come.

Called by bench/faults/campaign.py. Processes are found by a mark in their environment, because mpiexec puts
ranks into sessions and groups of their own; progress is read from metrics.csv, which has a row a round there.
Knows nothing of why a job is killed.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "HPCMARL_FAULTS_JOB"
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class Job:
    """`hpcmarl ARGUMENTS…` in a session of its own; what it prints goes to `output`. Close it: nothing of it
    stays."""

    def __init__(self, arguments: Sequence[str], output: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.output = output
        self.began = time.monotonic()
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "hpcmarl", *arguments],
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> dict[int, int | None]:
        """The living processes of the job: process number -> rank, None for launchers."""
        mark = f"{MARK}={self.mark}".encode()
        found: dict[int, int | None] = {}
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = entry.read_bytes().split(b"\0")  # empty for a zombie
            except OSError:
                continue  # it ended while we looked, or is somebody else's
            if mark in variables:
                known = dict(variable.decode(errors="replace").partition("=")[::2] for variable in variables)
                ranks = [int(known[name]) for name in RANK_VARIABLES if known.get(name, "").isdecimal()]
                found[int(entry.parent.name)] = ranks[0] if ranks else None
        return found

    def kill(self) -> None:
        """SIGKILL to every process of the job until none is left."""
        while members := self.processes():
            for number in members:
                kill_process(number)
            time.sleep(0.001)
        self.process.wait()

    def stop(self, seconds: float) -> int | None:
        """Ask the job to stop with a checkpoint; its exit code, None where it had to be killed."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int | None:
        """The exit code once it has ended by itself, None (and it is killed) where it does not in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def closing_lines(self) -> str:
        """The end of what it printed, on one line."""
        with contextlib.suppress(OSError):
            return " ".join(self.output.read_text(errors="replace").split())[-600:]
        return ""


def kill_process(number: int) -> None:
    """SIGKILL; a process that has ended meanwhile is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(number, signal.SIGKILL)


class Progress:
    """How far a run has come, by the last whole row of its metrics.csv."""

    def __init__(self, run_directory: Path) -> None:
        self.path = run_directory / "metrics.csv"

    def inode(self) -> int:
        """Changes when a resumed run has dropped the rows past its checkpoint; 0 where there is no file."""
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    def last(self, column: str = "version") -> float:
        """The value in the last whole row, 0 where there is none."""
        try:
            with self.path.open("rb") as stream:
                heading = next(csv.reader([stream.readline().decode()]), [])
                stream.seek(max(stream.tell(), stream.seek(0, os.SEEK_END) - (1 << 14)))
                rows = stream.read().decode(errors="replace").split("\n")[:-1]
            return float(rows[-1].split(",")[heading.index(column)] or 0) if rows else 0.0
        except (OSError, ValueError, IndexError):
            return 0.0  # not there yet, or just being replaced

    @property
    def version(self) -> int:
        return int(self.last())
