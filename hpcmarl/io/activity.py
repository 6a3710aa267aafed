"""What each rank spent its time on, over one start of a run: starts/start-0001-ranks.h5.

The file holds cumulative seconds by rank and activity at a bounded number of times. The difference of two
rows is the time in between. Seconds of an activity are known only as often as ranks report.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.hdf5.schema import (
    ACTIVITY,
    open_checked,
    reading,
    root_attributes,
    write_attributes,
)
from hpcmarl.types import Array, FloatArray

STEPPING, INFERRING, LEARNING, SERVING, EVALUATING, SENDING, RECORDING, HELD, WAITING = (
    "stepping",
    "inferring",
    "learning",
    "serving",
    "evaluating",
    "sending",
    "recording",
    "held",
    "waiting",
)
ACTIVITIES = (STEPPING, INFERRING, LEARNING, SERVING, EVALUATING, SENDING, RECORDING, HELD, WAITING)
IDLE = (HELD, WAITING)  # a rank does not work during these
MOST_ROWS, FEWEST_ROWS = 512, 32
MOST_BYTES = 32 << 20  # of all rows; runs of many ranks have fewer rows, but at least FEWEST_ROWS


class RankActivity(NamedTuple):
    """Time of all ranks in one start of a run.

    Attributes:
        seconds: Training time of each row, seconds since the beginning of the run, [T].
        spent: Cumulative seconds, [T, rank, activity].
        activities: Names of the activities.
        ranks: Name of each rank, such as "actor (node3)".
    """

    seconds: Array
    spent: FloatArray
    activities: tuple[str, ...]
    ranks: tuple[str, ...]

    def shares(self) -> Array:
        """Return the share of each interval that each rank spent on each activity, [T - 1, rank, activity].

        A report can come late, so that an interval has too little and the next one too much. Shares are
        scaled so that those of a rank add up to at most 1.
        """
        lengths = np.maximum(np.diff(self.seconds), 1e-9)[:, None, None]
        shares = np.maximum(np.diff(self.spent.astype(np.float64), axis=0), 0.0) / lengths
        result: Array = shares / np.maximum(shares.sum(axis=2, keepdims=True), 1.0)
        return result


class ActivityHistory:
    """Rows of cumulative seconds, thinned to a bounded number.

    When there are too many, every second row is removed, and new rows must lie twice as far apart.

    Args:
        ranks: Number of ranks.
    """

    def __init__(self, ranks: int) -> None:
        row_bytes = max(1, 4 * ranks * len(ACTIVITIES))
        self.most = int(np.clip(MOST_BYTES // row_bytes, FEWEST_ROWS, MOST_ROWS))
        self._seconds: Array = np.zeros(self.most)
        self._spent: FloatArray = np.zeros((self.most, ranks, len(ACTIVITIES)), np.float32)
        self._rows = 0
        self._apart = 0.0  # minimum distance between rows, seconds

    def append(self, seconds: float, spent: Array) -> None:
        """Add a row, unless it follows the one before too closely.

        Args:
            seconds: Training time, seconds.
            spent: Cumulative seconds, [rank, activity]; copied.
        """
        if self._rows and seconds < self._seconds[self._rows - 1] + self._apart:
            return
        if self._rows == self.most:
            kept = -(-self.most // 2)
            self._seconds[:kept], self._spent[:kept] = self._seconds[::2], self._spent[::2]
            self._rows, self._apart = kept, 2.0 * (seconds - float(self._seconds[0])) / self.most
        self._seconds[self._rows], self._spent[self._rows] = seconds, spent
        self._rows += 1

    def rows(self, ranks: Sequence[str]) -> RankActivity:
        """Return a copy of the rows.

        Args:
            ranks: Name of each rank.
        """
        seconds, spent = self._seconds[: self._rows].copy(), self._spent[: self._rows].copy()
        return RankActivity(seconds, spent, ACTIVITIES, tuple(ranks))


class ActivityFile:
    """The file of the present start, with its rows in memory.

    Args:
        path: The file, see `activity_path`.
        ranks: Name of each rank.
        attributes: Root attributes, see `root_attributes`.
    """

    def __init__(self, path: Path, ranks: Sequence[str], attributes: Mapping[str, Any]) -> None:
        self.path, self._ranks, self._attributes = path, tuple(ranks), dict(attributes)
        self._history = ActivityHistory(len(self._ranks))

    def append(self, seconds: float, spent: Array) -> None:
        """Add a row; see `ActivityHistory.append`."""
        self._history.append(seconds, spent)

    def write(self) -> None:
        """Write all rows.

        Raises:
            OSError: If the disk fails.
        """
        write_activity(self.path, self._history.rows(self._ranks), self._attributes)


def activity_path(directory: Path, start: int) -> Path:
    """Return the file of one start.

    Args:
        directory: The run directory.
        start: Number of the start.
    """
    return directory / "starts" / f"start-{start:04d}-ranks.h5"


def activity_files(directory: Path) -> dict[int, Path]:
    """Return the files of all starts by number, oldest first.

    Args:
        directory: The run directory.
    """
    found = sorted((directory / "starts").glob("start-*-ranks.h5"))
    numbers = {path: path.name.removeprefix("start-").removesuffix("-ranks.h5") for path in found}
    return {int(number): path for path, number in numbers.items() if number.isdecimal()}


def write_activity(path: Path, activity: RankActivity, attributes: Mapping[str, Any]) -> None:
    """Write the file atomically.

    HDF5 writes into a buffer in memory, so that h5py's lock is not held while the disk hangs.

    Args:
        path: The file, see `activity_path`.
        activity: The rows.
        attributes: Root attributes, see `root_attributes`.

    Raises:
        OSError: If the disk fails.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write_attributes(file, root_attributes(ACTIVITY, attributes))
        for name, texts in (("ranks", activity.ranks), ("activities", activity.activities)):
            file.create_dataset(name, data=np.array([text.encode() for text in texts], np.bytes_))
        time = file.create_dataset("seconds", data=activity.seconds)
        time.make_scale("seconds")
        spent = file.create_dataset("spent", data=activity.spent)
        spent.dims[0].attach_scale(time)
        spent.dims[1].label, spent.dims[2].label = "rank", "activity"
        for dataset in (time, spent):
            write_attributes(dataset, {"units": "s"})
    image = buffer.getvalue()
    write_atomically(path, lambda partial: partial.write_bytes(image))


def read_activity(path: Path) -> RankActivity:
    """Read the file of one start.

    Raises:
        FormatError: If the file is missing, damaged or foreign.
    """
    with open_checked(path, ACTIVITY) as file, reading(path):
        ranks, activities = ([text.decode() for text in file[name][()]] for name in ("ranks", "activities"))
        seconds, spent = file["seconds"], file["spent"]
        if spent.shape != (seconds.size, len(ranks), len(activities)) or spent.dtype.kind != "f":
            raise FormatError(
                f"{path}: {spent.dtype}{list(spent.shape)} does not match {seconds.size} times, {len(ranks)} "
                f"ranks and {len(activities)} activities; the file is damaged or crafted"
            )
        return RankActivity(
            seconds[()].astype(np.float64),
            spent[()].astype(np.float32),
            tuple(activities),
            tuple(ranks),
        )
