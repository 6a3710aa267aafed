"""Bare h5py on the datasets of trajectory files: the yardstick of `hpcmarl bench io`.

Nothing is checked here except the Fletcher32 checksums, by HDF5 itself. All functions read and write whole
chunks, many of them at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcmarl.io.trajectories.shard import filter_options
from hpcmarl.types import Array

BLOCK_BYTES = 8 << 20  # bytes that one call of h5py reads or writes, rounded down to whole chunks


def columns(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets of a file that hold rows, by path."""
    found: dict[str, h5py.Dataset] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks is not None and not item.is_scale:
            found[name] = item

    file.visititems(look)
    return found


def blocks(dataset: h5py.Dataset) -> Iterator[Array]:
    """Yield all rows of a dataset in whole chunks, about BLOCK_BYTES at a time.

    The yielded arrays share one buffer.
    """
    row = max(1, dataset.nbytes // max(1, len(dataset)))
    step = max(1, BLOCK_BYTES // row // dataset.chunks[0]) * dataset.chunks[0]
    buffer = np.empty((min(step, len(dataset)), *dataset.shape[1:]), dataset.dtype)
    for first in range(0, len(dataset), step):
        count = min(step, len(dataset) - first)
        dataset.read_direct(buffer, np.s_[first : first + count], np.s_[:count])
        yield buffer[:count]


def data_bytes(paths: Sequence[Path]) -> int:
    """Return the bytes of all rows in some files before compression."""
    total = 0
    for path in paths:
        with h5py.File(path) as file:
            total += sum(dataset.nbytes for dataset in columns(file).values())
    return total


def read(paths: Sequence[Path]) -> float:
    """Read all rows of some files.

    Returns:
        Seconds that it took.
    """
    began = time.perf_counter()
    for path in paths:
        with h5py.File(path) as file:
            for dataset in columns(file).values():
                for _ in blocks(dataset):
                    pass
    return time.perf_counter() - began


def write(sources: Sequence[Path], directory: Path, compression: str) -> float:
    """Write the arrays of some files again, one file for each, with the same chunks and filters.

    Args:
        sources: Files that hold the arrays. They are read into memory first, one at a time.
        directory: An existing directory for the new files.
        compression: Compression of trajectories, see `filter_options`.

    Returns:
        Seconds of writing and of fsync, without the reading.
    """
    seconds = 0.0
    for source in sources:
        with h5py.File(source) as file:
            arrays = {name: (dataset[()], dataset.chunks) for name, dataset in columns(file).items()}
        began = time.perf_counter()
        target = directory / source.name
        with h5py.File(target, "w") as file:
            for name, (array, chunks) in arrays.items():
                _create(file, name, array.shape, array.dtype, chunks, compression)[...] = array
        _fsync(target)
        seconds += time.perf_counter() - began
    return seconds


def merge(sources: Sequence[Path], target: Path, compression: str) -> float:
    """Read all rows of some files and write them into one file.

    Args:
        sources: Files with equal datasets.
        target: The new file.
        compression: Compression of trajectories, see `filter_options`.

    Returns:
        Seconds of reading, writing and fsync.
    """
    began = time.perf_counter()
    with h5py.File(target, "w") as merged:
        for source in sources:
            with h5py.File(source) as file:
                for name, dataset in columns(file).items():
                    if name not in merged:
                        shape = (0, *dataset.shape[1:])
                        _create(merged, name, shape, dataset.dtype, dataset.chunks, compression)
                    joined = merged[name]
                    for rows in blocks(dataset):
                        first = len(joined)
                        joined.resize(first + len(rows), axis=0)
                        joined[first:] = rows
    _fsync(target)
    return time.perf_counter() - began


def _create(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...], compression: str
) -> h5py.Dataset:
    return file.create_dataset(
        name,
        shape,
        dtype,
        maxshape=(None, *shape[1:]),
        chunks=chunks,
        fletcher32=True,
        **filter_options(compression),
    )


def _fsync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
