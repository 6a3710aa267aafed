"""Formats, root attributes and safe opening of all HDF5 files of hpcmarl.

Readers open files with `open_checked`. It turns damage into an error of one line. It also refuses features
through which a foreign file could do harm: links and external storage that read other files, and datasets
that declare more bytes than they store.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcmarl
from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import LOCK_ERRORS, errno_of, open_regular, remedy, storage_error
from hpcmarl.io.hdf5.fault_tolerant_file import close, create
from hpcmarl.io.hdf5.filters import check_filters
from hpcmarl.io.hdf5.unclosed_file import UnclosedHDF5File
from hpcmarl.packing import plain

TRAJECTORIES, CHECKPOINT, METRICS, SIMULATION = (
    "hpcmarl-trajectories",
    "hpcmarl-checkpoint",
    "hpcmarl-metrics",
    "hpcmarl-simulation",
)
SNAPSHOT, ACTIVITY = "hpcmarl-snapshot", "hpcmarl-activity"
FORMAT_VERSIONS = {TRAJECTORIES: 2, CHECKPOINT: 1, METRICS: 1, SIMULATION: 1, SNAPSHOT: 1, ACTIVITY: 1}
NETCDF_DIMENSION = "This is a netCDF dimension but not a netCDF variable."
LARGEST_CHUNK = 64 << 20  # bytes; ours are about 1 MiB
_JSON = "json:"


def root_attributes(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root attributes of a new file.

    Args:
        kind: Format of the file, a key of FORMAT_VERSIONS.
        given: Attributes to add or override: config, env, rank, role, host, seeds and others.
    """
    attributes: dict[str, Any] = {
        "config": "",
        "env": "",
        "rank": 0,
        "role": "",
        "host": socket.gethostname(),
        "seeds": [],
    }
    attributes["created"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    attributes.update(given)
    attributes.update(format=kind, format_version=FORMAT_VERSIONS[kind], hpcmarl_version=hpcmarl.__version__)
    return attributes


def encode_value(value: Any) -> Any:
    """Convert a plain value to the value of an HDF5 attribute.

    Numbers and text stay as they are; all other values become the text "json:…".

    Raises:
        TypeError: If a tree cannot hold the value.
    """
    value = plain(value)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return np.int64(value)
    if isinstance(value, str) and "\0" not in value and not value.startswith(_JSON):
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return value
    return _JSON + json.dumps(value)


def read_attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return the plain value of an attribute that was written with `encode_value`.

    Raises:
        FormatError: If the attribute was not written this way.
    """
    identifier = item.attrs.get_id(name)
    if identifier.shape != ():
        raise FormatError(
            f"{item.file.filename}: attribute {name} of {item.name} is not a single value; the file is "
            "damaged or foreign"
        )
    value = item.attrs[name]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) and value.startswith(_JSON):
        try:
            return json.loads(value[len(_JSON) :])
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{item.file.filename}: attribute {name} of {item.name} does not parse: {error}"
            ) from error
    if not isinstance(value, (bool, int, float, str)):
        raise FormatError(
            f"{item.file.filename}: attribute {name} of {item.name} has an unknown type; the file is damaged "
            "or foreign"
        )
    return value


def write_attributes(item: h5py.Group | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    """Write plain values as attributes, which `read_attributes` restores.

    Raises:
        TypeError: If a tree cannot hold one of the values.
    """
    for name, value in attributes.items():
        item.attrs[name] = encode_value(value)


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Return all root attributes as plain values.

    Raises:
        FormatError: If an attribute is damaged or foreign.
    """
    return {name: read_attribute(file, name) for name in file.attrs}


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file, write it in the `with` block, and close it.

    Raises:
        OSError: If the disk fails.
    """
    file, sink = create(path)
    try:
        yield file
    finally:
        close(file, sink)
    sink.check()


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors that HDF5 raises on a damaged file into FormatError of one line."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        EOFError,
    ) as error:
        if isinstance(error, OSError) and errno_of(error) in LOCK_ERRORS:
            raise FormatError(f"{os.fspath(path)}: the file is locked: {remedy(error)}") from error
        raise FormatError(
            f"{os.fspath(path)}: the file is damaged: {' '.join(str(error).split())[:200]}"
        ) from error


def open_checked(
    path: str | os.PathLike[str],
    kind: str | None,
    *,
    unfinished: bool = False,
    damaged: bool = False,
    contents: bool = True,
) -> h5py.File:
    """Open a file of hpcmarl for reading.

    Args:
        path: The file.
        kind: Format that it must have, a key of FORMAT_VERSIONS; None: any of them.
        unfinished: Whether the file may have been left open by a killed writer.
        damaged: Whether chunks may be missing or bad, so that reading them fails.
        contents: Whether to check groups and datasets. Without it only root attributes may be read.

    Returns:
        The open file.

    Raises:
        FormatError: If the file is missing, empty, truncated, not HDF5, foreign, newer or unsafe.
        MissingPackageError: If a compression filter is not installed.
    """
    path = Path(path)
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            signature = stream.read(8)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except OSError as error:
        raise FormatError(str(storage_error(path, "read", error))) from error
    if size == 0:
        raise FormatError(f"{path}: the file is empty; its writer was stopped before it wrote anything")
    if signature != b"\x89HDF\r\n\x1a\n":
        raise FormatError(f"{path}: not an HDF5 file")
    with reading(path):
        file = _open(path, unfinished or damaged)
        try:
            check_root(file, kind)
            if contents:
                check_safe(file, damaged=damaged)
        except BaseException:
            file.close()
            raise
    return file


def _open(path: Path, unfinished: bool) -> h5py.File:
    try:
        return h5py.File(UnclosedHDF5File(path) if unfinished else path, "r")
    except OSError as error:
        text = str(error)
        if "truncated" in text or "eof" in text.lower():
            raise FormatError(
                f"{path}: the file is truncated; restore it from a copy (trajectories: try `hpcmarl data "
                "salvage`)"
            ) from error
        if "consistency flags" in text or "already open for" in text:
            raise FormatError(
                f"{path}: the file is being written, or its writer was killed; try `hpcmarl data salvage`"
            ) from error
        raise


def check_root(file: h5py.File, kind: str | None) -> None:
    """Check the format and the version in the root attributes.

    Raises:
        FormatError: If they are not those of a file that this version of hpcmarl can read.
    """
    stored = read_attribute(file, "format") if "format" in file.attrs else None
    if stored not in FORMAT_VERSIONS:
        raise FormatError(
            f"{file.filename}: an HDF5 file, but not one of hpcmarl (its attribute format is {stored!r})"
        )
    if kind is not None and stored != kind:
        raise FormatError(f"{file.filename}: holds {stored}, not {kind}")
    version = read_attribute(file, "format_version") if "format_version" in file.attrs else None
    if type(version) is not int or version < 1:
        raise FormatError(
            f"{file.filename}: its attribute format_version is {version!r}, not a positive integer"
        )
    if version > FORMAT_VERSIONS[stored]:
        writer = (
            read_attribute(file, "hpcmarl_version") if "hpcmarl_version" in file.attrs else "a later version"
        )
        known = FORMAT_VERSIONS[stored]
        raise FormatError(
            f"{file.filename}: format version {version} is newer than {known}; read it with hpcmarl "
            f"{writer}, or upgrade"
        )


def check_safe(file: h5py.File, *, damaged: bool = False) -> None:
    """Check that a file has no features that could do harm when it is read.

    Links, external and virtual storage, unknown types, and declared sizes beyond the stored ones are refused.

    Args:
        file: The open file.
        damaged: Accept missing chunks.

    Raises:
        FormatError: If the file is refused.
        MissingPackageError: If a compression filter is not installed.
    """
    size = os.path.getsize(file.filename)
    seen = set()
    waiting: list[h5py.Group] = [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise FormatError(
                    f"{file.filename}: {group.name}/{name} is a soft or external link; hpcmarl writes none "
                    "and follows none"
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise FormatError(
                    f"{file.filename}: {group.name}/{name} is linked twice; hpcmarl writes no such files"
                )
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_dataset(item, size, damaged=damaged)
            else:
                raise FormatError(
                    f"{file.filename}: {item.name} is neither group nor dataset; hpcmarl writes no such "
                    "objects"
                )


def _check_dataset(dataset: h5py.Dataset, file_size: int, *, damaged: bool) -> None:
    where = f"{dataset.file.filename}: {dataset.name}"
    creation = dataset.id.get_create_plist()
    layout = creation.get_layout()
    if creation.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise FormatError(f"{where} is stored in other files; hpcmarl follows no external storage")
    if dataset.shape is None or dataset.dtype.kind not in "biufcSV" or dataset.dtype.hasobject:
        raise FormatError(f"{where} has type {dataset.dtype}, which hpcmarl does not write")
    if damaged and layout == h5py.h5d.CHUNKED:
        _check_damaged(where, dataset)
        return
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if layout != h5py.h5d.CHUNKED:
        if declared > max(file_size, 64) or stored < declared:
            raise FormatError(
                f"{where} declares {declared} bytes, but {stored} are stored; the file is damaged or crafted"
            )
        return
    if stored == 0 and dataset.is_scale and dataset.ndim == 1:
        return  # a netCDF dimension without values, which is never read
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    needed = math.prod(-(-length // step) for length, step in zip(dataset.shape, dataset.chunks, strict=True))
    if chunk > LARGEST_CHUNK or stored > file_size or dataset.id.get_num_chunks() < needed:
        raise FormatError(
            f"{where} declares {needed} chunks of {chunk} bytes, which are not all stored; the file is "
            "damaged or crafted"
        )
    check_filters(where, dataset, chunk)


def _check_damaged(where: str, dataset: h5py.Dataset) -> None:
    """Check that the chunks of a damaged dataset do not expand without bound.

    Chunks, or the index of chunks, may be missing.

    Raises:
        FormatError: If a chunk is too large.
    """
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > LARGEST_CHUNK:
        raise FormatError(f"{where} declares chunks of {chunk} bytes; the file is damaged or crafted")
    with contextlib.suppress(OSError, RuntimeError):  # without the index no chunk can be read
        check_filters(where, dataset, chunk, damaged=True)
