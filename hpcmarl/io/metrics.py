"""Metrics of a run: metrics.csv (a row at a time, safe against kills), metrics.h5 (for tools) and summary.json.

metrics_writer.py writes the first two; report, evaluation and prediction read them. Columns may be added at any row. Figures of single groups
are not columns, since there may be thousands: metrics.h5 has an array [row, group] for each under /groups.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import open_regular, read_bytes, storage_error, write_atomically, write_text
from hpcmarl.io.schema import METRICS, NETCDF_DIMENSION, new_file, open_checked, reading, root_attributes, write_attributes

VERSION = "version"
GROUPS = "groups"
LARGEST_SUMMARY = 16 << 20  # bytes that a reader takes
LONGEST_LINE = 16 << 20  # characters of metrics.csv
MOST_ROWS = 20_000  # that are kept; older ones thin out
MOST_GROUP_ROWS = 512
OLD_GROUP_COLUMN = re.compile(r"group_\d+/")  # of tables from before /groups
Columns = Mapping[str, NDArray[np.float64]]


class GroupHistory(NamedTuple):
    """Figures of single groups.

    Attributes:
        version: [R], versions of the rows.
        figures: name -> [R, G]; NaN where a group has none.
    """

    version: NDArray[np.float64]
    figures: dict[str, NDArray[np.float64]]


class Table:
    """Rows of numbers in named columns, the newest MOST_ROWS / 2 of them whole; before those every second row goes whenever there are too many."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self.most = most
        self.columns: dict[str, array[float]] = {}
        self.rows = 0

    def append(self, row: Mapping[str, float]) -> bool:
        """Add a row; whether the table's earlier rows or columns have changed, too."""
        new = [name for name in row if name not in self.columns]
        for name in new:
            self.columns[name] = array("d", [math.nan]) * self.rows
        for name, values in self.columns.items():
            values.append(float(row.get(name, math.nan)))
        self.rows += 1
        return self.thin() or bool(new)

    def drop_last(self) -> None:
        """Remove the last row."""
        for values in self.columns.values():
            values.pop()
        self.rows -= 1

    def last(self, name: str) -> float:
        """The newest value of a column; NaN where there is none."""
        values = self.columns.get(name)
        return values[-1] if values else math.nan

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Keep these rows [rows] alone."""
        for name, values in self.columns.items():
            self.columns[name] = array("d", np.frombuffer(values, np.float64)[rows].tobytes()) if self.rows else array("d")
        self.rows = int(rows.sum())

    def thin(self) -> bool:
        """Thin out where there are too many rows; whether there were."""
        if self.rows <= self.most:
            return False
        self.keep(thinned(self.rows, self.most))
        return True

    def line(self, row: int) -> str:
        """A row as a line of metrics.csv."""
        return ",".join(_text(values[row]) for values in self.columns.values()) + "\n"

    def text(self) -> str:
        """The whole as metrics.csv."""
        heading = io.StringIO()
        csv.writer(heading, lineterminator="\n").writerow(self.columns)
        return heading.getvalue() + "".join(self.line(row) for row in range(self.rows))

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Copies of the columns."""
        return {name: np.array(values, np.float64) for name, values in self.columns.items()}


