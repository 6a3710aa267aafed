"""Packing of nested dictionaries of arrays and plain values into one buffer, and a checksum over them.

No pickle is involved. A tree is a dict, list, array, str, int (up to 128 bits), float, bool or None. Tuples
become lists, and numpy scalars become plain numbers. Layout of a buffer, little-endian:

    8 bytes magic | uint64 length of the header | header: JSON | the arrays in the order of the header,
    each at an offset that is a multiple of 16

In the header a dict is ["d", {key: node}], a list ["l", [nodes]] and an array ["a", dtype, shape]. Plain
values stand for themselves. Arrays follow each other and cannot overlap, so unpacking never needs more memory
than a few times the size of the buffer.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import ProtocolError

MAGIC = b"hpcmarl\x01"
ALIGNMENT = 16
MAXIMUM_DEPTH = 64
MAXIMUM_INTEGER = 1 << 128

_PREFIX = struct.Struct("<8sQ")
_DTYPE = re.compile(r"(\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]c(8|16))")

Tree = Any
Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]


def plain(value: Tree) -> Tree:
    """Turn a numpy scalar into a plain number; return other values unchanged.

    Only the value itself is checked: the items of a container are not.

    Raises:
        TypeError: If a tree cannot hold the value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, float, str, dict, list, tuple)):
        return value
    if isinstance(value, int):
        if abs(value) >= MAXIMUM_INTEGER:
            raise TypeError(
                "a tree holds integers of up to 128 bits; use an array or a string for larger ones"
            )
        return value
    if isinstance(value, np.ndarray):
        if not _DTYPE.fullmatch(value.dtype.str):
            raise TypeError(
                f"a tree holds arrays of bool, int, float and complex numbers, not {value.dtype}; convert it"
            )
        return value
    raise TypeError(
        f"a tree holds dict, list, array, str, int, float, bool and None, not {type(value).__name__}; "
        "convert it"
    )


def _flatten(value: Tree, arrays: list[NDArray[Any]], depth: int = 0, *, ordered: bool = False) -> Any:
    if depth > MAXIMUM_DEPTH:
        raise TypeError(f"a tree is at most {MAXIMUM_DEPTH} levels deep; is there a cycle?")
    value = plain(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys of a tree are strings, not {key!r}")
        keys = sorted(value) if ordered else value
        return ["d", {key: _flatten(value[key], arrays, depth + 1, ordered=ordered) for key in keys}]
    if isinstance(value, (list, tuple)):
        return ["l", [_flatten(item, arrays, depth + 1, ordered=ordered) for item in value]]
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ["a", value.dtype.str, list(value.shape)]
    return value


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def pack(tree: Tree) -> bytearray:
    """Pack a tree into one buffer, with a single copy of each array.

    Raises:
        TypeError: If a tree cannot hold one of the values.
    """
    arrays: list[NDArray[Any]] = []
    header = json.dumps(_flatten(tree, arrays), separators=(",", ":")).encode("ascii")
    end = _PREFIX.size + len(header)
    offsets = []
    for array in arrays:
        offsets.append(_aligned(end))
        end = offsets[-1] + array.nbytes
    buffer = bytearray(end)
    _PREFIX.pack_into(buffer, 0, MAGIC, len(header))
    buffer[_PREFIX.size : _PREFIX.size + len(header)] = header
    for array, offset in zip(arrays, offsets, strict=True):
        if array.nbytes:
            target = np.frombuffer(buffer, array.dtype, array.size, offset)
            np.copyto(target.reshape(array.shape), array)
    return buffer


class _Reader:
    """Rebuilds a tree from the nodes of the header and takes its arrays from the buffer in order."""

    def __init__(self, data: memoryview, offset: int, copy: bool) -> None:
        self.data, self.offset, self.copy = data, offset, copy

    def node(self, node: Any, depth: int) -> Tree:
        if depth > MAXIMUM_DEPTH:
            raise ProtocolError(
                f"a packed tree is more than {MAXIMUM_DEPTH} levels deep: the buffer is damaged"
            )
        match node:
            case ["d", dict(items)]:
                return {key: self.node(item, depth + 1) for key, item in items.items()}
            case ["l", list(items)]:
                return [self.node(item, depth + 1) for item in items]
            case ["a", str(dtype), list(shape)]:
                return self.array(dtype, shape)
            case bool() | None | str() | float():
                return node
            case int() if abs(node) < MAXIMUM_INTEGER:
                return node
        raise ProtocolError(
            "a packed tree has an unknown node: the buffer is damaged, or of another version of hpcmarl"
        )

    def array(self, dtype: str, shape: list[Any]) -> NDArray[Any]:
        if (
            not _DTYPE.fullmatch(dtype)
            or len(shape) > 32
            or not all(type(size) is int and 0 <= size < 1 << 62 for size in shape)
        ):
            raise ProtocolError("a packed tree has an array of unknown type or shape: the buffer is damaged")
        kind = np.dtype(dtype)
        count = math.prod(shape)
        start = _aligned(self.offset)
        if count * kind.itemsize > len(self.data) - start and count:
            size = f"{count * kind.itemsize} bytes past the end of its {len(self.data)} bytes"
            raise ProtocolError(f"a packed tree has an array of {size}: the buffer is truncated")
        self.offset = start + count * kind.itemsize
        if not count:
            return np.zeros(shape, kind)
        array = np.frombuffer(self.data, kind, count, start).reshape(shape)
        return array.copy() if self.copy else array


def unpack(buffer: Buffer, *, copy: bool = True) -> Tree:
    """Return the tree that was packed into a buffer.

    Nothing outside the buffer is read, even if the buffer is damaged.

    Args:
        buffer: Result of `pack`.
        copy: Whether to copy the arrays. Otherwise they are views into the buffer, read-only if it is.

    Raises:
        ProtocolError: If the buffer is truncated, damaged or does not come from `pack`.
    """
    data: memoryview = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    if data.nbytes < _PREFIX.size:
        raise ProtocolError(f"a packed tree has at least {_PREFIX.size} bytes, this buffer has {data.nbytes}")
    data = data.cast("B")
    magic, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError("a buffer is not a packed tree, or of another version of hpcmarl")
    if length > len(data) - _PREFIX.size:
        raise ProtocolError(
            f"a packed tree's header of {length} bytes passes the end of its {len(data)} bytes: the buffer "
            "is truncated"
        )
    try:
        header = json.loads(bytes(data[_PREFIX.size : _PREFIX.size + length]))
        return _Reader(data, _PREFIX.size + length, copy).node(header, 0)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"a packed tree's header does not parse: {error}") from error


def digest(tree: Tree) -> str:
    """Return the BLAKE2b checksum of a tree: 256 bits, in hexadecimal.

    It covers names, values, types, shapes and bytes. The order of keys does not matter.

    Raises:
        TypeError: If a tree cannot hold one of the values.
    """
    arrays: list[NDArray[Any]] = []
    structure = _flatten(tree, arrays, ordered=True)
    hasher = hashlib.blake2b(json.dumps(structure).encode("ascii"), digest_size=32)
    for array in arrays:
        if array.nbytes:
            hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
