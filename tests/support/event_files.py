"""A reader of TensorBoard's event files that shares no code with the writer and checks every checksum."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Event:
    """One event: its step, the numbers and texts by tag, the file version and whether it is a START event."""

    step: int = 0
    wall_time: float = 0.0
    scalars: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    file_version: str = ""
    start: bool = False


def slow_crc32c(data: bytes) -> int:
    """Return the CRC-32C by bits, from the definition: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def _check(data: bytes, masked: int) -> None:
    rotated = (masked - 0xA282EAD8) % (1 << 32)
    assert (rotated >> 17 | rotated << 15) % (1 << 32) == slow_crc32c(data), "wrong checksum"


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file. A record that is cut off ends the file."""
    while len(data) >= 12:
        (length,) = struct.unpack("<Q", data[:8])
        _check(data[:8], *struct.unpack("<I", data[8:12]))
        if len(data) < length + 16:
            return
        content = data[12 : 12 + length]
        _check(content, *struct.unpack("<I", data[12 + length : 16 + length]))
        yield content
        data = data[16 + length :]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        yield number, data[place : place + size]
        place += size


def event(data: bytes) -> Event:
    """Return the event that a record holds."""
    found = Event()
    for number, value in _fields(data):
        if number == 1:
            (found.wall_time,) = struct.unpack("<d", value)
        elif number == 2:
            found.step = int(value)
        elif number == 3:
            found.file_version = bytes(value).decode()
        elif number == 5:
            for _, each in _fields(bytes(value)):
                _add(found, dict(_fields(bytes(each))))
        elif number == 7:
            found.start = dict(_fields(bytes(value)))[1] == 1
    return found


def _add(found: Event, value: dict[int, int | bytes]) -> None:
    tag = bytes(value[1]).decode()
    if 2 in value:
        (found.scalars[tag],) = struct.unpack("<f", value[2])
    else:
        found.texts[tag] = bytes(dict(_fields(bytes(value[8])))[8]).decode()


def events(directory: Path) -> list[Event]:
    """Return the events of all files of a directory, in the order in which TensorBoard reads them."""
    paths = sorted(directory.glob("*tfevents*"))
    return [event(data) for path in paths for data in records(path.read_bytes())]


def rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows that the points form, one a version, each with its step as `step`.

    Points that a later START event drops are left out.
    """
    found: list[dict[str, float]] = []
    for each in events(directory):
        if each.start:
            found = [row for row in found if row["step"] < each.step]
        if not each.scalars:
            continue
        again = (
            found and each.scalars.get("run/version", found[-1]["run/version"]) == found[-1]["run/version"]
        )
        if not again:
            found.append({})
        found[-1] |= {"step": each.step, **each.scalars}
    return found


def curve(directory: Path, tag: str) -> list[tuple[int, float]]:
    """Return step and value of the points of a tag that TensorBoard shows: START drops later points."""
    points: list[tuple[int, float]] = []
    for each in events(directory):
        if each.start:
            points = [point for point in points if point[0] < each.step]
        if tag in each.scalars:
            points.append((each.step, each.scalars[tag]))
    return points
