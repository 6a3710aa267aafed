"""A reader of the files that wandb writes offline."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes of a block, as in the logs of LevelDB
HEADER = 7  # bytes of the file's head, and of the head of a part of a record
# Runs at the start of every Python process that has its folder on PYTHONPATH.
NO_SOCKETS = """
import socket

connect = socket.socket.connect


def local_only(self, address):
    if self.family != socket.AF_UNIX:
        raise RuntimeError(f"a connection to {address} in a test that forbids it")
    return connect(self, address)


socket.socket.connect = local_only
"""


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts += data[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def history(run: Path) -> list[dict[str, Any]]:
    """Return the rows of all offline runs below RUN/wandb in order, each with its step as `_step`."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in _records(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") != "history":
                continue
            items = record.history.item
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            rows.append({**row, "_step": record.history.step.num})
    return rows


def without_network(folder: Path) -> dict[str, str]:
    """Return environment variables under which Python processes connect to Unix sockets only."""
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**own, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
