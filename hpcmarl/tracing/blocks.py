"""Blocks of a trace file.

A file is MAGIC, then blocks. A block is its tag, length and checksum, then its content:

    HEAD  JSON: rank, roles, host, clock and names of spans (the first block of each part)
    SPAN  records of spans (tracing/spans.py)
    CLCK  JSON: clocks of the hosts, measured again at the end of the run (rank 0 only)

A killed run ends anywhere in a block. Readers stop at the first block that is incomplete or whose checksum is
wrong.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from hpcmarl.errors import FormatError

MAGIC = b"HPCMTRC1"
PREFIX = struct.Struct("<4sII")
HEAD, SPANS, CLOCKS = b"HEAD", b"SPAN", b"CLCK"
LARGEST_BLOCK = 64 << 20  # bytes; longer ones are damage


def pack_block(tag: bytes, content: bytes | memoryview) -> bytes:
    """Return a block as it is in a file."""
    return PREFIX.pack(tag, len(content), zlib.crc32(content)) + bytes(content)


def read_blocks(stream: BinaryIO, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the tag and the content of each whole block.

    Args:
        stream: The file, at its beginning.
        name: Its name, for the error.

    Raises:
        FormatError: The file is not a trace.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise FormatError(f"{name}: not a trace of hpcmarl, or damaged at its beginning; remove the file")
    while len(prefix := stream.read(PREFIX.size)) == PREFIX.size:
        tag, length, checksum = PREFIX.unpack(prefix)
        if length > LARGEST_BLOCK:
            return
        content = stream.read(length)
        if len(content) < length or zlib.crc32(content) != checksum:
            return
        yield tag, content
