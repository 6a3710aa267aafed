"""Real ranks shared by many tests: one mpiexec runs a list of checks (tests/mpi/serve_checks.py).

The outcome of each check is read as soon as it exists, so a test lasts as long as its check. If a check
fails, its world ends, and the next checks run in a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcmarl.launch.mpiexec import session_members
from tests.support.launch import mpi_command, python_of

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 150.0  # for one check, including the start of a world
POLL_SECONDS = 0.02
END_SECONDS = 10.0


class RankWorld:
    """Ranks under one MPI library, and the checks that they run.

    Args:
        library: "openmpi" or "mpich".
        ranks: Size of the world.
        checks: Names of checks, in the order of their requests.
        directory: Directory in which each check writes to its own folder.
    """

    def __init__(self, library: str, ranks: int, checks: Sequence[str], directory: Path) -> None:
        self.library, self.ranks, self.checks, self.directory = library, ranks, list(checks), directory
        self._process: subprocess.Popen[bytes] | None = None
        self._output = directory / "output"

    def expect(self, name: str) -> None:
        """Wait until a check has passed. If it fails, fail the test with the exceptions of its ranks."""
        folder = self.directory / name
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (folder / "passed").exists():
            if self._process is None:
                self._start(self.checks[self.checks.index(name) :])
            elif (
                self._process.poll() is not None
                or list(folder.glob("*.failed"))
                or time.monotonic() > deadline
            ):
                # other ranks may still be writing their exceptions
                time.sleep(10 * POLL_SECONDS)
                self.close()
                reasons = [
                    f"rank {path.stem}:\n{path.read_text()}" for path in sorted(folder.glob("*.failed"))
                ]
                pytest.fail(
                    "\n".join(reasons)
                    or f"the world ended or took longer than {LIMIT_SECONDS:g} s:\n{self._end_of_output()}"
                )
            time.sleep(POLL_SECONDS)

    def _start(self, names: Sequence[str]) -> None:
        command, environment = mpi_command(
            self.library,
            self.ranks,
            [python_of(self.library), "-m", "tests.mpi.serve_checks", str(self.directory), *names],
        )
        environment["PYTHONPATH"] = str(ROOT)
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _end_of_output(self) -> str:
        return self._output.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End the world; the next check starts a new one.

        If all checks have passed, the world ends without being killed and leaves no files behind.
        """
        if self._process is not None:
            if (self.directory / self.checks[-1] / "passed").exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_SECONDS)
            for member in session_members(self._process.pid):
                os.kill(member, signal.SIGKILL)
            self._process.wait()
            self._process = None
