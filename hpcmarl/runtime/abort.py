"""End of the whole job when a rank fails, after the failure was recorded and printed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from hpcmarl.comm.transport import PeerAborted, PeerFailure, Transport
from hpcmarl.envs.failure_trace import last_frames
from hpcmarl.errors import EXIT_FAILURE, EXIT_TRY_AGAIN, EnvironmentFailure, HpcmarlError
from hpcmarl.launch.outcome import is_said, report_explained, said_path
from hpcmarl.roles.base import Context
from hpcmarl.runtime.failure import FILE_ONLY, record_failure
from hpcmarl.runtime.heartbeat import RunLost, ServerLost, ServerSilent

if TYPE_CHECKING:
    from hpcmarl.runtime.rank import Rank

logger = logging.getLogger(__name__)

# Longest time that a failing rank spends on closing its files.
CLOSING_SECONDS = 4.0
# Wait after an error message: launchers forward the output of a rank only while the job is alive.
FORWARDING_SECONDS = 0.3
# Longest wait of a failing rank for the rank that reports the same failure. That rank ends the job; it may
# still be closing its files.
REPORTING_SECONDS = 2 * CLOSING_SECONDS
# Time for a rank to notice a death at the start; it may be reading a checkpoint.
TURN_SECONDS = 3.0
STARTING_TURNS = 4  # ranks that may report a death at the start; the others end silently
FIRST_OTHER = 1  # lowest rank that is not the server's


class AbortHook:
    """Ends the whole job when this rank fails in any thread, after printing where and why.

    Attributes:
        rank: The rank; None until its roles are built.
        doing: Activity of the process until then, for error messages.
        context: Context of the run; None until the run directory is open.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.rank: Rank | None = None
        self.doing = "starting"
        self.context: Context | None = None
        threading.excepthook = self._on_thread_failure

    def _on_thread_failure(self, failure: Any) -> None:
        self.fail(failure.exc_value, thread=failure.thread.name if failure.thread else "thread")

    def fail(self, error: BaseException | None, thread: str = "") -> None:
        """Report a failure and abort the world; does not return under MPI.

        A rank that ends because of another one usually prints nothing. There are two exceptions. One rank
        reports the loss of the server's rank or a death before the roles were built. Every rank that detects
        a silent server reports it.

        Args:
            error: The failure.
            thread: Name of the thread in which it occurred; empty: the main thread.
        """
        if isinstance(error, PeerFailure):
            if self.rank is not None:
                logger.error("%s", error)
            elif not isinstance(error, PeerAborted):
                self._report_death_at_start()
            if isinstance(error, ServerSilent) or (isinstance(error, ServerLost) and self._is_first_left()):
                report_explained(os.environ)
                sys.stderr.write(f"error: {error}; the job ends\n")
                sys.stderr.flush()
                time.sleep(FORWARDING_SECONDS)
            self._leave(EXIT_TRY_AGAIN if isinstance(error, RunLost) and self._resumable() else EXIT_FAILURE)
        printed = self._report(error, thread)
        self._close_soon()
        time.sleep(FORWARDING_SECONDS if printed else REPORTING_SECONDS)
        self.transport.abort()

    def place(self, thread: str = "") -> str:
        """Return the rank, the role at work and the host.

        Args:
            thread: Name of the thread that failed; empty: the main thread.
        """
        role = self.rank.present if self.rank is not None else self.doing
        return (
            f"rank {self.transport.rank} of {self.transport.size} "
            f"({role}{', thread ' + thread if thread else ''}) on {self.transport.host}"
        )

    def _report(self, error: BaseException | None, thread: str) -> bool:
        """Record a failure, and print it.

        Several ranks may meet the same bug of an environment at the same moment. One of them prints it, and
        only the environment's own frames.

        Returns:
            Whether this rank has printed the failure.
        """
        place = self.place(thread)
        # Before the roles are built there is no log file, and the logger would only repeat the text below.
        if self.rank is not None:
            logger.error("%s failed: %s", place, error, exc_info=error, extra={FILE_ONLY: True})
        first, path = True, None
        if self.context is not None and error is not None:
            first, path = record_failure(self.context, error, place)
        frames = last_frames(error) if error is not None else []
        if frames and not first:
            return False
        text = "".join(traceback.format_exception(error)).splitlines() if error is not None else []
        marked = "".join(f"[rank {self.transport.rank}] {line}\n" for line in frames or text)
        kind = "" if isinstance(error, EnvironmentFailure) else f"{type(error).__name__}: "
        whole = f" (whole traceback: {path})" if path is not None and frames else ""
        sys.stderr.write(f"{marked}error: {place} failed: {kind}{error}{whole}; the job ends\n")
        sys.stderr.flush()
        return True

    def _report_death_at_start(self) -> None:
        """Print the ranks that died before the roles were built, once for the job.

        The lowest living rank prints them. If it is busy, the next ranks do so in turn, after TURN_SECONDS
        each.
        """
        dead: set[int] = set()
        began = time.monotonic()
        while (waited := time.monotonic() - began) < STARTING_TURNS * TURN_SECONDS:
            try:
                if (message := self.transport.receive()) is not None:
                    message.release()
            except PeerFailure:  # another rank has reported it, or this MPI library cannot name dead ranks
                return
            dead.update(self.transport.lost())
            lower = sum(rank not in dead for rank in range(self.transport.rank))
            if dead and waited > FORWARDING_SECONDS + lower * TURN_SECONDS and not is_said(os.environ):
                names = ", ".join(str(rank) for rank in sorted(dead))
                sys.stderr.write(f"error: rank {names} died while the ranks were starting; the job ends\n")
                sys.stderr.flush()
                report_explained(os.environ)
                self.transport.announce_abort()
                time.sleep(FORWARDING_SECONDS)
                return
            time.sleep(0.01)

    def _is_first_left(self) -> bool:
        """Return whether this rank must report the loss of the server's rank, as the lowest living rank.

        Other ranks may have died at the same moment, so poll for a while. On a single host a file shows
        whether another rank has reported the loss. There, wait longer for a lower rank that seems to be alive
        but does not report it.
        """
        dead = set() if self.rank is None else set(self.rank.dead)
        noted = (
            bool(said_path(os.environ))
            and self.rank is not None
            and len(set(self.rank.context.topology.hosts)) == 1
        )
        limit = STARTING_TURNS * TURN_SECONDS if noted else FORWARDING_SECONDS
        began, lower = time.monotonic(), True
        while (waited := time.monotonic() - began) < limit and not is_said(os.environ):
            with contextlib.suppress(HpcmarlError):
                if (message := self.transport.receive()) is not None:
                    message.release()
            dead.update(self.transport.lost())
            lower = any(rank not in dead for rank in range(FIRST_OTHER, self.transport.rank))
            if not lower and waited > FORWARDING_SECONDS:
                break
            time.sleep(0.01)
        return not lower and not is_said(os.environ)

    def _resumable(self) -> bool:
        from hpcmarl.io.checkpoint import list_checkpoints

        return self.rank is not None and bool(
            list_checkpoints(self.rank.context.run_directory / "checkpoints")
        )

    def _close_soon(self) -> None:
        """Close files so that they stay readable; end the process if this exceeds CLOSING_SECONDS."""
        guard = threading.Timer(CLOSING_SECONDS, os._exit, (1,))
        guard.daemon = True
        guard.start()
        if self.rank is not None:
            self.rank.close()

    def _leave(self, code: int) -> NoReturn:
        self._close_soon()
        os._exit(code)  # MPI_Finalize would wait for ranks that are gone
