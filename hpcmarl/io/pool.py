"""The strategy pool of a league on shared storage: frozen policies, one HDF5 file each (pool/NAME.h5).

A snapshot is written once, by the run that trains its member, and never changed. Every rank can read it.
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
    """Return the name of a snapshot.

    Args:
        member: Name of the member.
        term: Number of the member's terms (training assignments) so far; 0 for the initial policy.

    Returns:
        For instance main-000012 after the twelfth term of `main`.
    """
    return f"{member}-{term:06d}"


def parse_name(name: str) -> tuple[str, int]:
    """Return the member and the term of a snapshot name.

    Raises:
        ValueError: If it is not the name of a snapshot.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a snapshot (for instance main-000012)")
    return match[1], int(match[2])


def snapshot_path(directory: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a snapshot."""
    return Path(directory) / f"{name}.h5"


def write_snapshot(
    directory: str | os.PathLike[str], name: str, parameters: FloatArray, attributes: Mapping[str, Any]
) -> Path:
    """Write a snapshot to the pool atomically.

    Args:
        directory: The pool.
        name: Name of the snapshot.
        parameters: Shape [P].
        attributes: Root attributes as plain values: config, member, side, term, version, ….

    Returns:
        The file.

    Raises:
        StorageError: If the disk fails.
        FloatingPointError: If a parameter is not finite.
    """
    path = snapshot_path(directory, name)
    write_snapshot_file(path, parameters, {**attributes, "name": name})
    return path


def write_snapshot_file(path: Path, parameters: FloatArray, attributes: Mapping[str, Any]) -> None:
    """Write a snapshot to any path, as `write_snapshot` does.

    Args:
        path: The file.
        parameters: Shape [P].
        attributes: Root attributes as plain values, including `name`.

    Raises:
        StorageError: If the disk fails.
        FloatingPointError: If a parameter is not finite.
    """
    if not np.all(np.isfinite(parameters)):
        raise FloatingPointError(
            f"the parameters of {attributes['name']} are not finite; lower optimizer.step_size"
        )
    write_state(path, SNAPSHOT, {"parameters": np.array(parameters, np.float32)}, attributes)


def read_snapshot(path: str | os.PathLike[str]) -> tuple[FloatArray, dict[str, Any]]:
    """Return the parameters [P] and the root attributes of a snapshot.

    Raises:
        FormatError: If the file is damaged or foreign.
    """
    state, attributes = read_state(path, SNAPSHOT, "the snapshot is not used")
    parameters = state.get("parameters")
    if not isinstance(parameters, np.ndarray) or parameters.ndim != 1 or parameters.dtype != np.float32:
        raise FormatError(f"{os.fspath(path)}: holds no vector of parameters; the file is damaged")
    return parameters, attributes


def verify_snapshot(path: str | os.PathLike[str]) -> None:
    """Read a snapshot completely and compare its checksum.

    Raises:
        FormatError: If it is not a good snapshot.
    """
    read_snapshot(path)


def list_snapshots(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names of all snapshots in the pool, sorted by member and term, without opening a file."""
    try:
        files = list(Path(directory).iterdir())
    except OSError:
        return []
    names = [file.stem for file in files if file.suffix == ".h5" and _NAME.fullmatch(file.stem)]
    return sorted(names, key=parse_name)


def quarantine(directory: str | os.PathLike[str], name: str) -> Path:
    """Move a bad snapshot to pool/quarantine/ and return its new path.

    It does no harm if another rank has already moved it.
    """
    path = snapshot_path(directory, name)
    aside = path.parent / QUARANTINE / path.name
    with contextlib.suppress(OSError):
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
    return aside


class Pool:
    """Reads snapshots and keeps the most recently used ones in memory.

    Args:
        directory: The pool.
        keep: Number of parameter vectors in memory. It bounds the memory for a pool of any size.
        untouched: Leave bad files in place instead of moving them to quarantine, for read-only commands.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int, *, untouched: bool = False) -> None:
        self.directory, self.keep, self.untouched = Path(directory), keep, untouched
        self._kept: OrderedDict[str, FloatArray] = OrderedDict()

    def parameters(self, name: str, size: int) -> FloatArray:
        """Return the parameters [size] of a snapshot.

        A file that cannot be used is moved to quarantine, unless `untouched` is set.

        Args:
            name: Name of the snapshot.
            size: Number of parameters that the configuration implies.

        Raises:
            FormatError: If the file is missing, does not verify or belongs to another network.
        """
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        path = snapshot_path(self.directory, name)
        # Another rank has moved it to quarantine, or the shared file system does not show it here yet.
        if not path.exists():
            raise FormatError(f"{path}: no such file")
        try:
            parameters, _ = read_snapshot(path)
            if parameters.size != size:
                raise FormatError(
                    f"{path}: holds {parameters.size} parameters, but the configuration needs {size}"
                )
        except HpcmarlError as error:
            if self.untouched:
                raise
            LOGGER.warning("%s; it is moved to %s", error, quarantine(self.directory, name).parent)
            raise
        self._kept[name] = parameters
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return parameters
