"""Metrics of a run: metrics.csv (a row at a time, safe against kills), metrics.h5 (for tools) and summary.json.

The server's recorder writes them, report and evaluation read them. Columns may be added at any row. Knows no meaning of a
column but "version", by which a resumed run drops the rows past its checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import threading
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.atomic import read_bytes, storage_error, write_atomically, write_text
from hpcmarl.io.schema import METRICS, NETCDF_DIMENSION, new_file, open_checked, reading, root_attributes, write_attributes

LOGGER = logging.getLogger(__name__)
SNAPSHOT_SECONDS = 60.0  # metrics.h5 at most so often, and rarer where writing it is slow
VERSION = "version"
LARGEST_CSV, LARGEST_SUMMARY = 1 << 30, 16 << 20  # bytes that a reader takes


def _text(value: float) -> str:
    """Whole numbers without a point, NaN as an empty cell, all else so that it reads back exactly."""
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


class MetricsWriter:
    """Appends rows to `run_directory`/metrics.csv, and goes on where an earlier run stopped.

    A failing disk does not stop training: `error` tells (None again once a row could be written), and the log, once.
    Raises FormatError at construction for a metrics.csv that is not ours.
    """

    def __init__(self, run_directory: str | os.PathLike[str]) -> None:
        self.csv_path, self.hdf5_path = Path(run_directory) / "metrics.csv", Path(run_directory) / "metrics.h5"
        self.error: str | None = None
        self._columns: dict[str, array[float]] = {}
        self._rows = 0
        self._stream: IO[str] | None = None
        self._changed = False
        self._snapshot: threading.Thread | None = None
        self._snapshot_due = time.monotonic() + SNAPSHOT_SECONDS
        if self.csv_path.exists():
            for name, values in read_csv(self.csv_path).items():
                self._columns[name] = array("d", values.tobytes())
                self._rows = len(values)

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row; keys that are missing are NaN, new keys become new columns. The row is in the system's hands on return."""
        new = [name for name in row if name not in self._columns]
        for name in new:
            self._columns[name] = array("d", [math.nan]) * self._rows
        for name, values in self._columns.items():
            values.append(float(row.get(name, math.nan)))
        self._rows += 1
        self._changed = True
        try:
            if new or self._stream is None:
                self._rewrite()
            else:
                self._stream.write(self._line(self._rows - 1))
                self._stream.flush()
            self.error = None
        except (OSError, HpcmarlError) as error:
            self._fail(error)
        if time.monotonic() >= self._snapshot_due and (self._snapshot is None or not self._snapshot.is_alive()):
            self._snapshot = threading.Thread(target=self._write_hdf5, args=(self._arrays(),), name="metrics-writer", daemon=True)
            self._snapshot.start()

    def truncate(self, version: int) -> None:
        """Drops the rows of later versions than `version`: a run resumed from there will write them again."""
        versions = self._arrays().get(VERSION)
        if versions is None or not self._rows:
            return
        keep = ~(versions > version)
        for name, values in self._arrays().items():
            self._columns[name] = array("d", values[keep].tobytes())
        self._rows = int(keep.sum())
        self._changed = True
        try:
            self._rewrite()
        except (OSError, HpcmarlError) as error:
            self._fail(error)

    def close(self) -> None:
        """Writes metrics.h5 and closes the files; may be called again."""
        if self._snapshot is not None:
            self._snapshot.join()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._changed:
            self._changed = False
            self._write_hdf5(self._arrays())

    def _arrays(self) -> dict[str, NDArray[np.float64]]:
        return {name: np.array(values, np.float64) for name, values in self._columns.items()}

    def _line(self, row: int) -> str:
        return ",".join(_text(values[row]) for values in self._columns.values()) + "\n"

    def _rewrite(self) -> None:
        """The whole file anew: at the start, when columns were added, and after a row that could not be written."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        heading = io.StringIO()
        csv.writer(heading, lineterminator="\n").writerow(self._columns)
        write_text(self.csv_path, heading.getvalue() + "".join(self._line(row) for row in range(self._rows)))
        self._stream = self.csv_path.open("a", encoding="utf-8")

    def _fail(self, error: Exception) -> None:
        known = str(error) if isinstance(error, HpcmarlError) else str(storage_error(self.csv_path, "write", error))
        if self.error is None:
            LOGGER.error("%s; training goes on, the rows are written as soon as it can be done", known)
        self.error = known
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                stream.close()
            except OSError as problem:
                LOGGER.debug("closing %s failed too: %s", self.csv_path, problem)

    def _write_hdf5(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        began = time.monotonic()
        try:
            write_hdf5(self.hdf5_path, columns)
        except (HpcmarlError, OSError, RuntimeError, ValueError) as error:
            LOGGER.warning("%s; metrics.csv has the same rows", error)
        self._snapshot_due = time.monotonic() + max(SNAPSHOT_SECONDS, 50 * (time.monotonic() - began))


def write_hdf5(path: Path, columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Columns as 1-D datasets along `row`, atomically; "/" in a name becomes ".", the attribute `column` keeps the name."""
    config = path.with_name("config.yaml")
    attributes = {"role": "server", "config": config.read_text(encoding="utf-8") if config.exists() else ""}

    def write(partial: Path) -> None:
        with new_file(partial) as file:
            write_attributes(file, root_attributes(METRICS, attributes))
            rows = len(next(iter(columns.values()), ()))
            scale = file.create_dataset("row", (rows,), "f4", maxshape=(None,), chunks=(1024,))
            scale.make_scale(NETCDF_DIMENSION + str(rows).rjust(10))
            for name, values in columns.items():
                safe = name.replace("/", ".").strip(".") or "column"
                while safe in file:
                    safe += "_"
                dataset = file.create_dataset(safe, data=values)
                write_attributes(dataset, {"column": name, "units": _unit(name)})
                dataset.dims[0].attach_scale(scale)

    write_atomically(path, write, read_hdf5)


