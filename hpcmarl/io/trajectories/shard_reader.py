"""Reading of trajectory shards: structure checks, slabs of bounded size, and the list of a run's shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.hdf5.filters import fletcher32_fits
from hpcmarl.io.hdf5.schema import TRAJECTORIES, open_checked, read_attributes, reading
from hpcmarl.io.trajectories.layout import COMMITTED, INDEX, ORIGIN, Layout, layout_of_file
from hpcmarl.types import Array, BoolArray

ROW_KEYS = ("slot", "episode", "version", "actor", "rank", "run", "start_number", "rollout", "episode_step")
SLAB_BYTES = 8 << 20
CHECKSUM_BYTES = 4  # Fletcher32, after the data of a chunk
# The index is kept in memory. It may have LARGEST_INDEX bytes, or INDEX_RATIO times the bytes of the file.
LARGEST_INDEX, INDEX_RATIO = 256 << 20, 64


def list_shards(path: str | os.PathLike[str]) -> list[Path]:
    """List the finished shards of a run directory, or of a trajectories/ or rank-NNNN/ directory, in order.

    A file is returned as it is.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(
        shard
        for pattern in ("shard-*.h5", "rank-*/shard-*.h5", "trajectories/rank-*/shard-*.h5")
        for shard in path.glob(pattern)
    )


