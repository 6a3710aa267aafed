"""Reads trajectory files: structure checks, slabs of bounded size, and the list of a run's shards.

Verification, salvage, merge, export and inspection go through here. Knows the layout and no rollout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.layout import COMMITTED, INDEX, Layout, layout_of_file
from hpcmarl.io.schema import TRAJECTORIES, open_checked, reading
from hpcmarl.types import Array

SLAB_BYTES = 8 << 20
CHECKSUM_BYTES = 4  # Fletcher32, behind a chunk's data
LARGEST_INDEX, INDEX_RATIO = 256 << 20, 64  # the index is held in memory: so many bytes, or so many times the file's own


def list_shards(path: str | os.PathLike[str]) -> list[Path]:
    """The finished shards of a run directory, a trajectories/ or rank-NNNN/ directory, in order; a file stands for itself."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(shard for pattern in ("shard-*.h5", "rank-*/shard-*.h5", "trajectories/rank-*/shard-*.h5") for shard in path.glob(pattern))


class ShardReader:
    """An opened trajectory file. steps, segments: its numbers of rows. Use it in a `with` statement.

    partial=True reads what a killed writer committed; `unchecked`: datasets whose last rows had to be read past their checksum.
    Raises FormatError, as do all methods.
    """

    def __init__(self, path: str | os.PathLike[str], *, partial: bool = False) -> None:
        self.path, self._partial = Path(path), partial
        self.unchecked: set[str] = set()
        self.file: h5py.File = open_checked(path, TRAJECTORIES, unfinished=partial)
        try:
            with reading(self.path):
                self.layout: Layout = layout_of_file(self.file)
                self.segments = self._committed() if partial else self._rows("segment")
                self._check_index_size()
                self.index = {name: self._rows_of(INDEX, name, 0, self.segments) for name in self.layout[INDEX].columns}
                self.steps = int(self.index["start"][-1] + self.index["length"][-1]) if self.segments else 0
                self._check_index(exact=not partial)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _lengths(self, rows: str) -> set[int]:
        return {self.file[path][name].shape[0] for path, group in self.layout.items() if group.rows == rows for name in group.columns}

    def _rows(self, rows: str) -> int:
        lengths = self._lengths(rows)
        if len(lengths) != 1:
            raise FormatError(f"{self.path}: datasets of one {rows} dimension have different lengths {sorted(lengths)}; the file is damaged")
        return int(lengths.pop())

    def _committed(self) -> int:
        record = self.file[INDEX].get(COMMITTED)
        if record is None or record.shape != () or record.dtype.kind != "i":
            raise FormatError(f"{self.path}: /{INDEX}/{COMMITTED} is missing; the file is damaged")
        committed = int(record[()])
        if not 0 <= committed <= min(self._lengths("segment")):
            raise FormatError(f"{self.path}: {committed} segments are committed, but not all of them are there; the file is damaged")
        return committed

    def _check_index_size(self) -> None:
        declared = self.segments * sum(column.row_bytes for column in self.layout[INDEX].columns.values())
        if declared > max(LARGEST_INDEX, INDEX_RATIO * os.path.getsize(self.path)):
            raise FormatError(f"{self.path}: /{INDEX} declares {declared} bytes, far more than the file has; the file is damaged or crafted")

    def _check_index(self, exact: bool) -> None:
        start, length = self.index["start"], self.index["length"]
        stop = np.cumsum(length)
        rows = self._rows("step") if exact else min(self._lengths("step"))
        wrong = (length < 1).any() or (length > rows).any() or (start != np.concatenate([[0], stop[:-1]])[: len(start)]).any()
        if wrong or self.steps > rows or (exact and self.steps != rows):
            raise FormatError(f"{self.path}: /{INDEX} and the {rows} rows under /steps do not agree; the file is damaged")

    def step_rows(self) -> int:
        """Rows that the datasets under /steps declare; more than `steps` where the writer was killed."""
        return max(self._lengths("step"))

    def slabs(self, path: str, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Array]]]:
        """The rows of one group in order, about SLAB_BYTES at a time: (first row, column -> array); default: all its columns."""
        group = self.layout[path]
        names = list(group.columns) if columns is None else list(columns)
        total = self.steps if group.rows == "step" else self.segments
        row_bytes = max(1, sum(group.columns[name].row_bytes for name in names))
        step = max(1, SLAB_BYTES // row_bytes // group.chunk_rows) * group.chunk_rows
        for first in range(0, total, step):
            with reading(self.path):
                slab = {name: self._rows_of(path, name, first, min(first + step, total)) for name in names}
            yield first, slab

    def _rows_of(self, path: str, name: str, first: int, stop: int) -> Array:
        """Rows of one dataset. A writer that is killed while it writes a chunk again, longer by new rows, leaves committed rows whole, since the
        same bytes were written over them, under a checksum that is neither the old one nor the new."""
        dataset = self.file[path][name]
        try:
            return np.asarray(dataset[first:stop])
        except OSError:
            if not self._partial or not _stored_plainly(dataset):
                raise
            start = (stop - 1) // dataset.chunks[0] * dataset.chunks[0]
            stored = np.frombuffer(dataset.id.read_direct_chunk((start, *(0,) * (dataset.ndim - 1)))[1][:-CHECKSUM_BYTES], dataset.dtype)
            self.unchecked.add(f"{path}/{name}")
            return np.concatenate([dataset[min(first, start) : start], stored.reshape(dataset.chunks)[max(first - start, 0) : stop - start]])

    def row_keys(self, first: int, count: int) -> dict[str, Array]:
        """slot, episode, episode_step, version and actor of `count` rows under /steps from row `first` on."""
        rows = np.arange(first, first + count)
        segment = np.searchsorted(self.index["start"], rows, side="right") - 1
        keys = {name: self.index[name][segment] for name in ("slot", "episode", "version", "actor")}
        keys["episode_step"] = self.index["first_step"][segment] + rows - self.index["start"][segment]
        return keys


def _stored_plainly(dataset: h5py.Dataset) -> bool:
    """Whether its chunks are the rows themselves with a checksum behind them."""
    return bool(dataset.fletcher32) and dataset.id.get_create_plist().get_nfilters() == 1


def check_shard(path: str | os.PathLike[str]) -> None:
    """Structure only: every dataset is there, of one length, all chunks stored, the index fits. Raises FormatError."""
    with ShardReader(path):
        pass


def verify_shard(path: str | os.PathLike[str]) -> None:
    """Structure, and reads every chunk against its checksum (Fletcher32), in bounded memory. Raises FormatError."""
    with ShardReader(path) as shard:
        for group in shard.layout:
            for _ in shard.slabs(group):
                pass
