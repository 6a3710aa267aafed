"""Log file of a rank that tolerates failures of its disk.

Records that cannot be written are counted and reported once; training continues.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path

from hpcmarl.io.atomic import storage_error

RETRY_SECONDS = 10.0


class LogFile(logging.FileHandler):
    """Log handler that opens its file for the first record, and opens it again after a failure.

    After a failure, records are dropped for RETRY_SECONDS. When the file can be written again, a line states
    the number of lost records.

    Attributes:
        lost: Records lost since the last successful write.
        retry_at: Time of the next attempt after a failure, in seconds of time.monotonic().
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8", errors="backslashreplace")
        self.lost = 0
        self.retry_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; errors of the disk are not raised."""
        if self.stream is None and time.monotonic() < self.retry_at:
            self.lost += 1
            return
        try:
            if self.stream is None:
                self.stream = self._open()
                if self.lost:
                    self.stream.write(f"{self.lost} records could not be written here\n")
            self.stream.write(self.format(record) + self.terminator)
            self.flush()
            self.lost = 0
        except OSError as error:
            self._fail(error)
        except Exception:  # for instance arguments that do not fit the text; handled as in other handlers
            self.handleError(record)

    def _fail(self, error: OSError) -> None:
        if not self.lost:
            with contextlib.suppress(OSError):
                print(
                    f"{storage_error(self.baseFilename, 'write', error)}; training continues without this "
                    "log",
                    file=sys.stderr,
                    flush=True,
                )
        self.lost += 1
        self.retry_at = time.monotonic() + RETRY_SECONDS
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
