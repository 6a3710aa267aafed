"""What is done about environments that raise, hang or give numbers that are none: restarts within a budget,
then an end or quarantine.

Called by batch.py. Knows how many slots there are and how an environment is built, not how one is driven or
stepped.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.envs.resolve import Source
from hpcmarl.errors import EnvironmentFailure

RESET_FACTOR = 10.0  # a reset may take so many times as long as a step


class StepTimeout(Exception):
    """The environment was still at work when its time was up."""


class TimeLimit:
    """Interrupts Python code of this process's main thread after a while (SIGALRM); without a limit, or in
    another thread, it does nothing.

    Code that does not come back to the interpreter cannot be interrupted so: then the whole rank falls silent
    and is given up.
    """

    _inside = 0.0  # the limit under way, of whichever instance; 0: none

    def __init__(self, seconds: float | None) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.seconds = seconds if seconds is not None and main and hasattr(signal, "setitimer") else None
        if self.seconds is not None:
            signal.signal(signal.SIGALRM, _interrupt)

    def start(self, factor: float = 1.0) -> None:
        """Begin to count (again). Code that swallows the interruption is interrupted again after as long."""
        if self.seconds is not None:
            TimeLimit._inside = factor * self.seconds
            signal.setitimer(signal.ITIMER_REAL, TimeLimit._inside, TimeLimit._inside)

    def stop(self) -> None:
        if self.seconds is not None:
            TimeLimit._inside = 0.0
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    @contextlib.contextmanager
    def around(self, factor: float = RESET_FACTOR) -> Iterator[None]:
        """The limit around a block, for what happens rarely."""
        self.start(factor)
        try:
            yield
        finally:
            self.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if TimeLimit._inside:
        raise StepTimeout(
            f"was still at work after {TimeLimit._inside:g} s (env.step_seconds; a reset may take "
            f"{RESET_FACTOR:g} times as long)"
        )


class EnvSupervisor:
    """Pays for what breaks. `retired`: slots in quarantine; `resting`: left out for a while.

    `counts`: restarts, hangs, bad_numbers, quarantined of this process."""

    def __init__(self, config: EnvConfig, source: Source, slots: int, where: Callable[[int], str]) -> None:
        self.config = config
        self.source = source
        self.slots = slots
        self.where = where
        self.limit = TimeLimit(config.step_seconds)
        self.retired: set[int] = set()
        self.resting: set[int] = set()
        self.counts: Counter[str] = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)

    @property
    def idle(self) -> set[int]:
        """The slots that are not stepped."""
        return self.retired | self.resting

    def contract_error(self, row: int, error: Exception) -> EnvironmentFailure:
        """The exception for an environment that does not keep to the interface: no restart helps."""
        return EnvironmentFailure(f"environment {self.where(row)} broke the PettingZoo contract: {error}")

    def consume_restart(self, row: int, error: Exception) -> None:
        """Pay one restart; past the budget the slot goes into quarantine, or EnvironmentFailure is raised
        from the environment's exception."""
        self.counts["hangs"] += isinstance(error, StepTimeout)
        if self.counts["restarts"] < self.config.restarts:
            self.counts["restarts"] += 1
            return
        problem = (
            f"environment {self.where(row)} raised {type(error).__name__}: {error}; env.restarts: "
            f"{self.config.restarts} allows no further restart"
        )
        if self.config.on_restart_limit == "stop":
            raise EnvironmentFailure(problem) from error
        self.retired.add(row)
        self.counts["quarantined"] = len(self.retired)
        if len(self.retired) == self.slots:
            raise EnvironmentFailure(f"{problem}, and all {self.slots} slots are in quarantine") from error

    def rebuild(self, row: int, old: Any) -> Any:
        """A new environment in the place of a broken one; the old one where the slot had to be given up."""
        with contextlib.suppress(Exception), self.limit.around():
            old.close()
        while row not in self.retired:
            try:
                with self.limit.around():
                    return self.source.build()
            except Exception as error:
                self.consume_restart(row, error)
        return old
