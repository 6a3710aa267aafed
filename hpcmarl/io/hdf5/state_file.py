"""Files of one tree with a checksum over all of it: checkpoints and snapshots."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from hpcmarl.errors import FormatError, StorageError
from hpcmarl.io.atomic import storage_error, write_atomically
from hpcmarl.io.hdf5.schema import (
    new_file,
    open_checked,
    read_attributes,
    reading,
    root_attributes,
    write_attributes,
)
from hpcmarl.io.hdf5.tree import read_tree, write_tree
from hpcmarl.packing import Tree, digest


def write_state(path: Path, kind: str, state: dict[str, Tree], attributes: Mapping[str, Any]) -> None:
    """Write a state atomically, read it back and compare checksums.

    The directory of the file is created, but not its parents.

    Args:
        path: The file.
        kind: Its format, a key of hdf5.schema.FORMAT_VERSIONS.
        state: A tree (hpcmarl.packing).
        attributes: Root attributes as plain values, in addition to those of every file.

    Raises:
        StorageError: If the disk fails or returns other data than were written.
        TypeError: If the state is not a tree.
    """
    root = root_attributes(kind, attributes)
    checksum = digest({"state": state, "attributes": root})
    name = kind.removeprefix("hpcmarl-")

    def write(partial: Path) -> None:
        with new_file(partial) as file:
            write_attributes(file, {**root, "checksum": checksum})
            write_tree(file.create_group("state"), state)

    try:
        # Do not create parents: if the run directory is missing, its disk may be unmounted.
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write, lambda partial: read_state(partial, kind))
    except OSError as error:
        raise storage_error(path, "write", error) from error
    except FormatError as error:
        raise StorageError(
            f"{path}: the {name} does not read back as it was written ({error}); check the file system"
        ) from error
    except (RuntimeError, ValueError) as error:  # h5py raises these when it closes a file on a failing disk
        raise storage_error(path, "write", error) from error


def read_state(
    path: str | os.PathLike[str], kind: str, remedy: str = "restore it from a copy"
) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Return the state and the root attributes of a file.

    Args:
        path: The file.
        kind: Format that it must have.
        remedy: End of the error message for a wrong checksum.

    Raises:
        FormatError: If the file is damaged, foreign or of a newer format.
    """
    name = kind.removeprefix("hpcmarl-")
    with open_checked(path, kind) as file, reading(path):
        attributes = read_attributes(file)
        if "state" not in file or not isinstance(file["state"], h5py.Group):
            raise FormatError(f"{os.fspath(path)}: a {name} without state; the file is damaged")
        state = read_tree(file["state"])
    expected = attributes.pop("checksum", None)
    if digest({"state": state, "attributes": attributes}) != expected:
        raise FormatError(f"{os.fspath(path)}: the checksum does not match, the file is damaged; {remedy}")
    return state, attributes
