"""Signals that ask a run to stop: they only set a flag, which the rank's loop looks at. A second SIGINT stops
at once."""

from __future__ import annotations

import atexit
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def _ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """`install()` in the main thread; `pending` once a signal has come, `name` says which."""

    def __init__(self) -> None:
        self.pending = False
        self.name = ""

    def install(self) -> StopSignals:
        """Take over SIGINT, SIGTERM and SIGUSR1 of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def ignore_at_exit(self) -> None:
        """A run that has ended takes no more requests: Python puts the default handlers back before
        MPI_Finalize is called, and there the signal that asks for a checkpoint would kill the rank and fail
        the job. Not ignored before: programs started until then would be deaf, too."""
        atexit.register(_ignore)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.pending and number == signal.SIGINT and self.name == "SIGINT":
            raise KeyboardInterrupt
        self.pending, self.name = True, signal.Signals(number).name
