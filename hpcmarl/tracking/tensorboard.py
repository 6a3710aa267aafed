"""Event files of TensorBoard, written without TensorBoard.

A file is a sequence of records: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the
data, all in little-endian order. The data of a record is a protobuf message `Event`.

The package tensorboardX writes the same files, but imports torch, which the server's rank does not need.

Source: tensorflow/core/lib/io/record_writer.cc (framing); tensorflow/core/util/event.proto,
tensorflow/core/framework/summary.proto and tensor.proto (field numbers).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hpcmarl.tracking.base import Place, Tracker

logger = logging.getLogger(__name__)
FOLDER = "tensorboard"
MOST_PENDING = 1000  # records that are kept while the disk fails
POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
FILE_VERSION = "brain.Event:2"
START = 1  # SessionLog.status: TensorBoard drops earlier points at and after the step of this event
STRING = 7  # DataType.DT_STRING
LARGEST = 3.4028234e38  # of float32
NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> bytes:
    """Return the masked CRC-32C of a record, 4 bytes."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """Return the record that holds some data."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc32c(length) + data + masked_crc32c(data)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _event(step: int, content: bytes) -> bytes:
    """Return the record of an Event: wall_time = 1, step = 2, then the content."""
    return record(struct.pack("<Bd", 1 << 3 | 1, time.time()) + _number(2, max(0, step)) + content)


def scalar_value(tag: str, value: float) -> bytes:
    """Return a Summary.Value with a number: tag = 1, simple_value = 2."""
    return _bytes(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, value)


def text_value(tag: str, text: str) -> bytes:
    """Return a Summary.Value for the text plugin: tag = 1, tensor = 8, metadata = 9."""
    tensor = _number(1, STRING) + _bytes(2, b"") + _bytes(8, text.encode())
    plugin = _bytes(1, _bytes(1, b"text"))
    return _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, plugin)


def tag_of(name: str) -> str:
    """Return the tag of a metric. TensorBoard groups tags by their first part."""
    return name if "/" in name else f"run/{name}"


class TensorBoard(Tracker):
    """Writes one event file for each start of a run, below RUN/tensorboard/.

    The step of a point is the number of environment steps. A resumed run begins its file with a START event,
    at which TensorBoard drops points of earlier files that this start supersedes. Superseded points at the
    step of the checkpoint itself stay, since TensorBoard identifies points by their steps only.

    The last row of a start can repeat a version. Then only changed figures get a second point.

    While the disk fails, records wait in memory, and the next row tries again. A record is written with one
    call, at the end of the last complete one, so a full disk leaves no damaged record inside the file.
    """

    def __init__(self, place: Place) -> None:
        self.directory = place.directory / FOLDER
        self._path: Path | None = None
        self._file: int | None = None
        self._end = 0  # bytes of complete records
        self._failing, self._lost = False, 0
        self._pending: deque[bytes] = deque(maxlen=MOST_PENDING)
        self._last: tuple[int, dict[str, float]] = (-1, {})
        self._step = place.env_steps
        head = _event(0, _bytes(3, FILE_VERSION.encode()))
        if place.supersedes:
            # The point at the resumed step itself stays.
            step = 0 if place.version is None else place.env_steps + 1
            head += _event(step, _bytes(7, _number(1, START)))
        self._head = head
        self._write()

    def row(self, version: int, env_steps: int, seconds: float, figures: Mapping[str, float]) -> None:
        self._step = env_steps
        values = {"version": float(version), "seconds": seconds, **figures}
        last, before = self._last
        if last != version:
            before = {}
        changed = {
            name: value
            for name, value in values.items()
            if abs(value) <= LARGEST and before.get(name) != value
        }
        self._last = (version, {**before, **changed})
        if changed:
            content = b"".join(
                _bytes(1, scalar_value(tag_of(name), value)) for name, value in changed.items()
            )
            self._write(_event(env_steps, _bytes(5, content)))

    def config(self, values: Mapping[str, Any]) -> None:
        self._text("config", values)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._text("summary", values)

    def _text(self, tag: str, values: Mapping[str, Any]) -> None:
        # Markdown shows indented lines unchanged.
        text = "\n".join(f"    {line}" for line in json.dumps(values, indent=2, default=str).splitlines())
        self._write(_event(self._step, _bytes(5, _bytes(1, text_value(tag, text)))))

    def close(self) -> None:
        self._write()
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.fsync(file)
            os.close(file)
        if lost := self._lost + len(self._pending):
            logger.warning("%s lacks %d rows; metrics.csv has all rows", self.directory, lost)
            self._lost = 0
            self._pending.clear()

    def _write(self, data: bytes | None = None) -> None:
        """Write the waiting records and some more; keep them if the disk fails."""
        if data is not None:
            self._lost += len(self._pending) == MOST_PENDING
            self._pending.append(data)
        try:
            if self._file is None:
                self._open()
            if self._end == 0:
                self._put(self._head)
            while self._pending:
                self._put(self._pending[0])
                self._pending.popleft()
        except OSError as error:
            if not self._failing:
                logger.warning(
                    "%s: cannot write: %s; training continues, the next rows try again",
                    self._path or self.directory,
                    error.strerror or error,
                )
            self._failing = True
            return
        self._failing = False

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, whatever the clocks of the hosts say.
        earlier = [int(found[1]) for path in self.directory.iterdir() if (found := NAME.match(path.name))]
        stamp = max([int(time.time()), *(number + 1 for number in earlier)])
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
        self._path = self.directory / f"events.out.tfevents.{stamp:010d}.{host}.{os.getpid()}.0"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._end = 0

    def _put(self, data: bytes) -> None:
        """Write one record behind the last complete one."""
        assert self._file is not None
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._end + written)
        self._end += len(data)
