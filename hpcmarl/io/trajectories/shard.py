"""One trajectory file that is being written: chunks of rows, a commit record, and the rename that makes it
final.

The trajectory writer, salvage and merge write shards through here. Knows the layout and no rollout. While it
is open the file has the name shard-NNNNNN.h5.partial and is in HDF5's SWMR mode, whose order of writing keeps
it readable when its writer is killed; what /segments/committed counts is then complete. A lock tells salvage
that the writer lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcmarl.errors import FormatError, MissingPackageError
from hpcmarl.io.atomic import open_regular, partial_path, publish, publish_new
from hpcmarl.io.hdf5.fault_tolerant_file import close, create
from hpcmarl.io.hdf5.schema import NETCDF_DIMENSION, encode_value, write_attributes
from hpcmarl.io.trajectories.layout import COMMITTED, ENVIRONMENT, INDEX, GroupLayout, Layout
from hpcmarl.types import Array

_NUMBERED = re.compile(r"shard-(\d{6,})\.h5")


def filter_options(compression: str) -> dict[str, Any]:
    """h5py's options of a compression setting (none, lzf, gzip, zstd, blosc_lz4). Raises
    MissingPackageError."""
    if compression in ("zstd", "blosc_lz4"):
        try:
            import hdf5plugin
        except ImportError as error:
            raise MissingPackageError(
                f"trajectories.compression: {compression} needs the package hdf5plugin; pip install "
                "hdf5plugin, or choose none, lzf or gzip"
            ) from error
        if compression == "zstd":
            return {"shuffle": True, **hdf5plugin.Zstd(clevel=1)}
        return dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE))
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    return {"compression": "lzf", "shuffle": True} if compression == "lzf" else {}


class _Rows:
    """The datasets of one group: rows are staged until a chunk is whole."""

    def __init__(self, file: h5py.File, path: str, layout: GroupLayout, options: Mapping[str, Any]) -> None:
        group = file.create_group(path)
        self.capacity, self.staged, self.written = layout.chunk_rows, 0, 0
        self.stage = {
            name: np.zeros((self.capacity, *column.sizes), column.dtype)
            for name, column in layout.columns.items()
        }
        self.row_bytes = sum(column.row_bytes for column in layout.columns.values())
        scales = {
            layout.rows: group.create_dataset(
                layout.rows, (0,), "f4", maxshape=(None,), chunks=(self.capacity,)
            )
        }
        for name, column in layout.columns.items():
            storage = {
                "maxshape": (None, *column.sizes),
                "chunks": (self.capacity, *(max(size, 1) for size in column.sizes)),
                "fletcher32": True,
            }
            dataset = group.create_dataset(name, (0, *column.sizes), column.dtype, **storage, **options)
            for key, value in column.attributes.items():
                dataset.attrs[key] = encode_value(value)
            for axis, dim in enumerate((layout.rows, *column.dims)):
                if dim not in scales:
                    scales[dim] = _scale(group, dim, column.sizes[axis - 1], layout.labels.get(dim))
                elif axis == 0 and not scales[dim].is_scale:
                    scales[dim].make_scale(NETCDF_DIMENSION + "0".rjust(10))
                dataset.dims[axis].attach_scale(scales[dim])
        self.scale = scales[layout.rows].id
        self.datasets = {name: group[name].id for name in layout.columns}
        self.types = {name: h5py.h5t.py_create(column.dtype) for name, column in layout.columns.items()}

    def append(self, rows: Mapping[str, Array], count: int) -> None:
        done = 0
        while done < count:
            take = min(count - done, self.capacity - self.staged)
            for name, stage in self.stage.items():
                stage[self.staged : self.staged + take] = rows[name][done : done + take]
            self.staged += take
            done += take
            if self.staged == self.capacity:
                self.write()
                self.written, self.staged = self.written + self.capacity, 0

    def write(self) -> None:
        """Writes what is staged; it stays staged, so that a later whole chunk replaces it."""
        if not self.staged:
            return
        total = self.written + self.staged
        self.scale.set_extent((total,))
        for (
            name,
            dataset,
        ) in self.datasets.items():  # h5py's low level: its indexing costs more than the writing
            rows = self.stage[name][: self.staged]
            dataset.set_extent((total, *rows.shape[1:]))
            if rows.size:
                target = dataset.get_space()
                target.select_hyperslab((self.written,) + (0,) * (rows.ndim - 1), rows.shape)
                dataset.write(h5py.h5s.create_simple(rows.shape), target, rows, self.types[name])


def _scale(group: h5py.Group, name: str, size: int, labels: tuple[bytes, ...] | None) -> h5py.Dataset:
    if labels is not None and len(labels) == size:
        width = max(1, *map(len, labels), 1)
        scale = group.create_dataset(name, data=np.array(labels, h5py.string_dtype("utf-8", width)))
        scale.make_scale(name)
    else:
        scale = group.create_dataset(name, (size,), "f4", maxshape=(max(size, 1),), chunks=(max(size, 1),))
        scale.make_scale(NETCDF_DIMENSION + str(size).rjust(10))
    return scale


class ShardFile:
    """A shard on its way to `path`, or the next number that nobody has. Raises OSError where the disk fails:
    the caller decides."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        attributes: Mapping[str, Any],
        compression: str = "none",
        *,
        partial: Path | None = None,
    ) -> None:
        self.path, self.partial = path, partial or partial_path(path)
        self.steps = self.segments = 0
        options = filter_options(compression)
        # a partial file of this name may be another process's
        file, self._sink = create(self.partial, fresh=partial is None, libver=("v110", "v110"), rdcc_nbytes=0)
        self._file: h5py.File | None = file
        try:
            write_attributes(file, attributes)
            self._groups = {name: _Rows(file, name, group, options) for name, group in layout.items()}
            self._committed = file.create_dataset(f"{INDEX}/{COMMITTED}", data=np.int64(0))
            file.swmr_mode = True
            self._sink.check()
        except BaseException:
            self.abandon()
            self.partial.unlink(missing_ok=True)
            raise

    def append(self, rows: Mapping[str, Mapping[str, Array]], steps: int, segments: int) -> None:
        """Adds `steps` rows to every group under /steps and `segments` rows to the others; rows: group ->
        column -> array."""
        for name in self._groups:
            self.append_group(name, rows[name], steps if name.startswith("steps/") else segments)

    def append_group(self, name: str, rows: Mapping[str, Array], count: int) -> None:
        """Adds rows to one group alone; before `flush` or `close` all groups must have got theirs."""
        self._groups[name].append(rows, count)
        self.steps += count if name == f"steps/{ENVIRONMENT}" else 0
        self.segments += count if name == INDEX else 0
        self._sink.check()

    def flush(self) -> None:
        """Makes all rows so far survive the death of this process (not of the machine)."""
        assert self._file is not None
        for prefix in ("steps/", ""):
            for name, group in self._groups.items():
                if name.startswith("steps/") == bool(prefix):
                    group.write()
            self._file.flush()
            self._sink.check()  # before any row counts as committed
        self._committed[...] = self.segments
        self._file.flush()
        self._sink.check()

    @property
    def size(self) -> int:
        """Bytes on disk and staged, about."""
        return os.path.getsize(self.partial) + sum(
            group.staged * group.row_bytes for group in self._groups.values()
        )

    def close(self, *, verify: Callable[[Path], object] | None = None, replace: bool = False) -> None:
        """Write all, verify and publish; an empty shard is deleted.

        Args:
            verify: called with the temporary file before it is published; default: check_shard.
            replace: take the place of the file that has the name. Otherwise no file is ever replaced.

        Raises:
            OSError: the disk fails; the temporary file stays.
            FormatError: the temporary file does not verify, and stays.
        """
        from hpcmarl.io.trajectories.shard_reader import check_shard

        if self._file is None:
            return
        if self.segments:
            self.flush()
        self.abandon()
        self._sink.check()
        if self.segments and replace:
            publish(self.partial, self.path, verify or check_shard)
        elif self.segments:
            self._publish(verify or check_shard)
        else:
            self.partial.unlink(missing_ok=True)

    def _publish(self, verify: Callable[[Path], object]) -> None:
        """Give the file its name, or, where that is taken, the next of its kind that is not. Raises OSError,
        FormatError."""
        while True:
            try:
                publish_new(self.partial, self.path, verify)
                return
            except FileExistsError:
                number = _NUMBERED.fullmatch(self.path.name)
                if number is None:
                    raise
                self.path = self.path.with_name(f"shard-{int(number[1]) + 1:06d}.h5")

    def abandon(self) -> None:
        """Closes the file and leaves it with its temporary name; after an error of the disk as it is
        there."""
        file, self._file = self._file, None
        if file is not None:
            close(file, self._sink)


def is_live(path: Path) -> bool:
    """Whether a writer still has the temporary file (false where the file system has no locks)."""
    with contextlib.suppress(OSError, FormatError), open_regular(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
