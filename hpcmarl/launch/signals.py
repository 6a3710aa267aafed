"""Signals that request the end of a run.

They only set a flag, which the loop of the rank polls. A second SIGINT stops the process at once.
"""

from __future__ import annotations

import atexit
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def _ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """Handlers of the signals that request the end of a run.

    Attributes:
        pending: Whether a signal has arrived.
        name: Name of that signal; empty before.
    """

    def __init__(self) -> None:
        self.pending = False
        self.name = ""

    def install(self) -> StopSignals:
        """Handle SIGINT, SIGTERM and SIGUSR1 from now on; call it in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def ignore_at_exit(self) -> None:
        """Ignore SIGTERM and SIGUSR1 from the exit of the interpreter on.

        Python restores the default handlers before MPI_Finalize is called. Then a signal that requests a
        checkpoint would kill the rank, and the job would fail although the run has ended. The signals are not
        ignored earlier, because programs started until then would inherit that.
        """
        atexit.register(_ignore)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.pending and number == signal.SIGINT and self.name == "SIGINT":
            raise KeyboardInterrupt
        self.pending, self.name = True, signal.Signals(number).name
