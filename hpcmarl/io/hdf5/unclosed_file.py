"""A view of an HDF5 file whose writer was killed, as if the file had been closed.

The marks of an open writer are cleared in memory only. HDF5's own SWMR reader is not used: it assumes that
the writer is running, and waits for minutes if metadata are cut off. Through this view such damage is an
error at once.

A superblock of version 2 or 3 with 8-byte addresses (little-endian) consists of: signature 8 bytes, version
1, size of addresses 1, size of lengths 1, consistency flags 1, base address 8, extension address 8, end of
file 8, root address 8, checksum 4.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import open_regular

_FLAGS, _END, _CHECKSUM, _SIZE = 11, 28, 44, 48
_WORD = 0xFFFFFFFF
# Consistency flags. ShardFile sets the second one when all datasets exist.
_WRITING, _SWMR_WRITING = 1, 4


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _WORD


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins' lookup3 hash (hashlittle, 2006), which HDF5 uses as the checksum of metadata.

    Args:
        data: At least one byte.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    data += bytes(-len(data) % 12)
    for place in range(0, len(data), 12):
        a = (a + int.from_bytes(data[place : place + 4], "little")) & _WORD
        b = (b + int.from_bytes(data[place + 4 : place + 8], "little")) & _WORD
        c = (c + int.from_bytes(data[place + 8 : place + 12], "little")) & _WORD
        if place + 12 == len(data):
            break
        for bits in (4, 6, 8, 16, 19, 4):  # the words change places after each round
            a = ((a - c) & _WORD) ^ _rotate(c, bits)
            a, b, c = b, (c + b) & _WORD, a
    for bits in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - _rotate(b, bits)) & _WORD, a
    return b


def has_beginning(path: Path) -> bool:
    """Return whether the file can contain rows.

    It cannot if its writer was killed while it still laid out the file.

    Raises:
        FormatError: If it is not a regular file.
        OSError: If it cannot be read.
    """
    with open_regular(path) as stream:
        head = stream.read(_FLAGS + 1)
    if not any(head):
        return False  # empty, or the superblock was still in the memory of the writer
    flags = head[_FLAGS] if len(head) > _FLAGS and head[0] == 0x89 else 0
    return not flags & _WRITING or bool(flags & _SWMR_WRITING)


class UnclosedHDF5File(io.RawIOBase):
    """A read-only view of a file that its writer did not close.

    The repr is the path, which h5py reports as the name of the file.

    Args:
        path: The file.

    Raises:
        FormatError: If the file has no superblock that hpcmarl writes.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = path.open("rb", buffering=0)
        head = bytearray(self._file.read(_SIZE) or b"")
        if len(head) < _SIZE or head[8] not in (2, 3) or head[9] != 8:
            self._file.close()
            raise FormatError(
                f"{path}: its writer was killed before it had laid out the file, or hpcmarl did not write it"
            )
        head[_FLAGS] = 0
        head[_END:36] = os.fstat(self._file.fileno()).st_size.to_bytes(8, "little")
        head[_CHECKSUM:] = lookup3(bytes(head[:_CHECKSUM])).to_bytes(4, "little")
        self._head = bytes(head)

    def __repr__(self) -> str:
        return str(self.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        place = self._file.tell()
        count = self._file.readinto(buffer) or 0
        if place < _SIZE:
            patched = self._head[place : place + count]
            memoryview(buffer)[: len(patched)] = patched
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
