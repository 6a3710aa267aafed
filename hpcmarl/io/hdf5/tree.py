"""Trees of arrays and plain values as HDF5 groups, without pickle.

hpcmarl.packing defines trees. They are stored as follows:

    dict                    a group
    array                   a contiguous dataset
    plain value             an attribute of the group
    list without arrays     an attribute in JSON
    list with arrays        a group with the attribute "%list" (its length) and members "0", "1", …

Characters that HDF5 names cannot have are written as % and four hexadecimal digits. The order of keys is not
kept.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import FormatError
from hpcmarl.io.hdf5.schema import encode_value, read_attribute
from hpcmarl.packing import MAXIMUM_DEPTH, Tree, plain

_LIST = "%list"
_EMPTY_NAME = "%"
_UNSAFE = re.compile(r"[%/\x00\ud800-\udfff]|^\.")
_ESCAPED = re.compile(r"%([0-9A-F]{4})")


def _encode_name(name: str) -> str:
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):04X}", name) or _EMPTY_NAME


def _decode_name(name: str) -> str:
    return "" if name == _EMPTY_NAME else _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def _has_array(value: Tree, depth: int = 0) -> bool:
    if depth > MAXIMUM_DEPTH:
        raise TypeError(f"a tree is at most {MAXIMUM_DEPTH} levels deep; is there a cycle?")
    if isinstance(value, (dict, list, tuple)):
        return any(
            _has_array(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)
        )
    return isinstance(value, np.ndarray)


def write_tree(group: h5py.Group, tree: dict[str, Tree]) -> None:
    """Write a tree into an empty group.

    Raises:
        TypeError: If a tree cannot hold one of the values.
        OSError: If the disk fails.
    """
    _write_items(group, tree, 0)


def _write_items(group: h5py.Group, items: dict[str, Tree], depth: int) -> None:
    if depth > MAXIMUM_DEPTH:
        raise TypeError(f"a tree is at most {MAXIMUM_DEPTH} levels deep; is there a cycle?")
    for key, item in items.items():
        if not isinstance(key, str):
            raise TypeError(f"keys of a tree are strings, not {key!r}")
        name, value = _encode_name(key), plain(item)
        if isinstance(value, np.ndarray):
            group.create_dataset(name, data=value)
        elif isinstance(value, dict):
            _write_items(group.create_group(name), value, depth + 1)
        elif isinstance(value, (list, tuple)) and _has_array(value):
            members = group.create_group(name)
            members.attrs[_LIST] = len(value)
            _write_items(members, {str(index): member for index, member in enumerate(value)}, depth + 1)
        else:
            group.attrs[name] = encode_value(value)


def read_tree(group: h5py.Group) -> dict[str, Tree]:
    """Return the tree that `write_tree` wrote. At most as many bytes are read as the file has.

    Raises:
        FormatError: If the group does not hold a tree.
    """
    tree = _Reader(os.path.getsize(group.file.filename)).group(group, 0)
    if not isinstance(tree, dict):
        raise FormatError(
            f"{group.file.filename}: {group.name} is a list, not a tree; the file is damaged or foreign"
        )
    return tree


class _Reader:
    """Reads groups with a budget of bytes, so that a crafted file cannot exhaust memory."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def consume(self, group: h5py.Group, size: int) -> None:
        """Subtract a size from the budget.

        Raises:
            FormatError: If the budget is used up.
        """
        self.budget -= size
        if self.budget < 0:
            raise FormatError(
                f"{group.file.filename}: {group.name} declares more than the file holds; the file is damaged "
                "or crafted"
            )

    def group(self, group: h5py.Group, depth: int) -> Tree:
        if depth > MAXIMUM_DEPTH:
            raise FormatError(
                f"{group.file.filename}: more than {MAXIMUM_DEPTH} levels of groups; the file is damaged or "
                "crafted"
            )
        items: dict[str, Any] = {}
        for name in group.attrs:
            items[_decode_name(name)] = value = read_attribute(group, name)
            self.consume(group, len(value) if isinstance(value, (str, list, dict)) else 1)
        for name in group:
            item = group[name]
            items[_decode_name(name)] = (
                self.group(item, depth + 1) if isinstance(item, h5py.Group) else self.array(item)
            )
        if _LIST in group.attrs:
            length = items.pop(_LIST)
            if (
                type(length) is not int
                or set(items) != {str(index) for index in range(len(items))}
                or length != len(items)
            ):
                raise FormatError(
                    f"{group.file.filename}: the list {group.name} is not complete; the file is damaged"
                )
            return [items[str(index)] for index in range(length)]
        return items

    def array(self, dataset: h5py.Dataset) -> NDArray[Any]:
        self.consume(dataset.parent, math.prod(dataset.shape) * dataset.dtype.itemsize)
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.read_direct(array)
        return array
