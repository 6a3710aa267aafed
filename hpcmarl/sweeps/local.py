"""Run the trials of a sweep on this machine, side by side, each in processes of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from hpcmarl.config.file import load_config
from hpcmarl.config.search import SearchConfig
from hpcmarl.errors import EXIT_FAILURE, EXIT_SUCCESS, EXIT_TRY_AGAIN, EXIT_USAGE
from hpcmarl.sweeps.directory import (
    Outcome,
    SweepDirectory,
    best_of,
    outcomes,
    read_trial,
    values_text,
    write_table,
)

POLL_SECONDS = 0.2
TABLE_SECONDS = 10.0  # between two tables while trials run
LAST_BYTES = 4000  # of a trial's output, for the message of a failure


class LocalSweep:
    """A sweep that this process runs.

    Args:
        directory: Files of the sweep, see `prepare`.
        sweep: The sweep.
        ranks: Ranks of each trial; None: one process without MPI.
        options: Further options of `hpcmarl train`.
        say: Called with a line about each trial that has ended.

    Attributes:
        stopping: Whether a signal has asked for the end.
        usage_error: Message of a trial that ended with wrong usage, which all others would repeat; empty.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        sweep: SearchConfig,
        ranks: int | None,
        options: Sequence[str],
        say: Callable[[str, int, int], None],
    ) -> None:
        self.directory, self.sweep = directory, sweep
        self.stopping, self.usage_error = False, ""
        self._ranks, self._options, self._say = ranks, list(options), say
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Run all trials that have not ended.

        Returns:
            Exit code: 0 all trials have ended well, 1 some have failed, 2 wrong usage, 75 interrupted.
        """
        found = {each.trial.number: each for each in outcomes(self.directory, self.sweep)}
        waiting = [number for number, each in found.items() if not each.ended]
        table_due = 0.0
        with self._signals():
            while (waiting and not self.stopping and not self.usage_error) or self._running:
                while waiting and len(self._running) < self.sweep.parallel and not self.stopping:
                    self._start(waiting.pop(0))
                for number, process in list(self._running.items()):
                    if (code := process.poll()) is not None:
                        del self._running[number]
                        self._ended(number, code)
                        table_due = 0.0
                if time.monotonic() >= table_due:
                    write_table(self.directory, self.sweep, list(outcomes(self.directory, self.sweep)))
                    table_due = time.monotonic() + TABLE_SECONDS
                time.sleep(POLL_SECONDS)
        return self._code(list(outcomes(self.directory, self.sweep)))

    def _code(self, found: list[Outcome]) -> int:
        write_table(self.directory, self.sweep, found)
        if self.usage_error:
            return EXIT_USAGE
        if self.stopping:
            return EXIT_TRY_AGAIN
        return EXIT_SUCCESS if all(each.state in ("finished", "pruned") for each in found) else EXIT_FAILURE

    def _start(self, number: int) -> None:
        if read_trial(self.directory, number) is None:
            from hpcmarl.sweeps.optuna_search import ask

            ask(self.directory, self.sweep, load_config(self.directory.base_file), number)
        command = [sys.executable, "-m", "hpcmarl", "train", str(self.directory.config_of(number))]
        command += ["--run-dir", str(self.directory.run_of(number)), "--resume", "auto", *self._options]
        command += ["-n", str(self._ranks)] if self._ranks is not None else []
        with open(self._log(number), "ab") as log:
            self._running[number] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, number: int) -> str:
        return str(self.directory.trials / f"{number:04d}.log")

    def _ended(self, number: int, code: int) -> None:
        found = list(outcomes(self.directory, self.sweep))
        own = found[number - 1]
        if code == EXIT_USAGE:
            self.usage_error = f"trial {number} ({values_text(own.trial.values)}): {self._last_line(number)}"
            return
        if code not in (EXIT_SUCCESS, EXIT_TRY_AGAIN):
            text = f"failed with exit code {code}: {self._last_line(number)}"
        elif own.value is None:
            text = f"{own.state}, without a value of {self.sweep.metric}"
        else:
            text = f"{own.state}, {self.sweep.metric} {own.value:.5g}"
        best = best_of(self.sweep, found)
        more = (
            ""
            if best is None or best.value is None
            else f"; best: trial {best.trial.number}, {best.value:.5g}"
        )
        done = sum(each.ended for each in found)
        self._say(f"trial {number} ({values_text(own.trial.values)}): {text}{more}", done, len(found))

    def _last_line(self, number: int) -> str:
        """Return the last line of a trial's output that names an error, else its last line."""
        with open(self._log(number), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LAST_BYTES))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error: " in line]
        chosen = errors[-1].partition("error: ")[2] if errors else lines[-1] if lines else "no output"
        return f"{chosen} ({self._log(number)})"

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ask all trials to stop with a checkpoint at the first signal; kill them at the second."""

        def stop(number: int, frame: FrameType | None) -> None:
            kill, self.stopping = self.stopping, True
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    if kill:
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.send_signal(signal.SIGTERM)

        before: dict[int, Any] = {}
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            before[each] = signal.signal(each, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._running.values():  # after an exception
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
