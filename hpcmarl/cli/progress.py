"""Progress of commands that take long: a bar with the time left in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

FIRST_SECONDS, LINE_SECONDS = 10.0, 30.0  # before the first line, and between two, without a terminal


class Progress:
    """Progress of a known number of equal parts, on standard error.

    Commands that end within FIRST_SECONDS print nothing without a terminal.

    Args:
        what: What is counted, in the plural.
        total: Number of parts; None: unknown.
        done: Parts that are done already.
    """

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self.what, self.total = what, total
        self._begun = self._done = done
        self._began = time.monotonic()
        self._due = self._began + FIRST_SECONDS
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Count further parts as done."""
        self.at(self._done + count)

    def at(self, done: int, total: int | None = None) -> None:
        """Set the number of parts that are done, and the total if it is given."""
        self._done = done
        self.total = self.total if total is None else total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_SECONDS
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return the progress in one line."""
        of = "" if self.total is None else f" of {self.total:,}"
        left = self.seconds_left()
        return f"{self._done:,}{of} {self.what}" + ("" if left is None else f", about {_duration(left)} left")

    def seconds_left(self) -> float | None:
        """Return the estimated time left, seconds; None: unknown."""
        new = self._done - self._begun
        if self.total is None or new <= 0:
            return None
        return (time.monotonic() - self._began) * (self.total - self._done) / new

    def say(self, line: str) -> None:
        """Print a line on standard output, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)


def _duration(seconds: float) -> str:
    from hpcmarl.analysis.watch import duration

    return duration(seconds)
