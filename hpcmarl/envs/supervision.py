"""Replaces broken environments: time limits, a restart budget, and the quarantine of slots.

An environment that raises or hangs consumes a restart. Past the budget the run stops, or the slot is
quarantined (`env.on_restart_limit`). The same happens before, if a bug repeats: the new environment of a slot
raises the same exception on the same line at the same step. An environment with non-finite values is replaced
without consuming a restart.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.envs.failure_trace import FailurePlace, place_of
from hpcmarl.envs.resolve import Source
from hpcmarl.errors import EnvironmentFailure

logger = logging.getLogger(__name__)
# ratio of the time limit of a reset to that of a step
RESET_FACTOR = 10.0


class StepTimeout(Exception):
    """The environment did not finish within its time limit."""


# Failures of the machine or of a time limit, which a new environment may not meet again.
TRANSIENT = (StepTimeout, OSError, MemoryError)


class TimeLimit:
    """Interrupt Python code in the main thread of this process after some time (SIGALRM).

    Without a limit, or in another thread, it does nothing. It cannot interrupt code that does not return to
    the interpreter. In that case the whole rank stops responding and is declared dead.

    Args:
        seconds: Time limit of a step; None: no limit.
    """

    # limit in seconds that is being timed now, of any instance; 0: none
    _inside = 0.0

    def __init__(self, seconds: float | None) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.seconds = seconds if seconds is not None and main and hasattr(signal, "setitimer") else None
        if self.seconds is not None:
            signal.signal(signal.SIGALRM, _interrupt)

    def start(self, factor: float = 1.0) -> None:
        """Start or restart the timer.

        Code that swallows the interruption is interrupted again after the same time.

        Args:
            factor: Multiple of the time limit of a step.
        """
        if self.seconds is not None:
            TimeLimit._inside = factor * self.seconds
            signal.setitimer(signal.ITIMER_REAL, TimeLimit._inside, TimeLimit._inside)

    def stop(self) -> None:
        """Stop the timer."""
        if self.seconds is not None:
            TimeLimit._inside = 0.0
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    @contextlib.contextmanager
    def around(self, factor: float = RESET_FACTOR) -> Iterator[None]:
        """Apply the limit to a block, for rare operations such as resets.

        Args:
            factor: Multiple of the time limit of a step.
        """
        self.start(factor)
        try:
            yield
        finally:
            self.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if TimeLimit._inside:
        raise StepTimeout(
            f"did not finish within {TimeLimit._inside:g} s (env.step_seconds; a reset may take "
            f"{RESET_FACTOR:g} times as long)"
        )


class EnvSupervisor:
    """Keeper of the restart budget of environments.

    Args:
        config: The environment.
        source: Factory of environments.
        slots: Number of slots.
        where: Function that describes a slot and its episode for messages.

    Attributes:
        limit: Time limit of steps and resets.
        retired: Slots in quarantine.
        resting: Slots that are excluded for a while.
        counts: Number of restarts, hangs, bad_numbers and quarantined slots in this process.
    """

    def __init__(self, config: EnvConfig, source: Source, slots: int, where: Callable[[int], str]) -> None:
        self.config = config
        self.source = source
        self.slots = slots
        self.where = where
        self.limit = TimeLimit(config.step_seconds)
        self.retired: set[int] = set()
        self.resting: set[int] = set()
        self.counts: Counter[str] = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)
        # place and step of the last failure of each slot that has finished no episode since
        self._last: dict[int, tuple[FailurePlace, int]] = {}
        self._logged: set[FailurePlace] = set()

    @property
    def idle(self) -> set[int]:
        """Slots that are not stepped."""
        return self.retired | self.resting

    def contract_error(self, row: int, error: Exception) -> EnvironmentFailure:
        """Return the exception for an environment that breaks the interface; a restart would not help."""
        return EnvironmentFailure(f"environment {self.where(row)} broke the PettingZoo contract: {error}")

    def consume_restart(self, row: int, error: Exception, step: int = 0) -> None:
        """Consume one restart; past the budget or for a repeated bug, quarantine the slot or raise.

        Args:
            row: The slot.
            error: Exception of the environment.
            step: Step of the episode; 0 for a reset or a constructor.

        Raises:
            EnvironmentFailure: From `error`, if no restart is left or the bug repeats, and
                `env.on_restart_limit` is stop or no slot is left.
        """
        self.counts["hangs"] += isinstance(error, StepTimeout)
        failure = (place_of(error), step)
        repeated = self._last.get(row) == failure and not isinstance(error, TRANSIENT)
        self._last[row] = failure
        problem = f"environment {self.where(row)} raised {type(error).__name__}: {error}"
        if self.counts["restarts"] < self.config.restarts and not repeated:
            self.counts["restarts"] += 1
            self._log_restart(problem, failure[0], error)
            return
        reason = (
            "its replacement failed in the same way at the same step, so no further restart is tried"
            if repeated
            else f"env.restarts: {self.config.restarts} allows no further restart"
        )
        if self.config.on_restart_limit == "stop":
            raise EnvironmentFailure(f"{problem}; {reason}") from error
        self.retired.add(row)
        self.counts["quarantined"] = len(self.retired)
        logger.warning("%s; %s; its slot is in quarantine", problem, reason)
        if len(self.retired) == self.slots:
            raise EnvironmentFailure(
                f"{problem}; {reason}, and all {self.slots} slots are in quarantine"
            ) from error

    def proved(self, row: int) -> None:
        """Note that the slot has finished an episode, so that its next failure is not a repetition."""
        self._last.pop(row, None)

    def _log_restart(self, problem: str, place: FailurePlace, error: Exception) -> None:
        """Log a restart, once for each place in the environment's code."""
        if place not in self._logged:
            self._logged.add(place)
            logger.warning("%s; it is replaced by a new one", problem, exc_info=error)

    def rebuild(self, row: int, old: Any) -> Any:
        """Replace a broken environment by a new one.

        Args:
            row: The slot.
            old: The broken environment; it is closed.

        Returns:
            The new environment; the old one if the slot was quarantined.
        """
        with contextlib.suppress(Exception), self.limit.around():
            old.close()
        while row not in self.retired:
            try:
                with self.limit.around():
                    return self.source.build()
            except Exception as error:
                self.consume_restart(row, error)
        return old
