"""Files that hold a table row by row and survive kills: metrics.csv and metrics-groups.npy.

Rows are appended. If earlier rows or the names change, the whole file is replaced. Readers stream, so that a
file of any length needs memory only for the rows that are kept.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import open_regular, storage_error, write_atomically
from hpcmarl.io.table import Table

VERSION = "version"
LARGEST_LINE = 16 << 20  # bytes; readers refuse longer rows
# Bytes. Larger files, which earlier versions of hpcmarl could write, are thinned while they are read.
LARGEST_CSV = 1 << 30
LARGEST_VERSION = 2.0**53
ROWS_AT_ONCE = 256  # written or read
# Earlier versions of hpcmarl wrote the figures of single groups to metrics.csv.
OLD_GROUP_COLUMN = re.compile(r"group_\d+/")
RENAMED_COLUMNS = {"used_gradients": "used_trajectories"}  # older name -> present name
_NPY = np.lib.format


def _text(value: float) -> str:
    """Format a number for a CSV cell.

    Whole numbers have no decimal point, NaN is an empty cell, and all other numbers read back exactly.
    """
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < LARGEST_VERSION else repr(value)


class RowFile(ABC):
    """A file that is kept equal to a table in memory.

    Args:
        path: The file. An existing one is replaced by the first update.
        table: The content of the file.
    """

    def __init__(self, path: Path, table: Table) -> None:
        self.path, self.table = path, table
        self._descriptor: int | None = None
        self._rows = 0  # in the file

    def update(self) -> None:
        """Bring the file up to date. An empty table has no file.

        After a failure the next call writes the whole file again.

        Raises:
            StorageError: If the disk fails. The file then ends with a whole row.
        """
        table = self.table
        try:
            shortened = len(table) < self._rows
            if self._descriptor is None or shortened or table.changed_from < max(0, self._rows - 1):
                self._replace()
            elif table.changed_from < len(table):
                self._extend(table.changed_from)
        except OSError as error:
            self.close()
            raise storage_error(self.path, "write", error) from error
        except BaseException:
            self.close()
            raise
        self._rows = len(table)
        table.saved()

    def close(self) -> None:
        """Close the file. The next update replaces it."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _replace(self) -> None:
        self.close()
        if not len(self.table):
            self.path.unlink(missing_ok=True)
            return
        write_atomically(self.path, self._write_all)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._measure(os.fstat(self._descriptor).st_size)

    def _write_at(self, offset: int, data: bytes) -> None:
        assert self._descriptor is not None
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done

    @abstractmethod
    def _write_all(self, path: Path) -> None:
        """Write a whole new file."""

    @abstractmethod
    def _measure(self, size: int) -> None:
        """Store the positions of the last rows of a new file of `size` bytes."""

    @abstractmethod
    def _extend(self, start: int) -> None:
        """Write the rows from `start` on.

        The row `start` is either the last row of the file, which is replaced, or the next one.
        """


class CsvFile(RowFile):
    """A table of width 1 as text: a heading, and one line for each row."""

    def __init__(self, path: Path, table: Table) -> None:
        super().__init__(path, table)
        self._size = self._last = 0  # bytes of whole rows; offset of the last one

    def _lines(self, start: int, stop: int) -> list[str]:
        return [",".join(map(_text, row)) + "\n" for row in self.table.values[start:stop, :, 0].tolist()]

    def _write_all(self, path: Path) -> None:
        heading = io.StringIO()
        csv.writer(heading, lineterminator="\n").writerow(
            name.replace("\n", " ") for name in self.table.names
        )
        with path.open("w", encoding="utf-8", newline="") as stream:
            stream.write(heading.getvalue())
            for start in range(0, len(self.table), ROWS_AT_ONCE):
                stream.writelines(self._lines(start, start + ROWS_AT_ONCE))

    def _measure(self, size: int) -> None:
        rows = len(self.table)
        self._size, self._last = size, size - len("".join(self._lines(rows - 1, rows)).encode())

    def _extend(self, start: int) -> None:
        assert self._descriptor is not None
        if start < self._rows:
            os.ftruncate(self._descriptor, self._last)
            self._size = self._last
        lines = [line.encode() for line in self._lines(start, len(self.table))]
        try:
            self._write_at(self._size, b"".join(lines))
        except OSError:
            with contextlib.suppress(OSError):  # leave no half row on a full disk
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += sum(map(len, lines))
        self._last = self._size - len(lines[-1])