class ShardReader:
    """An open trajectory file, for use in a `with` statement.

    All methods may raise FormatError.

    Attributes:
        file: The open HDF5 file.
        layout: Its layout.
        attributes: Its root attributes.
        steps: Number of steps; after `select` only those of the selected segments.
        segments: Number of segments; after `select` only the selected ones.
        index: Columns of /segments, shape [segments] each. The columns of ORIGIN are included even if the
            file has them only in its root attributes.
        torn: Datasets whose last chunk was being rewritten when the writer was killed. Their committed rows
            match the checksum of the previous write.
    """

    def __init__(self, path: str | os.PathLike[str], *, partial: bool = False, damaged: bool = False) -> None:
        """Open a file and read its index.

        Args:
            path: The file.
            partial: Read the rows that a killed writer committed.
            damaged: Accept chunks that are missing or do not match their checksum; `whole` returns the
                segments without such chunks.

        Raises:
            FormatError: If the file cannot be read this way.
        """
        self.path, self._partial, self._damaged = Path(path), partial, damaged
        self.torn: set[str] = set()
        self._selected: BoolArray | None = None
        self.file: h5py.File = open_checked(path, TRAJECTORIES, unfinished=partial, damaged=damaged)
        try:
            with reading(self.path):
                self.layout: Layout = layout_of_file(self.file)
                self.attributes = read_attributes(self.file)
                self._absent = {name for name in ORIGIN if name not in self.file[INDEX]}
                self.segments = self._committed() if partial or damaged else self._rows("segment")
                self._check_index_size()
                self._bad: dict[str, BoolArray] = {}  # group -> [rows]; True in rows of bad chunks
                self.index = {
                    name: self._rows_of(INDEX, name, 0, self.segments) for name in self.layout[INDEX].columns
                }
                self.steps = int(self.index["start"][-1] + self.index["length"][-1]) if self.segments else 0
                if damaged:
                    self.steps = min(self._lengths("step"))
                    self._check_rows_size()
                else:
                    self._check_index(exact=not partial)
        except BaseException:
            self.file.close()
            raise
        self._stored = self.segments, self.steps
        self._starts = self.index["start"], self.index["length"]

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def select(self, keep: BoolArray) -> None:
        """Restrict the reader to some segments, as if the file held no others. Call it at most once.

        Args:
            keep: Segments to keep, shape [segments].
        """
        assert self._selected is None
        self._selected = keep
        start, length = (values[keep].astype(np.int64) for values in self._starts)
        self._step_rows = np.zeros(self._stored[1], np.bool_)
        for first, count in zip(start.tolist(), length.tolist(), strict=True):
            self._step_rows[first : first + count] = True
        self.index = {name: values[keep] for name, values in self.index.items()}
        self.index["start"] = np.concatenate([[0], np.cumsum(length)])[: len(length)].astype(np.int64)
        self.segments, self.steps = len(length), int(length.sum())

    def whole(self) -> BoolArray:
        """Read a damaged file completely and return which segments have no bad chunk, shape [segments]."""
        for group in self.layout:
            for _ in self.slabs(group):
                pass
        segments, steps = self._stored
        start, length = (values.astype(np.int64) for values in self._starts)
        good = (start >= 0) & (length >= 1) & (length <= steps) & (start + length <= steps)
        for group, layout in self.layout.items():
            bad = self._bad.get(group)
            if bad is None:
                continue
            if layout.rows == "segment":
                good &= ~bad[:segments]
            else:
                before = np.concatenate([[0], np.cumsum(bad)])
                good[good] &= before[(start + length)[good]] == before[start[good]]
        return np.asarray(good, np.bool_)

    def _lengths(self, rows: str) -> set[int]:
        return {
            self.file[path][name].shape[0]
            for path, group in self.layout.items()
            if group.rows == rows
            for name in group.columns
            if not (path == INDEX and name in self._absent)
        }

    def _rows(self, rows: str) -> int:
        lengths = self._lengths(rows)
        if len(lengths) != 1:
            raise FormatError(
                f"{self.path}: datasets of one {rows} dimension have different lengths {sorted(lengths)}; "
                "the file is damaged"
            )
        return int(lengths.pop())

    def _committed(self) -> int:
        record = self.file[INDEX].get(COMMITTED)
        if record is None or record.shape != () or record.dtype.kind != "i":
            raise FormatError(f"{self.path}: /{INDEX}/{COMMITTED} is missing; the file is damaged")
        committed = int(record[()])
        if not 0 <= committed <= min(self._lengths("segment")):
            raise FormatError(
                f"{self.path}: {committed} segments are committed, but the file holds fewer; it is damaged"
            )
        return committed

    def _check_index_size(self) -> None:
        declared = self.segments * sum(column.row_bytes for column in self.layout[INDEX].columns.values())
        if declared > max(LARGEST_INDEX, INDEX_RATIO * os.path.getsize(self.path)):
            raise FormatError(
                f"{self.path}: /{INDEX} declares {declared} bytes, far more than the file has; the file is "
                "damaged or crafted"
            )

    def _check_rows_size(self) -> None:
        """Check that a damaged file does not declare far more rows than it can hold.

        It may lack chunks, but not nearly all of them.
        """
        if self.steps > max(LARGEST_INDEX, INDEX_RATIO * os.path.getsize(self.path)):
            raise FormatError(
                f"{self.path}: /steps declares {self.steps} rows, far more than the file has; the file is "
                "damaged or crafted"
            )

    def _check_index(self, exact: bool) -> None:
        start, length = self.index["start"], self.index["length"]
        stop = np.cumsum(length)
        rows = self._rows("step") if exact else min(self._lengths("step"))
        wrong = (
            (length < 1).any()
            or (length > rows).any()
            or (start != np.concatenate([[0], stop[:-1]])[: len(start)]).any()
        )
        if wrong or self.steps > rows or (exact and self.steps != rows):
            raise FormatError(
                f"{self.path}: /{INDEX} and the {rows} rows under /steps do not match; the file is damaged"
            )

    def step_rows(self) -> int:
        """Return the rows that the datasets under /steps declare.

        This exceeds `steps` if the writer was killed.
        """
        return max(self._lengths("step"))

    def slabs(
        self, path: str, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield the rows of one group in order, about SLAB_BYTES at a time.

        Args:
            path: The group.
            columns: Columns to read; None: all.

        Yields:
            Number of the first row, and column -> array.
        """
        group = self.layout[path]
        names = list(group.columns) if columns is None else list(columns)
        total = self._stored[1] if group.rows == "step" else self._stored[0]
        row_bytes = max(1, sum(group.columns[name].row_bytes for name in names))
        step = max(1, SLAB_BYTES // row_bytes // group.chunk_rows) * group.chunk_rows
        given = 0
        for first in range(0, self.segments if path == INDEX else total, step):
            stop = min(first + step, self.segments if path == INDEX else total)
            if path == INDEX:
                yield first, {name: self.index[name][first:stop] for name in names}
                continue
            with reading(self.path):
                slab = {name: self._rows_of(path, name, first, stop) for name in names}
            if self._selected is not None:
                kept = (self._step_rows if group.rows == "step" else self._selected)[first:stop]
                slab = {name: values[kept] for name, values in slab.items()}
            if count := len(next(iter(slab.values()))):
                yield given, slab
            given += count

    def rows(self, path: str, name: str, first: int, stop: int) -> Array:
        """Return some rows of one dataset, whether or not their segments are selected.

        Args:
            path: Its group, "steps/NAME" or "final/NAME".
            name: The dataset.
            first: First row.
            stop: Row after the last one.
        """
        with reading(self.path):
            return self._rows_of(path, name, first, stop)

    def _rows_of(self, path: str, name: str, first: int, stop: int) -> Array:
        """Return rows of one dataset.

        A damaged file is read chunk by chunk, with zeros in place of bad chunks.
        """
        if path == INDEX and name in self._absent:
            return self._origin(name, stop - first)
        dataset = self.file[path][name]
        if self._damaged and dataset.chunks and dataset.size:
            return self._whole_chunks(path, dataset, first, stop)
        try:
            return np.asarray(dataset[first:stop])
        except OSError:
            if not self._partial or not _stored_plainly(dataset):
                raise
            return self._past_checksum(path, name, dataset, first, stop)

    def _past_checksum(self, path: str, name: str, dataset: h5py.Dataset, first: int, stop: int) -> Array:
        """Return rows whose last chunk does not match its checksum.

        The last chunk is rewritten when rows are added to it. A writer that is killed in between leaves the
        committed rows with the checksum of the previous write, when these rows were followed by zeros.

        Raises:
            OSError: If the committed rows do not match that checksum either: they are damaged.
        """
        start = (stop - 1) // dataset.chunks[0] * dataset.chunks[0]
        chunk = dataset.id.read_direct_chunk((start, *(0,) * (dataset.ndim - 1)))[1]
        data, checksum = chunk[:-CHECKSUM_BYTES], chunk[-CHECKSUM_BYTES:]
        committed = len(data) // dataset.chunks[0] * (stop - start)
        if not fletcher32_fits(data[:committed] + bytes(len(data) - committed), checksum):
            raise OSError(f"{path}/{name}: rows {start} to {stop - 1} do not match their checksum")
        self.torn.add(f"{path}/{name}")
        rows = np.frombuffer(data, dataset.dtype).reshape(dataset.chunks)
        return np.concatenate(
            [dataset[min(first, start) : start], rows[max(first - start, 0) : stop - start]]
        )

    def _whole_chunks(self, path: str, dataset: h5py.Dataset, first: int, stop: int) -> Array:
        """Return the rows of good chunks, and zeros for bad ones, which are recorded."""
        rows = np.zeros((stop - first, *dataset.shape[1:]), dataset.dtype)
        total = self._committed() if self.layout[path].rows == "segment" else min(self._lengths("step"))
        bad = self._bad.setdefault(path, np.zeros(total, np.bool_))
        chunk = dataset.chunks[0]
        for start in range(first // chunk * chunk, stop, chunk):
            low, high = max(start, first), min(start + chunk, stop)
            try:
                stored = dataset.id.get_chunk_info_by_coord((start, *(0,) * (dataset.ndim - 1))).byte_offset
                if stored is None:  # HDF5 would return zeros
                    bad[low:high] = True
                else:
                    rows[low - first : high - first] = dataset[low:high]
            except (OSError, RuntimeError):
                bad[low:high] = True
        return rows

    def _origin(self, name: str, count: int) -> Array:
        """Return a column of ORIGIN that the file lacks.

        It comes from the root attributes. Without an attribute it is -1 for the rollout and 0 for the other
        columns.
        """
        attribute = {"rank": "rank", "start_number": "start"}.get(name)
        value = self.attributes.get(attribute, 0) if attribute is not None else -1 if name == "rollout" else 0
        return np.full(count, value if isinstance(value, int) else 0, self.layout[INDEX].columns[name].dtype)

    def row_keys(self, first: int, count: int) -> dict[str, Array]:
        """Return the columns ROW_KEYS for `count` rows under /steps, from row `first` on."""
        rows = np.arange(first, first + count)
        segment = np.searchsorted(self.index["start"], rows, side="right") - 1
        keys = {name: self.index[name][segment] for name in ROW_KEYS if name != "episode_step"}
        keys["episode_step"] = self.index["first_step"][segment] + rows - self.index["start"][segment]
        return keys


def _stored_plainly(dataset: h5py.Dataset) -> bool:
    """Return whether each chunk consists of its rows and a checksum after them."""
    return bool(dataset.fletcher32) and dataset.id.get_create_plist().get_nfilters() == 1


def check_shard(path: str | os.PathLike[str]) -> None:
    """Check the structure of a shard, without reading its rows.

    All datasets and chunks must exist, lengths must agree, and the index must match the rows.

    Raises:
        FormatError: If the structure is damaged.
    """
    with ShardReader(path):
        pass


def verify_shard(path: str | os.PathLike[str], note: Callable[[ShardReader], object] | None = None) -> None:
    """Check the structure of a shard, and every chunk against its Fletcher32 checksum.

    The rows are read in bounded memory.

    Args:
        path: The shard.
        note: Called with the open shard once its structure is checked, before its rows are read.

    Raises:
        FormatError: If the shard is damaged.
    """
    with ShardReader(path) as shard:
        if note is not None:
            note(shard)
        for group in shard.layout:
            for _ in shard.slabs(group):
                pass
