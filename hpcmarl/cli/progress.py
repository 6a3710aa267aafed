"""Progress of commands that take long: a bar with the time left in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

FIRST_SECONDS, LINE_SECONDS = 10.0, 30.0  # before the first line, and between two, without a terminal
BYTES = "bytes"  # counted parts that are shown in MB


class Progress:
    """Progress of a number of equal parts, on standard error.

    Commands that end within FIRST_SECONDS print nothing without a terminal.

    Args:
        what: What is counted, in the plural; BYTES are shown in MB.
        total: Number of parts; None: `at` gives it. The first call of `at` is then the beginning.
        done: Parts that are done already.
    """

    def __init__(self, what: str, total: int | None = None, done: float = 0) -> None:
        self.what, self.total = what, total
        self._begun = self._done = done
        self._began = time.monotonic()
        self._due = self._began + FIRST_SECONDS
        self._waits = total is None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn() if self.what == BYTES else MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            # rich would move what is printed on standard output to the console of the bar
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: float = 1) -> None:
        """Count further parts as done."""
        self.at(self._done + count)

    def at(self, done: float, total: int | None = None, words: str = "") -> None:
        """Set the number of parts that are done.

        Args:
            done: Parts that are done, with fractions.
            total: Number of parts; None: as before.
            words: Name of the present part; empty: none.
        """
        if self._waits and total is not None:
            self._waits, self._begun, self._began = False, done, time.monotonic()
        self._done = done
        self.total = self.total if total is None else total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, description=words or self.what)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_SECONDS
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return the progress in one line."""
        of = "" if self.total is None else f" of {self._number(self.total)}"
        left = self.seconds_left()
        what = "MB" if self.what == BYTES else self.what
        return f"{self._number(self._done)}{of} {what}" + (
            "" if left is None else f", about {_duration(left)} left"
        )

    def _number(self, count: float) -> str:
        return f"{count / 1e6:,.1f}" if self.what == BYTES else f"{int(count):,}"

    def seconds_left(self) -> float | None:
        """Return the estimated time left, seconds; None: unknown."""
        new = self._done - self._begun
        if self.total is None or new <= 0:
            return None
        return (time.monotonic() - self._began) * (self.total - self._done) / new

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line above the bar.

        Args:
            line: The line.
            error: Whether it goes to standard error.
        """
        if self._bar is None:
            print(line, file=sys.stderr if error else sys.stdout, flush=True)
        elif error or sys.stdout.isatty():
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)


def _duration(seconds: float) -> str:
    from hpcmarl.io.limits import duration

    return duration(seconds)