class NpyFile(RowFile):
    """A table as a NumPy array of records: `version`, then every figure with one number for each group.

    The header has a constant length and gives the number of whole rows. It is written after the rows, so that
    a kill leaves a valid array.
    """

    def __init__(self, path: Path, table: Table) -> None:
        super().__init__(path, table)
        self._head = 0  # bytes of the header

    def _type(self) -> np.dtype[Any]:
        return np.dtype(
            [(VERSION, "<f8"), *((name, "<f8", (self.table.width,)) for name in self.table.names)]
        )

    def _heading(self, rows: int) -> bytes:
        head = io.BytesIO()
        description: Any = {
            "shape": (rows,),
            "fortran_order": False,
            "descr": _NPY.dtype_to_descr(self._type()),
        }
        # numpy leaves room in the header, so that the number of rows can grow.
        _NPY.write_array_header_2_0(head, description)
        return head.getvalue()

    def _records(self, start: int, stop: int) -> bytes:
        versions, values = self.table.versions[start:stop, None], self.table.values[start:stop]
        return np.hstack([versions, values.reshape(len(values), -1)]).astype("<f8").tobytes()

    def _write_all(self, path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(self._heading(len(self.table)))
            for start in range(0, len(self.table), ROWS_AT_ONCE):
                stream.write(self._records(start, start + ROWS_AT_ONCE))

    def _measure(self, size: int) -> None:
        self._head = size - len(self.table) * self._type().itemsize

    def _extend(self, start: int) -> None:
        if start < self._rows:
            self._write_at(0, self._heading(start))
        self._write_at(self._head + start * self._type().itemsize, self._records(start, len(self.table)))
        self._write_at(0, self._heading(len(self.table)))


# ---- reading metrics.csv


def present_names(names: Sequence[str]) -> list[str]:
    """Return columns under their present names; files of earlier versions of hpcmarl have older ones."""
    return [name if (now := RENAMED_COLUMNS.get(name)) is None or now in names else now for name in names]


class CsvRows:
    """The rows of a metrics.csv, read one after the other.

    A last row that a kill cut short is left out.

    Args:
        path: The file, for error messages.
        stream: The opened file.

    Attributes:
        names: Columns of the heading.
        cut: Bytes of an unfinished last row; known after the last row has been read.

    Raises:
        FormatError: If the file is not a table of numbers with these columns. Reading the rows can raise it,
            too.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        self.cut = 0
        try:
            self.names = next(csv.reader([self._line(1).decode()]), [])
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: not a text file of metrics; move it away") from error
        except csv.Error as error:
            raise FormatError(f"{path}: not a table of metrics ({error}); move it away") from error
        self.names = present_names(self.names)
        if len(set(self.names)) != len(self.names):
            raise FormatError(f"{path}: line 1 names a column twice; move the file away")

    def _line(self, number: int) -> bytes:
        """Return the next line; b"" after the last whole one."""
        line = self._stream.readline(LARGEST_LINE)
        if line.endswith(b"\n"):
            return line
        if len(line) == LARGEST_LINE:
            raise FormatError(
                f"{self.path}, line {number}: longer than {LARGEST_LINE >> 20} MiB, which hpcmarl does not "
                "write; move the file away"
            )
        self.cut = len(line)
        return b""

    def rows(self, columns: Sequence[int] | None = None) -> Iterator[list[float]]:
        """Yield the values of the rows, NaN for empty cells.

        Args:
            columns: Indices of the columns to return; None: all.

        Raises:
            FormatError: If a row does not have a number or an empty cell for each column.
        """
        count = len(self.names)
        number = 1
        while line := self._line(number := number + 1):
            cells = line.rstrip(b"\r\n").split(b",")
            try:
                if len(cells) != count:
                    raise ValueError
                yield [
                    float(cell) if cell else math.nan
                    for cell in (cells if columns is None else [cells[index] for index in columns])
                ]
            except ValueError as error:
                raise FormatError(
                    f"{self.path}, line {number}: not {count} numbers; repair the line or move the file away"
                ) from error


@contextlib.contextmanager
def open_csv(path: Path) -> Iterator[CsvRows]:
    """Open a metrics.csv for reading.

    Raises:
        FormatError: If it is not a metrics.csv.
        StorageError: If it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            yield CsvRows(path, stream)
    except OSError as error:
        raise storage_error(path, "read", error) from error


def load_csv(path: Path) -> Table:
    """Return a metrics.csv of any length as a table to which rows can be added.

    Figures of single groups, which earlier versions of hpcmarl wrote there, are left out.

    Raises:
        FormatError: If the file is not a table of metrics with a version in each row.
        StorageError: If it cannot be read.
    """
    table = Table()
    with open_csv(path) as file:
        kept = [index for index, name in enumerate(file.names) if not OLD_GROUP_COLUMN.match(name)]
        table.add_names([file.names[index] for index in kept])
        if table.names and VERSION not in table.names:
            raise FormatError(
                f"{path}: has no column {VERSION}, so a run cannot continue it; move the file away"
            )
        place = table.names.index(VERSION) if table.names else 0
        for number, row in enumerate(file.rows(kept), start=2):
            if not abs(row[place]) < LARGEST_VERSION:
                raise FormatError(
                    f"{path}, line {number}: {VERSION} is {row[place]}; repair the line or move the file away"
                )
            table.push(row[place], np.array(row)[:, None])
    return table


def read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a metrics.csv. A last row that a kill cut short is left out.

    A file of more than LARGEST_CSV bytes is thinned while it is read.

    Raises:
        FormatError: If the file is not a table of metrics.
        StorageError: If it cannot be read.
    """
    with open_csv(path) as file:
        if path.stat().st_size > LARGEST_CSV:
            table = load_csv(path)
            return {name: table.values[:, index, 0].copy() for index, name in enumerate(table.names)}
        columns = [array("d") for _ in file.names]
        for row in file.rows():
            for values, value in zip(columns, row, strict=True):
                values.append(value)
        return {
            name: np.frombuffer(values) if values else np.zeros(0)
            for name, values in zip(file.names, columns, strict=True)
        }


def count_rows(path: Path) -> int:
    """Return the number of whole rows of a metrics.csv.

    Raises:
        FormatError: If the file is not a table of metrics.
        StorageError: If it cannot be read.
    """
    with open_csv(path) as file:
        return sum(1 for _ in file.rows(()))


def check_csv(path: Path) -> None:
    """Read a metrics.csv completely.

    Raises:
        FormatError: If it is not a table of metrics, or ends in the middle of a row.
        StorageError: If it cannot be read.
    """
    for _ in range(3):  # a running writer may be in the middle of a row
        with open_csv(path) as file:
            rows = sum(1 for _ in file.rows())
        if not file.cut:
            break
    else:
        raise FormatError(
            f"{path}: ends in the middle of a row ({rows} whole rows, then {file.cut} bytes): readers ignore "
            "that row, and a resumed run removes it"
        )


# ---- reading metrics-groups.npy


def load_npy(path: Path) -> Table:
    """Return the table in a metrics-groups.npy, as far as its rows are complete.

    Raises:
        FormatError: If the file is not an array of records by version, or holds fewer rows than its header
            says.
        StorageError: If it cannot be read.
    """
    foreign = f"{path}: not a table of figures by group; move it away"
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            try:
                if _NPY.read_magic(stream) != (2, 0):
                    raise ValueError
                (rows,), _, record = _NPY.read_array_header_2_0(stream)
                names = record.names or ()
                shapes = {record[name].shape for name in names[1:]}
                (width,) = shapes.pop()
                plain = (
                    {record[name].base for name in names} == {np.dtype("<f8")}
                    and names[0] == VERSION
                    and record[VERSION].shape == ()
                )
            except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
                raise FormatError(foreign) from error
            if shapes or not plain or record.itemsize != 8 * (1 + width * (len(names) - 1)):
                raise FormatError(foreign)
            if rows * record.itemsize > size - stream.tell():
                raise FormatError(
                    f"{path}: the file is truncated: its header says {rows} rows of {record.itemsize} bytes"
                )
            table = Table(width)
            table.add_names(names[1:])
            for start in range(0, rows, ROWS_AT_ONCE):
                count = min(ROWS_AT_ONCE, rows - start)
                content = np.frombuffer(stream.read(count * record.itemsize), "<f8").reshape(count, -1)
                if not (np.abs(content[:, 0]) < LARGEST_VERSION).all():
                    raise FormatError(
                        f"{path}: row {start} or a later one has no version; the file is damaged"
                    )
                for row in content:
                    table.push(float(row[0]), row[1:].reshape(-1, width))
    except OSError as error:
        raise storage_error(path, "read", error) from error
    return table
