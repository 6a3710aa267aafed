"""Log file of a rank that survives failures of its disk.

A record that cannot be written is counted and reported once, and training continues.
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
    """File handler that opens its file with the first record.

    After a failure it opens the file again with a later record, and then reports how many records were lost.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8", errors="backslashreplace")
        self.lost = 0
        self.retry_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never raises for the disk."""
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
        except Exception:  # a record whose arguments do not fit its text: as every handler does
            self.handleError(record)

    def _fail(self, error: OSError) -> None:
        if not self.lost:
            with contextlib.suppress(OSError):
                print(
                    f"{storage_error(self.baseFilename, 'write', error)}; training goes on without this log",
                    file=sys.stderr,
                    flush=True,
                )
        self.lost += 1
        self.retry_at = time.monotonic() + RETRY_SECONDS
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