def _unit(name: str) -> str:
    """What the ending of a column's name says about its unit."""
    if name.endswith("_per_second"):
        return "1/s"
    if name == "seconds" or name.endswith("_seconds"):
        return "s"
    return "reward" if "return" in name else "1"


def read_hdf5(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a metrics.h5. Raises FormatError."""
    with open_checked(path, METRICS) as file, reading(path):
        datasets = [item for item in file.values() if isinstance(item, h5py.Dataset) and not item.is_scale]
        left = os.path.getsize(path)
        for item in datasets:
            left -= item.size * item.dtype.itemsize  # columns are stored as they are, so that the file bounds what they declare
            if item.ndim != 1 or item.dtype.kind not in "biuf" or left < 0:
                raise FormatError(f"{path}: {item.name} declares {item.dtype}{list(item.shape)}; the file is damaged or crafted")
        return {str(item.attrs.get("column", item.name[1:])): item[()].astype(np.float64) for item in datasets}


def read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a metrics.csv; a last line that a kill cut short is left out. Raises FormatError, StorageError."""
    try:
        text = read_bytes(path, LARGEST_CSV).decode()
    except OSError as error:
        raise storage_error(path, "read", error) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file of metrics; move it away") from error
    try:
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    except csv.Error as error:
        raise FormatError(f"{path}: not a table of metrics ({error}); move it away") from error
    heading = rows.pop(0) if rows else []
    columns: dict[str, list[float]] = {name: [] for name in heading}
    if len(columns) != len(heading):
        raise FormatError(f"{path}: line 1 names a column twice; move the file away")
    for number, row in enumerate(rows, start=2):
        try:
            for values, cell in zip(columns.values(), row or [""], strict=True):  # one empty cell is an empty line
                values.append(float(cell) if cell else math.nan)
        except ValueError as error:
            raise FormatError(f"{path}, line {number}: not {len(heading)} numbers; mend the line or move the file away") from error
    return {name: np.array(values, np.float64) for name, values in columns.items()}


def read_metrics(run_directory: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """All columns of a run, NaN where a row has no value: from metrics.csv, else from metrics.h5. Raises FormatError."""
    directory = Path(run_directory)
    if (directory / "metrics.csv").exists():
        return read_csv(directory / "metrics.csv")
    if (directory / "metrics.h5").exists():
        return read_hdf5(directory / "metrics.h5")
    raise FormatError(f"{directory}: holds neither metrics.csv nor metrics.h5; is it a run directory?")


def _jsonable(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON; numbers that are not finite become null."""
    return json.dumps(_jsonable(value), indent=indent, allow_nan=False)


def write_summary(run_directory: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """summary.json, atomically; numbers that are not finite become null. Raises StorageError."""
    write_text(Path(run_directory) / "summary.json", json_text(summary, indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """A summary.json. Raises FormatError for anything else, also for one that is too large or too deep."""
    try:
        summary = json.loads(read_bytes(path, LARGEST_SUMMARY))
    except OSError as error:
        raise FormatError(str(storage_error(path, "read", error))) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a summary of a run: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(summary, dict):
        raise FormatError(f"{path}: not a summary of a run, which is one JSON object")
    return summary
