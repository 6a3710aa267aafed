"""Trackers in background threads, so that a slow or broken tracker does not delay training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcmarl.tracking.base import Tracker, finite, without_nonfinite

logger = logging.getLogger(__name__)
MOST_WAITING = 1000  # rows that wait for a stalled tracker
# Longest time that close() waits for all trackers. With the time of the metrics writer (20 s) it is below
# topology.heartbeat_timeout_seconds; otherwise the server would appear to hang.
CLOSE_SECONDS = 15.0
Work = Callable[[Tracker], None]


class TrackerThread:
    """One tracker and the thread that builds and calls it.

    Args:
        name: Name of the tracker, for messages.
        make: Builds the tracker; called in the thread.
        guard: Raises HpcmarlError if nothing may be written any more; None: no check.

    Attributes:
        dropped: Rows that were dropped because the tracker stalled.
        stopped: Whether the tracker failed; it gets no more rows.
    """

    def __init__(
        self, name: str, make: Callable[[], Tracker], guard: Callable[[], object] | None = None
    ) -> None:
        self.name = name
        self.dropped = 0
        self.stopped = False
        self._make, self._guard = make, guard
        self._waiting: deque[Work] = deque()
        self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def hand_over(self, work: Work, *, droppable: bool = True) -> None:
        """Let the thread call the tracker later; never wait.

        Args:
            work: Call of the tracker.
            droppable: Whether the call is dropped if too many calls wait.
        """
        with self._condition:
            if self.stopped or self._closing:
                return
            if droppable and len(self._waiting) >= MOST_WAITING:
                self.dropped += 1
                first = self.dropped == 1
            else:
                self._waiting.append(work)
                self._condition.notify_all()
                return
        if first:
            logger.warning(
                "%s does not respond; rows are dropped while %d others wait; training continues, "
                "metrics.csv has all rows",
                self.name,
                MOST_WAITING,
            )

    def ask_to_close(self) -> None:
        """Let the thread end after the waiting rows."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, and log what is missing.

        Args:
            seconds: Longest time to wait.
        """
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            with self._condition:
                self.stopped = True  # whatever it does later is not worth a message
            logger.warning("%s does not respond; its last rows may be missing", self.name)
        if self.dropped:
            logger.warning("%s lacks %d rows; metrics.csv has all rows", self.name, self.dropped)

    # ---- methods of the background thread

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            tracker = self._make()
            while (work := self._next()) is not None:
                if self._guard is not None:
                    self._guard()
                work(tracker)
        except (Exception, SystemExit) as error:
            self._stop(error)
        if tracker is not None:
            try:
                tracker.close()
            except (Exception, SystemExit) as error:
                self._stop(error)

    def _next(self) -> Work | None:
        with self._condition:
            self._condition.wait_for(lambda: bool(self._waiting) or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _stop(self, error: BaseException) -> None:
        with self._condition:
            again, self.stopped = self.stopped, True
            self._waiting.clear()
        if not again:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            logger.warning("%s stops: %s; training continues, metrics.csv has all rows", self.name, text)
            logger.debug("%s", self.name, exc_info=error)


class Trackers:
    """All trackers of a run. No method waits, except `close`.

    Args:
        threads: The trackers.
    """

    def __init__(self, threads: Sequence[TrackerThread] = ()) -> None:
        self.threads = tuple(threads)
        self._closed = False

    def row(self, row: Mapping[str, float]) -> None:
        """Hand over a row of metrics.

        Args:
            row: Column -> number; with `version`, `env_steps` and `seconds`. Non-finite numbers are left out.
        """
        if not self.threads:
            return
        figures = finite(row)
        version, env_steps, seconds = int(row["version"]), int(row["env_steps"]), float(row["seconds"])
        for name in ("version", "env_steps", "seconds"):
            figures.pop(name, None)
        for thread in self.threads:
            thread.hand_over(lambda tracker: tracker.row(version, env_steps, seconds, figures))

    def config(self, values: Mapping[str, Any]) -> None:
        """Hand over the configuration of the run."""
        for thread in self.threads:
            thread.hand_over(lambda tracker: tracker.config(values), droppable=False)

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Wait for the waiting rows, for at most CLOSE_SECONDS. It may be called again.

        Args:
            summary: Results of the run, of which non-finite numbers become None; None: the run has failed.
        """
        if self._closed:
            return
        self._closed = True
        own = without_nonfinite(summary) if self.threads and summary is not None else None
        for thread in self.threads:
            if own is not None:
                thread.hand_over(lambda tracker: tracker.summary(own), droppable=False)
            thread.ask_to_close()
        end = time.monotonic() + CLOSE_SECONDS
        for thread in self.threads:
            thread.join(end - time.monotonic())