def thinned(rows: int, most: int) -> NDArray[np.bool_]:
    """Which of so many rows stay: the first, the newest half of `most`, and every second one between them."""
    stay = np.ones(rows, np.bool_)
    older = max(0, rows - most // 2)
    stay[1:older:2] = False
    return stay


def _text(value: float) -> str:
    """Whole numbers without a point, NaN as an empty cell, all else so that it reads back exactly."""
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def write_hdf5(path: Path, columns: Columns, groups: GroupHistory | None = None) -> None:
    """Write metrics.h5, atomically.

    Args:
        path: the file.
        columns: 1-D datasets along `row`; "/" in a name becomes ".", the attribute `column` keeps the name.
        groups: 2-D datasets [row, group] under /groups, in single precision.
    """
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
            if groups is not None:
                _write_groups(file.create_group(GROUPS), groups)

    write_atomically(path, write, read_hdf5)


def _write_groups(group: h5py.Group, history: GroupHistory) -> None:
    shape = (len(history.version), next((values.shape[1] for values in history.figures.values()), 0))
    scales = []
    for name, size in zip(("row", "group"), shape, strict=True):
        scale = group.create_dataset(name, (size,), "f4", maxshape=(None,), chunks=(1024,))
        scale.make_scale(NETCDF_DIMENSION + str(size).rjust(10))
        scales.append(scale)
    version = group.create_dataset(VERSION, data=history.version)
    write_attributes(version, {"units": _unit(VERSION)})
    version.dims[0].attach_scale(scales[0])
    for name, values in history.figures.items():
        dataset = group.create_dataset(name, data=values.astype(np.float32))
        write_attributes(dataset, {"units": _unit(name)})
        for axis, scale in enumerate(scales):
            dataset.dims[axis].attach_scale(scale)


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
        _check_sizes(path, datasets)
        if any(item.ndim != 1 for item in datasets):
            raise FormatError(f"{path}: holds no columns; the file is damaged or crafted")
        return {str(item.attrs.get("column", item.name[1:])): item[()].astype(np.float64) for item in datasets}


def read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read the columns of a metrics.csv of any length, in memory that does not grow with it.

    A last line that a kill cut short is left out. Of more than MOST_ROWS rows the older ones thin out.

    Raises:
        FormatError: it is no table of metrics.
        StorageError: it cannot be read.
    """
    return read_table(path).arrays()


def read_table(path: Path) -> Table:
    """The same as a table that can be gone on with. Raises FormatError, StorageError."""
    table = Table()
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as stream:
            _fill(table, path, stream)
    except OSError as error:
        raise storage_error(path, "read", error) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file of metrics; move it away") from error
    except csv.Error as error:
        raise FormatError(f"{path}: not a table of metrics ({error}); move it away") from error
    return table


def _fill(table: Table, path: Path, stream: TextIO) -> None:
    rows = csv.reader(_whole_lines(path, stream))
    heading = next(rows, [])
    if len(set(heading)) != len(heading):
        raise FormatError(f"{path}: line 1 names a column twice; move the file away")
    places = [place for place, name in enumerate(heading) if not OLD_GROUP_COLUMN.match(name)]
    columns = [table.columns.setdefault(heading[place], array("d")) for place in places]
    for row in rows:
        cells = row or [""]  # one empty cell is an empty line
        if len(cells) != len(heading):
            raise FormatError(f"{path}, line {rows.line_num}: not {len(heading)} numbers; mend the line or move the file away")
        try:
            for place, values in zip(places, columns, strict=True):
                values.append(float(cells[place]) if cells[place] else math.nan)
        except ValueError as error:
            raise FormatError(f"{path}, line {rows.line_num}: not {len(heading)} numbers; mend the line or move the file away") from error
        table.rows += 1
        if table.thin():
            columns = [table.columns[heading[place]] for place in places]


def _whole_lines(path: Path, stream: TextIO) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if line.endswith("\n"):
            yield line
        elif len(line) >= LONGEST_LINE:
            raise FormatError(f"{path}: has a line of more than {LONGEST_LINE >> 20} million characters; the file is damaged or foreign")


def check_csv(path: Path) -> None:
    """Verify a metrics.csv. Raises FormatError, also for a last row that is cut short."""
    read_table(path)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size and os.pread(stream.fileno(), 1, size - 1) != b"\n":
            raise FormatError(f"{path}: the last row is cut short; readers leave it out, and a resumed run writes the file anew")


def read_groups(run_directory: str | os.PathLike[str]) -> GroupHistory | None:
    """Read the figures of single groups from a run's metrics.h5; None where there are none. Raises FormatError."""
    path = Path(run_directory) / "metrics.h5"
    if not path.exists():
        return None
    with open_checked(path, METRICS) as file, reading(path):
        group = file.get(GROUPS)
        if not isinstance(group, h5py.Group):
            return None
        found = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset) and not item.is_scale}
        _check_sizes(path, found.values())
        version = found.pop(VERSION)[()].astype(np.float64)
        return GroupHistory(version, {name: item[()].astype(np.float64) for name, item in found.items()})


def _check_sizes(path: Path, datasets: Any) -> None:
    """Columns are stored as they are, so that the file bounds what they declare. Raises FormatError."""
    left = os.path.getsize(path)
    for item in datasets:
        left -= item.size * item.dtype.itemsize
        if item.ndim not in (1, 2) or item.dtype.kind not in "biuf" or left < 0:
            raise FormatError(f"{path}: {item.name} declares {item.dtype}{list(item.shape)}; the file is damaged or crafted")


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
