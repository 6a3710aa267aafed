"""Writes metrics.csv and metrics.h5 in the background: whoever has a row hands it over and goes on.

The recorders of runs and leagues call it. A row is in the system's hands a moment later; a file system that stalls holds up nobody. Knows
no meaning of a column but "version", which is higher in each row than in the one before.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError, HpcmarlError, StorageError
from hpcmarl.io.atomic import storage_error, write_text
from hpcmarl.io.metrics import MOST_GROUP_ROWS, VERSION, Columns, GroupHistory, Table, read_groups, read_table, thinned, write_hdf5
from hpcmarl.io.sturdy import close_at_exit

LOGGER = logging.getLogger(__name__)
FIRST_SNAPSHOT_SECONDS, SNAPSHOT_SECONDS = 5.0, 60.0  # metrics.h5 at most so often, and rarer where writing it is slow
RETRY_SECONDS = 10.0  # after an error of the disk
CLOSE_SECONDS = 60.0  # for what waits, at the end
MOST_WAITING = 10_000  # rows while the disk stalls; then every second one goes


class MetricsWriter:
    """Appends rows to `run_directory`/metrics.csv, and goes on where an earlier run stopped.

    Attributes:
        error: what the disk said, in one line; None once all rows could be written. It does not stop training.
    """

    def __init__(self, run_directory: str | os.PathLike[str]) -> None:
        """Read what is there. Raises FormatError for a metrics.csv that is not ours."""
        self.csv_path, self.hdf5_path = Path(run_directory) / "metrics.csv", Path(run_directory) / "metrics.h5"
        self.error: str | None = None
        self._table = read_table(self.csv_path) if self.csv_path.exists() else Table()
        self._groups = _Groups(self.csv_path.parent)
        self._stream: BinaryIO | None = None
        self._last_line = 0  # where it begins in the file
        self._changed = False  # since metrics.h5 was written
        self._stale = True  # the file must be written anew: at the start, for new columns, after an error
        self._snapshot_due = time.monotonic() + FIRST_SNAPSHOT_SECONDS
        self._waiting: list[Callable[[], None]] = []
        self._busy = self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="metrics-writer", daemon=True)
        self._thread.start()
        close_at_exit(self)

    def append(self, row: Mapping[str, float], groups: Mapping[str, NDArray[np.float64]] | None = None) -> None:
        """Add a row; it takes the place of the last one if that has the same version.

        Args:
            row: column -> number; keys that are missing are NaN, new ones become new columns.
            groups: name -> [G], figures of single groups, kept in metrics.h5 alone.
        """
        own, figures = dict(row), {name: np.array(values, np.float32) for name, values in (groups or {}).items()}
        self._hand_over(lambda: self._append(own, figures))

    def truncate(self, version: int | None, aside: Path | None = None) -> None:
        """Drop the rows of later versions than `version`, which a resumed run writes again; None: all rows.

        aside: where the file of all dropped rows goes."""
        self._hand_over(lambda: self._truncate(version, aside))

    def wait(self) -> None:
        """Return when all that was handed over is written, or could not be."""
        with self._condition:
            self._condition.wait_for(lambda: (not self._waiting and not self._busy) or not self._thread.is_alive())

    def close(self) -> None:
        """Write what waits, and metrics.h5; may be called again. A disk that stalls is waited for CLOSE_SECONDS at most."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            LOGGER.error("%s: not written within %g s; the last rows of the metrics are missing", self.csv_path, CLOSE_SECONDS)

    def _hand_over(self, work: Callable[[], None]) -> None:
        with self._condition:
            if len(self._waiting) >= MOST_WAITING:
                del self._waiting[1::2]
            self._waiting.append(work)
            self._condition.notify_all()

    # ---- in the thread

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: bool(self._waiting) or self._closing, RETRY_SECONDS if self.error is not None else None)
                waiting, self._waiting = self._waiting, []
                closing = self._closing
                self._busy = True
            try:
                for work in waiting:
                    work()
                if self._stale and (self._table.rows or self.csv_path.exists()) and (waiting or self.error is not None):
                    self._attempt(self._rewrite)
                if self._changed and (closing or time.monotonic() >= self._snapshot_due):
                    self._snapshot()
            except Exception:
                LOGGER.exception("%s: rows of the metrics are lost", self.csv_path)
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                if closing and not self._waiting:
                    break
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _append(self, row: Mapping[str, float], groups: Mapping[str, NDArray[np.float32]]) -> None:
        version = float(row.get(VERSION, math.nan))
        replaces = self._table.rows > 0 and self._table.last(VERSION) == version
        if replaces:
            self._table.drop_last()
        self._stale = self._table.append(row) or self._stale
        self._groups.append(version, groups)
        self._changed = True
        if not self._stale:
            self._attempt(lambda: self._write_last(replaces=replaces))

    def _truncate(self, version: int | None, aside: Path | None) -> None:
        versions = self._table.arrays().get(VERSION)
        self._groups.truncate(version)
        if version is None:
            if aside is not None and self.csv_path.exists() and not aside.exists():
                self._attempt(lambda: self._move(aside))
            self._table = Table()
        elif versions is not None and self._table.rows:
            self._table.keep(~(versions > version))
        self._changed = self._stale = True

    def _move(self, aside: Path) -> None:
        aside.parent.mkdir(exist_ok=True)
        self.csv_path.rename(aside)

    def _attempt(self, write: Callable[[], None]) -> None:
        """Write; after an error the whole file is due again."""
        try:
            write()
            self.error = None if not self._stale else self.error
        except (OSError, HpcmarlError) as error:
            self._fail(error)

    def _rewrite(self) -> None:
        """Write the whole file anew."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        write_text(self.csv_path, self._table.text())
        self._stream = self.csv_path.open("r+b")
        end = self._stream.seek(0, os.SEEK_END)
        self._last_line = end - len(self._table.line(self._table.rows - 1).encode()) if self._table.rows else end
        self._stale = False

    def _write_last(self, *, replaces: bool) -> None:
        """Write the last row, in the place of the one before or behind it."""
        assert self._stream is not None
        if replaces:
            self._stream.truncate(self._last_line)
        self._last_line = self._stream.seek(0, os.SEEK_END)
        self._stream.write(self._table.line(self._table.rows - 1).encode())
        self._stream.flush()

    def _fail(self, error: Exception) -> None:
        known = str(error) if isinstance(error, HpcmarlError) else str(storage_error(self.csv_path, "write", error))
        if self.error is None:
            LOGGER.error("%s; training goes on, the rows are written as soon as it can be done", known)
        self.error, self._stale = known, True
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                stream.close()
            except OSError as problem:
                LOGGER.debug("closing %s failed too: %s", self.csv_path, problem)

    def _snapshot(self) -> None:
        began = time.monotonic()
        try:
            columns: Columns = self._table.arrays()
            write_hdf5(self.hdf5_path, columns, self._groups.history())
            self._changed = False
        except (HpcmarlError, OSError, RuntimeError, ValueError) as error:
            LOGGER.warning("%s; metrics.csv has the same rows", error)
        self._snapshot_due = time.monotonic() + max(SNAPSHOT_SECONDS, 50 * (time.monotonic() - began))


class _Groups:
    """Figures of single groups, row by row, at most MOST_GROUP_ROWS."""

    def __init__(self, run_directory: Path) -> None:
        self._versions: list[float] = []
        self._rows: list[Mapping[str, NDArray[np.float32]]] = []
        try:
            history = read_groups(run_directory)
        except (FormatError, StorageError) as error:
            LOGGER.warning("%s; figures of single groups begin anew", error)
            return
        if history is not None:
            self._versions = history.version.tolist()
            figures = {name: values.astype(np.float32) for name, values in history.figures.items()}
            self._rows = [{name: values[row] for name, values in figures.items()} for row in range(len(self._versions))]

    def append(self, version: float, figures: Mapping[str, NDArray[np.float32]]) -> None:
        if not figures:
            return
        sizes = {name: values.size for name, values in figures.items()}
        if self._rows and {name: values.size for name, values in self._rows[-1].items()} != sizes:
            self._versions, self._rows = [], []  # the run goes on with other groups
        if self._versions and self._versions[-1] == version:
            self._versions.pop()
            self._rows.pop()
        self._versions.append(version)
        self._rows.append(figures)
        if len(self._rows) > MOST_GROUP_ROWS:
            stay = np.flatnonzero(thinned(len(self._rows), MOST_GROUP_ROWS)).tolist()
            self._versions, self._rows = [self._versions[row] for row in stay], [self._rows[row] for row in stay]

    def truncate(self, version: int | None) -> None:
        kept = 0 if version is None else sum(1 for own in self._versions if not own > version)
        self._versions, self._rows = self._versions[:kept], self._rows[:kept]

    def history(self) -> GroupHistory | None:
        if not self._rows:
            return None
        figures = {name: np.stack([row[name] for row in self._rows]).astype(np.float64) for name in self._rows[-1]}
        return GroupHistory(np.array(self._versions, np.float64), figures)
