"""Files of the trace of one rank: parts of limited size, of which the newest are kept.

The parts form a ring: when PARTS of them are full, the oldest is removed. A long run keeps its newest spans.
Each part begins with the whole header, so it can be read alone. Errors of the disk never stop training.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any

from hpcmarl.io.atomic import storage_error
from hpcmarl.tracing.blocks import CLOCKS, HEAD, MAGIC, SPANS, pack_block

logger = logging.getLogger(__name__)
PARTS = 4
RETRY_SECONDS = 10.0  # after an error of the disk


class PartFiles:
    """Appends blocks to the newest part.

    Args:
        directory: Directory of the parts; made when the first block is written.
        name: Name of the parts without number and ending.
        header: Content of the HEAD block, for JSON.
        limit: Largest number of bytes of all parts together.

    Attributes:
        part: Number of the newest part, from 0.
        lost: Spans that could not be written.
    """

    def __init__(self, directory: Path, name: str, header: Mapping[str, Any], limit: int) -> None:
        self.directory, self.name, self.header = directory, name, dict(header)
        self.part = self.lost = 0
        self._part_bytes = limit // PARTS
        self._stream: FileIO | None = None
        self._bytes = 0  # of the newest part; 0: it is not begun
        self._warned = False
        self._retry_at = 0.0

    def path(self, part: int) -> Path:
        """Return the path of a part."""
        return self.directory / f"{self.name}.{part:04d}.trace"

    def add_spans(self, records: memoryview, count: int) -> None:
        """Write records of spans.

        Args:
            records: Their bytes; copied.
            count: Their number.
        """
        if not self._add(pack_block(SPANS, records)):
            self.lost += count

    def add_clocks(self, clocks: Mapping[str, Any]) -> None:
        """Write the clocks of all hosts, measured at the end."""
        self._add(pack_block(CLOCKS, json.dumps(clocks).encode()))

    def _add(self, block: bytes) -> bool:
        """Write a block; return whether it is written."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            if self._bytes and self._bytes + len(block) > self._part_bytes:
                self._begin_next()
            self._append(block)
            return True
        except OSError as error:
            self._fail(error)
            return False

    def _begin_next(self) -> None:
        self.close()
        self.part, self._bytes = self.part + 1, 0
        if self.part >= PARTS:
            self.path(self.part - PARTS).unlink(missing_ok=True)

    def _append(self, block: bytes) -> None:
        if self._stream is None and self._bytes:
            self._stream = FileIO(self.path(self.part), "ab")
            if (
                self._stream.seek(0, SEEK_END) != self._bytes
            ):  # removed or changed by somebody: begin it again
                self.close()
                self._bytes = 0
        if not self._bytes:
            self.directory.mkdir(parents=True, exist_ok=True)
            header = {**self.header, "part": self.part, "lost": self.lost}
            block = MAGIC + pack_block(HEAD, json.dumps(header).encode()) + block
        if self._stream is None:
            self._stream = FileIO(self.path(self.part), "wb")
        rest = memoryview(block)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self._stream.write(rest) or 0 :]
        self._bytes += len(block)

    def _fail(self, error: OSError) -> None:
        """Remove what was written of the last block, warn once, and write nothing for a while."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s; training continues, spans of the trace are lost",
                storage_error(self.path(self.part), "write the trace", error),
            )
        self._retry_at = time.monotonic() + RETRY_SECONDS
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.truncate(self._bytes)
        self.close()

    def close(self) -> None:
        """Close the newest part. Later blocks open it again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
