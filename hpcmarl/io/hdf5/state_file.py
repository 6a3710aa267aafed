"""A tree of arrays and plain values in one HDF5 file, with a checksum over all of it: what checkpoints and
frozen policies are.

Called by checkpoint.py and pool.py. Knows nothing of what the tree holds (see hpcmarl.packing).
"""

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
    """Writes the state whole or not at all, reads it back and compares checksums.

    `kind` is one of io.schema's formats; `attributes` (plain values) become root attributes beside those of
    every file. Makes the file's directory, but not its parents. Raises StorageError where the disk fails or
    gives back something else, TypeError for a state that is no tree.
    """
    root = root_attributes(kind, attributes)
    checksum = digest({"state": state, "attributes": root})
    name = kind.removeprefix("hpcmarl-")

    def write(partial: Path) -> None:
        with new_file(partial) as file:
            write_attributes(file, {**root, "checksum": checksum})
            write_tree(file.create_group("state"), state)

    try:
        # without its parents: a run directory that is gone may be a disk that is
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write, lambda partial: read_state(partial, kind))
    except OSError as error:
        raise storage_error(path, "write", error) from error
    except FormatError as error:
        raise StorageError(
            f"{path}: the {name} does not read back as it was written ({error}); check the file system"
        ) from error
    except (RuntimeError, ValueError) as error:  # what h5py makes of a failing disk when it closes a file
        raise storage_error(path, "write", error) from error


def read_state(
    path: str | os.PathLike[str], kind: str, remedy: str = "restore it from a copy"
) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The state and the root attributes. Raises FormatError for a file that is damaged, foreign or newer;
    `remedy` ends its line."""
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
