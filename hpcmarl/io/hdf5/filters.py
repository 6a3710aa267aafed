"""Checks of compressed chunks before they are read.

HDF5 allocates as much memory for the output of a filter as the compressed stream asks for. So a file of one
megabyte could take gigabytes. Streams that could do this are measured here first, with little memory. Filters
that hpcmarl does not write are refused.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import h5py
import numpy as np

from hpcmarl.errors import FormatError, MissingPackageError

DEFLATE, SHUFFLE, FLETCHER32, LZF, BLOSC, ZSTD = 1, 2, 3, 32000, 32001, 32015
WRITTEN = (DEFLATE, SHUFFLE, FLETCHER32, LZF, BLOSC, ZSTD)
HARMLESS = 64 << 20  # bytes: a chunk that cannot expand past this is not measured
LARGEST_RATIO = {DEFLATE: 1032, LZF: 100}  # largest expansion that the format of the stream allows
SLACK = 64  # bytes beyond the chunk, for a checksum that was compressed with it


def check_filters(where: str, dataset: h5py.Dataset, chunk_bytes: int, *, damaged: bool = False) -> None:
    """Check the filters of a dataset, and that no chunk expands past its declared size.

    Args:
        where: File and dataset, for error messages.
        dataset: The dataset.
        chunk_bytes: Declared size of a chunk.
        damaged: Accept chunks that do not expand at all.

    Raises:
        FormatError: If hpcmarl does not write this filter pipeline, or a chunk expands past `chunk_bytes`.
        MissingPackageError: If a filter is known but not installed.
    """
    creation = dataset.id.get_create_plist()
    numbers = [creation.get_filter(position)[0] for position in range(creation.get_nfilters())]
    compressors = [position for position, number in enumerate(numbers) if number not in (SHUFFLE, FLETCHER32)]
    for number in numbers:
        if number not in WRITTEN:
            raise FormatError(f"{where} is stored with filter {number}, which hpcmarl does not write")
        _check_installed(where, number)
    if not compressors:
        return
    last = compressors[-1]
    if len(compressors) > 1 or SHUFFLE in numbers[last:]:
        raise FormatError(
            f"{where} is stored with the filters {numbers}, an order that hpcmarl does not write"
        )
    _check_chunks(where, dataset, numbers[last], last, chunk_bytes, damaged=damaged)


def _check_installed(where: str, number: int) -> None:
    if h5py.h5z.filter_avail(number):
        return
    try:
        import hdf5plugin  # noqa: F401  (registers its filters)
    except ImportError:
        raise MissingPackageError(
            f"{where} is compressed with filter {number}, which is not installed; pip install hdf5plugin"
        ) from None
    if not h5py.h5z.filter_avail(number):
        raise FormatError(
            f"{where} is compressed with filter {number}, which neither h5py nor hdf5plugin knows"
        )


def _check_chunks(
    where: str, dataset: h5py.Dataset, number: int, position: int, chunk_bytes: int, *, damaged: bool
) -> None:
    ratio = LARGEST_RATIO.get(number)
    doubtful: list[Any] = []

    def look(chunk: Any) -> None:
        if not chunk.filter_mask & (1 << position) and (ratio is None or chunk.size * ratio > HARMLESS):
            doubtful.append(chunk)

    dataset.id.chunk_iter(look)
    if not doubtful:
        return
    allowed = chunk_bytes + SLACK
    with open(dataset.file.filename, "rb", buffering=0) as stream:
        for chunk in doubtful:
            expanded = _expanded(stream.fileno(), number, chunk, allowed)
            if expanded > allowed or (expanded < 0 and not damaged):
                raise FormatError(
                    f"{where} has a chunk that does not expand to its {chunk_bytes} bytes; the file is "
                    "damaged or crafted"
                )


def _expanded(descriptor: int, number: int, chunk: Any, limit: int) -> int:
    """Return the number of bytes to which a stored chunk expands.

    Returns:
        At most slightly more than `limit`; -1 if the stream is not in the format of the filter.
    """
    if number == DEFLATE:
        return _deflated(descriptor, chunk.byte_offset, chunk.size, limit)
    if number == LZF:
        return _lzf(os.pread(descriptor, chunk.size, chunk.byte_offset))
    head = os.pread(descriptor, min(chunk.size, 18), chunk.byte_offset)
    if number == BLOSC:
        return int.from_bytes(head[4:8], "little") if len(head) >= 16 else -1
    return _zstd(head)


def _deflated(descriptor: int, offset: int, size: int, limit: int) -> int:
    expand = zlib.decompressobj()
    total, end = 0, offset + size
    try:
        while offset < end and not expand.eof and total <= limit:
            piece = os.pread(descriptor, min(1 << 16, end - offset), offset)
            if not piece:
                return -1
            offset += len(piece)
            while piece and not expand.eof and total <= limit:
                total += len(expand.decompress(piece, 1 << 20))
                piece = expand.unconsumed_tail
    except zlib.error:
        return -1
    return total


def _lzf(stream: bytes) -> int:
    """Add up the lengths of literal runs (control byte < 32) and of copies, without expanding them."""
    total = place = 0
    while place < len(stream):
        control = stream[place]
        if control < 32:
            total, place = total + control + 1, place + control + 2
        elif control < 224:
            total, place = total + (control >> 5) + 2, place + 2
        else:
            total, place = total + 9 + (stream[place + 1] if place + 1 < len(stream) else 0), place + 3
    return total


def _zstd(head: bytes) -> int:
    """Return the content size that the frame declares (RFC 8878, 3.1.1.1); -1 if it declares none.

    The filter reads nothing from a frame without this size.
    """
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return -1
    single = head[4] >> 5 & 1
    size = (single, 2, 4, 8)[head[4] >> 6]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[head[4] & 3]
    field = head[start : start + size]
    if size == 0 or len(field) < size:
        return -1
    return int.from_bytes(field, "little") + (256 if size == 2 else 0)


def fletcher32_fits(data: bytes, checksum: bytes) -> bool:
    """Return whether HDF5 would store this checksum for these bytes of a chunk.

    The checksum consists of sums over 16-bit big-endian words; an odd last byte is the high byte of a word.
    HDF5 has two representations of zero, so sums are compared modulo 65,535.

    Args:
        data: Bytes of the chunk.
        checksum: Four bytes that follow it in the file.

    Source:
        H5_checksum_fletcher32 of HDF5.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.int64)
    simple = weighted = 0
    for first in range(0, len(words), 1 << 16):
        block = words[first : first + (1 << 16)]
        later = len(words) - first - np.arange(len(block), dtype=np.int64)
        simple += int(block.sum())
        weighted += int((block * (later % 65_535)).sum())
    stored = int.from_bytes(checksum, "little")
    return simple % 65_535 == (stored & 0xFFFF) % 65_535 and weighted % 65_535 == (stored >> 16) % 65_535
