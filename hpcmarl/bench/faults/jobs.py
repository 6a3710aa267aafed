"""A training job as seen from outside: its processes, their ranks, and its progress.

mpiexec puts ranks into sessions and process groups of their own. Processes are therefore found by a mark in
their environment. Progress is read from metrics.csv, which has a row for each round in these runs.
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

MARK = "HPCMARL_FAULTS_JOB"  # environment variable that holds the mark of a job
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition is true; return whether that happened within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class Job:
    """A run of `hpcmarl ARGUMENTS…` in its own session.

    `kill`, `stop` and `wait` leave no process of the job behind.

    Args:
        arguments: Command and its arguments.
        output: File for everything that the job prints.
    """

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
        """Whether the launching process still runs."""
        return self.process.poll() is None

    def processes(self) -> dict[int, int | None]:
        """Return the living processes of the job: process number -> rank, or None for launchers."""
        mark = f"{MARK}={self.mark}".encode()
        found: dict[int, int | None] = {}
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = entry.read_bytes().split(b"\0")  # empty for a zombie
            except OSError:
                continue  # the process has just ended, or belongs to another user
            if mark in variables:
                known = dict(variable.decode(errors="replace").partition("=")[::2] for variable in variables)
                ranks = [int(known[name]) for name in RANK_VARIABLES if known.get(name, "").isdecimal()]
                found[int(entry.parent.name)] = ranks[0] if ranks else None
        return found

    def kill(self) -> None:
        """Send SIGKILL to every process of the job until none is left."""
        while members := self.processes():
            for number in members:
                kill_process(number)
            time.sleep(0.001)
        self.process.wait()

    def stop(self, seconds: float) -> int | None:
        """Ask the job to stop with a checkpoint.

        Returns:
            Its exit code; None if it had to be killed after `seconds`.
        """
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int | None:
        """Wait for the end of the job.

        Returns:
            Its exit code; None if it did not end within `seconds` and was killed.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def closing_lines(self) -> str:
        """Return the end of the job's output on one line."""
        with contextlib.suppress(OSError):
            return " ".join(self.output.read_text(errors="replace").split())[-600:]
        return ""


def kill_process(number: int) -> None:
    """Send SIGKILL; ignore a process that has already ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(number, signal.SIGKILL)


class Progress:
    """Progress of a run by the last whole row of its metrics.csv."""

    def __init__(self, run_directory: Path) -> None:
        self.path = run_directory / "metrics.csv"

    def inode(self) -> int:
        """Return the inode of metrics.csv; 0 if the file does not exist.

        The inode changes when a resumed run has dropped the rows after its checkpoint.
        """
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    def last(self, column: str = "version") -> float:
        """Return the value of a column in the last whole row; 0 if no row exists."""
        try:
            with self.path.open("rb") as stream:
                heading = next(csv.reader([stream.readline().decode()]), [])
                stream.seek(max(stream.tell(), stream.seek(0, os.SEEK_END) - (1 << 14)))
                rows = stream.read().decode(errors="replace").split("\n")[:-1]
            return float(rows[-1].split(",")[heading.index(column)] or 0) if rows else 0.0
        except (OSError, ValueError, IndexError):
            return 0.0  # the file does not exist yet, or is being replaced

    @property
    def version(self) -> int:
        """Version in the last row."""
        return int(self.last())
