"""Metrics of a run: metrics.csv, metrics-groups.npy, metrics.h5 and summary.json.

metrics.csv and metrics-groups.npy grow row by row and survive kills; metrics.h5 is for other tools.
metrics_writer.py writes these three. Columns may be added at any row. Figures of single groups are not
columns, since there may be thousands of groups: metrics-groups.npy holds them, and metrics.h5 has an array
[row, group] for each figure.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import read_bytes, storage_error, write_atomically, write_text
from hpcmarl.io.hdf5.schema import (
    METRICS,
    NETCDF_DIMENSION,
    open_checked,
    reading,
    root_attributes,
    write_attributes,
)
from hpcmarl.io.metric_reference import unit_of
from hpcmarl.io.row_files import VERSION, load_npy, present_names, read_csv
from hpcmarl.io.table import Table

CSV, GROUPS_NPY, HDF5 = "metrics.csv", "metrics-groups.npy", "metrics.h5"
GROUPS = "groups"  # HDF5 group of metrics.h5 with the figures of single groups
LARGEST_SUMMARY = 16 << 20  # bytes; readers refuse larger files

Array = NDArray[np.float64]


class GroupHistory(NamedTuple):
    """Figures of single groups over the run.

    Attributes:
        version: [R], versions of the rows.
        figures: Name -> [R, G]; NaN if a group has no value.
    """

    version: Array
    figures: dict[str, Array]


def write_hdf5(path: Path, table: Table, groups: Table) -> None:
    """Write metrics.h5 atomically.

    The figures of `table` become 1-D datasets along `row`. A "/" in a name becomes "."; the attribute
    `column` keeps the name. The figures of `groups` become datasets [row, group] in the HDF5 group `groups`,
    beside their `version`. HDF5 writes into a buffer in memory, so that h5py's lock is not held while the
    disk hangs.

    Args:
        path: metrics.h5 in the run directory, whose config.yaml becomes a root attribute.
        table: The figures of the run.
        groups: The figures of single groups.

    Raises:
        StorageError: If the disk fails.
        FormatError: If the file reads back with other bytes.
    """
    config = path.with_name("config.yaml")
    attributes = {"role": "server", "config": config.read_text(encoding="utf-8") if config.exists() else ""}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write_attributes(file, root_attributes(METRICS, attributes))
        inner = file.create_group(GROUPS)
        rows = _dimension(file, "row", len(table))
        for index, name in enumerate(table.names):
            safe = name.replace("/", ".").strip(".") or "column"
            while safe in file:
                safe += "_"
            _figure(file, safe, name, table.values[:, index, 0], rows)
        if len(groups):
            rows = _dimension(inner, "row", len(groups))
            scale = inner.create_dataset("group", data=np.arange(groups.width))
            scale.make_scale("group")
            _figure(inner, VERSION, VERSION, groups.versions, rows)
            for index, name in enumerate(groups.names):
                _figure(inner, name, name, groups.values[:, index, :], rows, scale)

    image = buffer.getvalue()

    def write(partial: Path) -> None:
        partial.write_bytes(image)

    def verify(partial: Path) -> None:
        if partial.read_bytes() != image:
            raise FormatError(f"{path}: reads back with other bytes than were written; check the file system")

    write_atomically(path, write, verify)


def _dimension(place: h5py.Group, name: str, length: int) -> h5py.Dataset:
    """Add a netCDF dimension without values."""
    scale = place.create_dataset(name, (length,), "f4", maxshape=(None,), chunks=(1024,))
    scale.make_scale(NETCDF_DIMENSION + str(length).rjust(10))
    return scale


def _figure(place: h5py.Group, name: str, column: str, values: Array, *scales: h5py.Dataset) -> None:
    dataset = place.create_dataset(name, data=values)
    write_attributes(dataset, {"column": column, "units": unit_of(column)})
    for dimension, scale in zip(dataset.dims, scales, strict=True):
        dimension.attach_scale(scale)


def read_hdf5(path: Path) -> dict[str, Array]:
    """Return the columns of a metrics.h5, shape [row] each.

    Raises:
        FormatError: If the file is damaged or foreign.
    """
    with open_checked(path, METRICS) as file, reading(path):
        columns = {
            str(item.attrs.get("column", item.name[1:])): item[()].astype(np.float64)
            for item in _datasets(path, file, 1)
        }
    return dict(zip(present_names(list(columns)), columns.values(), strict=True))


def read_hdf5_groups(path: Path) -> GroupHistory | None:
    """Return the figures of single groups in a metrics.h5; None if it has none.

    Raises:
        FormatError: If the file is damaged or foreign.
    """
    with open_checked(path, METRICS) as file, reading(path):
        inner = file.get(GROUPS)
        if not isinstance(inner, h5py.Group) or VERSION not in inner:
            return None
        datasets = {item.name.rpartition("/")[2]: item for item in _datasets(path, inner, 1, 2)}
        version = datasets.pop(VERSION)
        shapes = {item.shape for item in datasets.values()}
        if (
            version.ndim != 1
            or len(shapes) > 1
            or any(len(shape) != 2 or shape[0] != version.size for shape in shapes)
        ):
            raise FormatError(
                f"{path}: the figures of single groups have different shapes; the file is damaged or crafted"
            )
        return GroupHistory(
            version[()].astype(np.float64),
            {name: item[()].astype(np.float64) for name, item in datasets.items()},
        )


def verify_hdf5(path: Path) -> None:
    """Read a metrics.h5 completely.

    Raises:
        FormatError: If the file is damaged or foreign.
    """
    read_hdf5(path)
    read_hdf5_groups(path)


def _datasets(path: Path, place: h5py.Group, *dimensions: int) -> list[h5py.Dataset]:
    """Return the figures in an HDF5 group.

    Raises:
        FormatError: If a dataset declares more bytes than the file holds, or has another type or number of
            dimensions.
    """
    datasets = [item for item in place.values() if isinstance(item, h5py.Dataset) and not item.is_scale]
    left = os.path.getsize(path)
    for item in datasets:
        # Figures are stored uncompressed, so all of them together declare no more bytes than the file has.
        left -= item.size * item.dtype.itemsize
        if item.ndim not in dimensions or item.dtype.kind not in "biuf" or left < 0:
            raise FormatError(
                f"{path}: {item.name} declares {item.dtype}{list(item.shape)}; the file is damaged or crafted"
            )
    return datasets


def read_metrics(run_directory: str | os.PathLike[str]) -> dict[str, Array]:
    """Return all columns of a run, from metrics.csv or else from metrics.h5.

    Args:
        run_directory: The run directory.

    Returns:
        Column -> [row], NaN if a row has no value.

    Raises:
        FormatError: If the file is damaged, or neither file exists.
        StorageError: If it cannot be read.
    """
    directory = Path(run_directory)
    if (directory / CSV).exists():
        return read_csv(directory / CSV)
    if (directory / HDF5).exists():
        return read_hdf5(directory / HDF5)
    raise FormatError(f"{directory}: holds neither {CSV} nor {HDF5}; is it a run directory?")


def read_groups(run_directory: str | os.PathLike[str]) -> GroupHistory | None:
    """Return the figures of single groups of a run, from metrics-groups.npy or else from metrics.h5.

    Args:
        run_directory: The run directory.

    Returns:
        The figures; None if the run has none.

    Raises:
        FormatError: If the file is damaged.
        StorageError: If it cannot be read.
    """
    directory = Path(run_directory)
    if (directory / GROUPS_NPY).exists():
        table = load_npy(directory / GROUPS_NPY)
        return GroupHistory(
            table.versions, {name: table.values[:, index] for index, name in enumerate(table.names)}
        )
    return read_hdf5_groups(directory / HDF5) if (directory / HDF5).exists() else None


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
    """Return a value as JSON; non-finite numbers become null."""
    return json.dumps(_jsonable(value), indent=indent, allow_nan=False)


def write_summary(run_directory: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """Write summary.json atomically; non-finite numbers become null.

    Raises:
        StorageError: If the disk fails.
    """
    write_text(Path(run_directory) / "summary.json", json_text(summary, indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary.json.

    Raises:
        FormatError: If it is unreadable, too large, nested too deeply or not a JSON object.
    """
    try:
        summary = json.loads(read_bytes(path, LARGEST_SUMMARY))
    except OSError as error:
        raise FormatError(str(storage_error(path, "read", error))) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a summary of a run: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(summary, dict):
        raise FormatError(f"{path}: not a summary of a run, which is one JSON object")
    return dict(zip(present_names(list(summary)), summary.values(), strict=True))
