"""A trajectory shard that is being written: chunks of rows, a commit record and the final rename.

While it is open, the file is named shard-NNNNNN.h5.partial and is in HDF5's SWMR mode. The write order of
this mode keeps the file readable if its writer is killed. The segments that /segments/committed counts are
then complete. A lock shows salvage that the writer is running.
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
    """Return the options of h5py for a compression setting: none, lzf, gzip, zstd or blosc_lz4.

    Raises:
        MissingPackageError: If the compression needs a package that is not installed.
    """
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
    """The datasets of one group. Rows are staged until a chunk is complete."""

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
        """Add rows and write every chunk that is complete. Whole chunks of `rows` are not staged.

        The columns take turns chunk by chunk, so that a truncated file keeps the first rows of all columns.
        """
        done = 0
        while done < count:
            take = min(count - done, self.capacity - self.staged)
            if take == self.capacity:
                self._write({name: rows[name][done : done + take] for name in self.stage}, take)
                self.written += take
            else:
                for name, stage in self.stage.items():
                    stage[self.staged : self.staged + take] = rows[name][done : done + take]
                self.staged += take
                if self.staged == self.capacity:
                    self.write()
                    self.written, self.staged = self.written + self.capacity, 0
            done += take

    def write(self) -> None:
        """Write the staged rows. They stay staged, so that the complete chunk replaces them later."""
        if self.staged:
            self._write({name: stage[: self.staged] for name, stage in self.stage.items()}, self.staged)

    def _write(self, columns: Mapping[str, Array], count: int) -> None:
        """Write rows after the complete chunks."""
        total = self.written + count
        self.scale.set_extent((total,))
        # The low-level interface of h5py: its indexing takes longer than the writing.
        for name, dataset in self.datasets.items():
            rows = np.ascontiguousarray(columns[name], self.stage[name].dtype)
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
    """A shard that is being written. `close` publishes it as `path`, or under the next free number.

    Args:
        path: Final name.
        layout: Layout of the file.
        attributes: Root attributes as plain values.
        compression: Setting for `filter_options`.
        partial: Temporary name; None: the default one, which must be free.

    Raises:
        OSError: If the disk fails. All methods may raise it.
        FileExistsError: If the default temporary name is taken.
        MissingPackageError: If the compression needs a package that is not installed.
    """

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
        # A file with the default temporary name may belong to another process.
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
        """Add rows to all groups.

        The index comes before the steps, which are useless without it if the file is truncated later.

        Args:
            rows: Group -> column -> array.
            steps: Rows for every group under /steps.
            segments: Rows for every other group.
        """
        for name in sorted(self._groups, key=lambda name: name.startswith("steps/")):
            self.append_group(name, rows[name], steps if name.startswith("steps/") else segments)

    def append_group(self, name: str, rows: Mapping[str, Array], count: int) -> None:
        """Add rows to one group.

        All groups must have got their rows before `flush` or `close`.
        """
        self._groups[name].append(rows, count)
        self.steps += count if name == f"steps/{ENVIRONMENT}" else 0
        self.segments += count if name == INDEX else 0
        self._sink.check()

    def flush(self) -> None:
        """Commit all rows so far: they survive the death of this process, but not of the machine."""
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
        """Approximate bytes on disk and staged."""
        return os.path.getsize(self.partial) + sum(
            group.staged * group.row_bytes for group in self._groups.values()
        )

    def close(self, *, verify: Callable[[Path], object] | None = None, replace: bool = False) -> None:
        """Write all rows, verify the file and publish it. An empty shard is deleted.

        Args:
            verify: Called with the temporary file before it is published; default: check_shard.
            replace: Replace the file with the final name. Otherwise no file is ever replaced.

        Raises:
            OSError: If the disk fails. The temporary file stays.
            FormatError: If the temporary file does not verify. It stays.
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
        """Give the file its final name, or the next free number if that name is taken.

        Raises:
            OSError: If the disk fails.
            FormatError: If the file does not verify.
        """
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
        """Close the file and leave it under its temporary name, even after an error of the disk."""
        file, self._file = self._file, None
        if file is not None:
            close(file, self._sink)


def is_live(path: Path) -> bool:
    """Return whether a writer still has the temporary file open; False if the file system has no locks."""
    with contextlib.suppress(OSError, FormatError), open_regular(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
