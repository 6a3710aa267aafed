"""A league's strategy pool on shared storage: frozen policies, one HDF5 file each (pool/NAME.h5), written
once and never changed.

Whoever trains a member writes its snapshots, everybody reads them (`Pool` keeps the newest few in memory).
Knows nothing of who plays whom.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.hdf5.schema import SNAPSHOT
from hpcmarl.io.hdf5.state_file import read_state, write_state
from hpcmarl.types import FloatArray

LOGGER = logging.getLogger(__name__)
QUARANTINE = "quarantine"
_NAME = re.compile(r"([A-Za-z0-9_-]+)-(\d{6})")


def snapshot_name(member: str, term: int) -> str:
    """main-000012: what the member was after its twelfth term; 0 is what it began as."""
    return f"{member}-{term:06d}"


def parse_name(name: str) -> tuple[str, int]:
    """The member and the term of a snapshot's name. Raises ValueError for another name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no snapshot's name (main-000012)")
    return match[1], int(match[2])


def snapshot_path(directory: str | os.PathLike[str], name: str) -> Path:
    """Where a snapshot lies."""
    return Path(directory) / f"{name}.h5"


def write_snapshot(
    directory: str | os.PathLike[str], name: str, parameters: FloatArray, attributes: Mapping[str, Any]
) -> Path:
    """Writes parameters [P] whole or not at all; `attributes` (plain values: config, member, side, term,
    version, …) say whose they are.

    Raises StorageError where the disk fails, FloatingPointError rather than keep a number that is none."""
    path = snapshot_path(directory, name)
    write_snapshot_file(path, parameters, {**attributes, "name": name})
    return path


def write_snapshot_file(path: Path, parameters: FloatArray, attributes: Mapping[str, Any]) -> None:
    """The same to any file; `attributes` hold its name."""
    if not np.all(np.isfinite(parameters)):
        raise FloatingPointError(
            f"the parameters of {attributes['name']} are not finite; lower optimizer.step_size"
        )
    write_state(path, SNAPSHOT, {"parameters": np.array(parameters, np.float32)}, attributes)


def read_snapshot(path: str | os.PathLike[str]) -> tuple[FloatArray, dict[str, Any]]:
    """The parameters [P] and the root attributes. Raises FormatError for a file that is damaged or
    foreign."""
    state, attributes = read_state(path, SNAPSHOT, "it is left out")
    parameters = state.get("parameters")
    if not isinstance(parameters, np.ndarray) or parameters.ndim != 1 or parameters.dtype != np.float32:
        raise FormatError(f"{os.fspath(path)}: holds no vector of parameters")
    return parameters, attributes


def verify_snapshot(path: str | os.PathLike[str]) -> None:
    """Reads the whole file and compares its checksum. Raises FormatError."""
    read_snapshot(path)


def list_snapshots(directory: str | os.PathLike[str]) -> list[str]:
    """The names of the snapshots that are there, by member and term; none of them is opened."""
    try:
        files = list(Path(directory).iterdir())
    except OSError:
        return []
    names = [file.stem for file in files if file.suffix == ".h5" and _NAME.fullmatch(file.stem)]
    return sorted(names, key=parse_name)


def quarantine(directory: str | os.PathLike[str], name: str) -> Path:
    """Put a bad snapshot aside, in pool/quarantine/; returns where it is. Harmless where somebody else has
    done so."""
    path = snapshot_path(directory, name)
    aside = path.parent / QUARANTINE / path.name
    with contextlib.suppress(OSError):
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
    return aside


class Pool:
    """Reads snapshots; `keep` vectors stay in memory, so that a pool of a thousand costs no more than one of
    so many.

    untouched: bad files stay where they are, for those who only look."""

    def __init__(self, directory: str | os.PathLike[str], keep: int, *, untouched: bool = False) -> None:
        self.directory, self.keep, self.untouched = Path(directory), keep, untouched
        self._kept: OrderedDict[str, FloatArray] = OrderedDict()

    def parameters(self, name: str, size: int) -> FloatArray:
        """The parameters [size] of a snapshot. Raises FormatError where the file does not verify or is of
        another network; it is put aside then."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        path = snapshot_path(self.directory, name)
        if not path.exists():  # put aside by another rank, or not yet seen here on a shared file system
            raise FormatError(f"{path}: no such file")
        try:
            parameters, _ = read_snapshot(path)
            if parameters.size != size:
                raise FormatError(
                    f"{path}: {parameters.size} parameters where the configuration makes {size}"
                )
        except HpcmarlError as error:
            if self.untouched:
                raise
            LOGGER.warning("%s; it is put aside in %s", error, quarantine(self.directory, name).parent)
            raise
        self._kept[name] = parameters
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return parameters
