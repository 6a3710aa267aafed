"""Writing of metrics in a background thread.

The caller hands over a row and continues at once. A file system that stalls does not delay it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError, HpcmarlError, StorageError
from hpcmarl.io.activity import ActivityFile
from hpcmarl.io.atomic import storage_error
from hpcmarl.io.hdf5.fault_tolerant_file import close_at_exit
from hpcmarl.io.metrics import CSV, GROUPS_NPY, HDF5, write_hdf5
from hpcmarl.io.row_files import VERSION, CsvFile, NpyFile, RowFile, load_csv, load_npy
from hpcmarl.io.table import Table, row_limit
from hpcmarl.types import Array

LOGGER = logging.getLogger(__name__)
# metrics.h5 is written with the first row, after 5 s, then once a minute; less often if writing it is slow.
SECOND_SNAPSHOT_SECONDS, SNAPSHOT_SECONDS = 5.0, 60.0
RETRY_SECONDS = 10.0  # after an error of the disk
# Longest time that close() waits for the last rows. It is below topology.heartbeat_timeout_seconds; otherwise
# the server would appear to hang.
CLOSE_SECONDS = 20.0
# Rows that may wait while the disk stalls; fewer with many groups. Beyond this, rows are thinned evenly.
MOST_WAITING = 1000


class MetricsWriter:
    """Appends rows to metrics.csv and metrics-groups.npy and keeps metrics.h5 up to date.

    It continues the files of an earlier start.

    Args:
        run_directory: Directory of the files.
        guard: Raises HpcmarlError if nothing may be written any more, because another job owns the directory.
        activity: File of the time that ranks spent; it is written as often as metrics.h5. None: no such file.

    Attributes:
        error: Reason why the last attempt to write failed, in one line; None once all rows are written. An
            error does not stop training.

    Raises:
        FormatError: If the directory holds a metrics.csv that hpcmarl did not write.
        StorageError: If it cannot be read.
    """

    def __init__(
        self,
        run_directory: str | os.PathLike[str],
        *,
        guard: Callable[[], object] | None = None,
        activity: ActivityFile | None = None,
    ) -> None:
        self.directory = Path(run_directory)
        self.error: str | None = None
        self._guard, self._activity = guard, activity
        csv_path, npy_path = self.directory / CSV, self.directory / GROUPS_NPY
        self._table = load_csv(csv_path) if csv_path.exists() else Table()
        self._groups = _load_groups(npy_path) if npy_path.exists() else Table()
        self._csv: RowFile = CsvFile(csv_path, self._table)
        self._npy: RowFile = NpyFile(npy_path, self._groups)
        self._changed = False  # since metrics.h5 was written
        self._snapshots = 0
        self._snapshot_due = time.monotonic()
        self._waiting: list[Callable[[], None]] = []
        # Rows so far. While the disk stalls, only one of `_stride` rows is kept in the queue.
        self._handed, self._stride = 0, 1
        self._busy = self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="metrics-writer", daemon=True)
        self._thread.start()
        close_at_exit(self)

    def append(
        self, row: Mapping[str, float], groups: Mapping[str, NDArray[np.float64]] | None = None
    ) -> None:
        """Add a row; never wait for the disk.

        A row replaces an earlier row of its version, whose other figures stay. Rows of later versions are
        dropped.

        Args:
            row: Column -> number; `version` is one of the columns.
            groups: Name -> [G], figures of single groups.
        """
        version = float(row[VERSION])
        own, figures = (
            dict(row),
            {name: np.array(values, np.float64) for name, values in (groups or {}).items()},
        )
        most = min(MOST_WAITING, row_limit(sum(values.nbytes for values in figures.values())))
        self._hand_over(lambda: self._append(version, own, figures), most)

    def note_activity(self, seconds: float, spent: Array) -> None:
        """Add a row to the time that ranks spent; never wait for the disk.

        Args:
            seconds: Training time, seconds.
            spent: Cumulative seconds, [rank, activity]; copied.
        """
        if (activity := self._activity) is not None:
            own = spent.copy()
            self._hand_over(lambda: activity.append(seconds, own), min(MOST_WAITING, row_limit(own.nbytes)))

    def truncate(self, version: int | None, aside: Path | None = None) -> None:
        """Drop the rows of later versions, which a resumed run writes again.

        Call it before the first row.

        Args:
            version: Version of the checkpoint; rows after it are dropped. None: drop all rows.
            aside: Place to which metrics.csv is moved if all rows are dropped.
        """
        self._hand_over(lambda: self._truncate(version, aside), MOST_WAITING)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all rows handed over are written, or could not be.

        Args:
            seconds: Longest time to wait; None: no limit.

        Returns:
            False if that takes longer than `seconds`.
        """
        with self._condition:
            return self._condition.wait_for(lambda: not (self._waiting or self._busy), seconds)

    def close(self) -> None:
        """Write the waiting rows and metrics.h5. It may be called again.

        If the disk stalls, it waits for at most CLOSE_SECONDS, and only in the first call.
        """
        with self._condition:
            again, self._closing = self._closing, True
            self._condition.notify_all()
        if again:
            return
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.error = (
                f"{self.directory}: the disk has not responded for {CLOSE_SECONDS:g} s; the last "
                "rows of the metrics may be missing"
            )
            LOGGER.error("%s", self.error)

    def _hand_over(self, work: Callable[[], None], most: int) -> None:
        with self._condition:
            if len(self._waiting) >= most:  # the disk stalls
                del self._waiting[1::2]  # keep the first entry, which may be a truncation
                self._stride *= 2
            self._handed += 1
            if self._handed % self._stride:
                self._waiting[-1] = work
            else:
                self._waiting.append(work)
            self._condition.notify_all()

    # ---- methods of the background thread

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(
                    lambda: bool(self._waiting) or self._closing,
                    RETRY_SECONDS if self.error is not None else None,
                )
                waiting, self._waiting, self._stride = self._waiting, [], 1
                self._busy, closing = True, self._closing
            if not self._may_write():
                self._changed = False
                continue
            for work in waiting:
                try:
                    work()
                except Exception:  # keep the thread alive: later rows may succeed
                    LOGGER.exception("%s: a row of the metrics is lost", self.directory)
            if waiting or self.error is not None:
                self._save()
            if self._changed and (closing or time.monotonic() >= self._snapshot_due):
                self._snapshot()
        self._csv.close()
        self._npy.close()
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def _may_write(self) -> bool:
        try:
            if self._guard is not None:
                self._guard()
        except HpcmarlError as error:
            self.error = str(error)
            return False
        return True

    def _append(
        self, version: float, row: Mapping[str, float], groups: Mapping[str, NDArray[np.float64]]
    ) -> None:
        self._changed = True
        self._table.append(version, row)
        width = len(next(iter(groups.values()), ()))
        if not width:
            return
        if width != self._groups.width:  # the run continues with another number of groups
            self._npy.close()
            self._groups = Table(width)
            self._npy = NpyFile(self._npy.path, self._groups)
        self._groups.append(version, groups)

    def _truncate(self, version: int | None, aside: Path | None) -> None:
        if version is None and aside is not None and self._csv.path.exists() and not aside.exists():
            try:
                aside.parent.mkdir(exist_ok=True)
                self._csv.path.rename(aside)
            except OSError as error:
                LOGGER.warning(
                    "%s; the rows of an earlier start are dropped", storage_error(aside, "write", error)
                )
        for table in (self._table, self._groups):
            table.cut(-math.inf if version is None else version)
        self._changed = len(self._table) > 0
        if not self._changed:
            # metrics.h5 of an earlier start. If it cannot be removed, the next one replaces it.
            with contextlib.suppress(OSError):
                (self.directory / HDF5).unlink()

    def _save(self) -> None:
        problems = []
        for file in (self._csv, self._npy):
            try:
                file.update()
            except HpcmarlError as error:
                problems.append(str(error))
            except Exception as error:
                LOGGER.exception("%s", file.path)
                problems.append(f"{file.path}: {error}")
        if not problems:
            self.error = None
            return
        if self.error is None:
            LOGGER.error(
                "%s; training continues, the rows are written when the disk works again", problems[0]
            )
        self.error = problems[0]

    def _snapshot(self) -> None:
        began = time.monotonic()
        try:
            write_hdf5(self.directory / HDF5, self._table, self._groups)
            if self._activity is not None:
                self._activity.write()
            self._changed = False
        except (HpcmarlError, OSError, RuntimeError, ValueError, MemoryError) as error:
            LOGGER.warning("%s; %s and %s have the same rows", error, CSV, GROUPS_NPY)
        pause = SNAPSHOT_SECONDS if self._snapshots else SECOND_SNAPSHOT_SECONDS
        self._snapshots += 1
        self._snapshot_due = time.monotonic() + max(pause, 50 * (time.monotonic() - began))


def _load_groups(path: Path) -> Table:
    try:
        return load_npy(path)
    except (FormatError, StorageError) as error:
        LOGGER.warning("%s; figures of single groups start from an empty table", error)
        return Table()
