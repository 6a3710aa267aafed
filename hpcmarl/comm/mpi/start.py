"""Broadcast of the configuration before numpy is loaded.

The configuration contains the number of numpy's threads, which must be set before the import of numpy. This
module therefore imports only mpi4py. Importing it initialises MPI.
"""

from __future__ import annotations

import struct
import time

from mpi4py import MPI

LENGTH = struct.Struct("<Q")
TEXT_BYTES = 1000
SHORTEST_NAP, LONGEST_NAP = 5e-5, 5e-3


def is_first() -> bool:
    """Return whether this is rank 0."""
    return bool(MPI.COMM_WORLD.Get_rank() == 0)


def broadcast_at_start(payload: bytes | None) -> bytes | None:
    """Return rank 0's payload on every rank. Collective; waiting ranks sleep.

    Args:
        payload: The payload on rank 0; None on the other ranks.

    Returns:
        The payload; None if a rank has died.
    """
    try:
        length = bytearray(LENGTH.pack(0 if payload is None else len(payload)))
        _complete(MPI.COMM_WORLD.Ibcast([length, MPI.BYTE], 0))
        data = bytearray(LENGTH.unpack(length)[0] if payload is None else payload)
        _complete(MPI.COMM_WORLD.Ibcast([data, MPI.BYTE], 0))
    except MPI.Exception:
        return None
    return bytes(data)


def gather_at_start(text: str) -> list[str]:
    """Return the texts of all ranks on rank 0, each cut to TEXT_BYTES. Collective; waiting ranks sleep.

    Returns:
        The texts by rank; an empty list on other ranks, or if a rank has died.
    """
    own = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
    everyone = bytearray(TEXT_BYTES * MPI.COMM_WORLD.Get_size() if is_first() else 0)
    try:
        _complete(MPI.COMM_WORLD.Igather([own, MPI.BYTE], [everyone, MPI.BYTE], 0))
    except MPI.Exception:
        return []
    return [
        bytes(everyone[place : place + TEXT_BYTES]).rstrip(b"\0").decode(errors="replace")
        for place in range(0, len(everyone), TEXT_BYTES)
    ]


def _complete(request: MPI.Request) -> None:
    nap = SHORTEST_NAP
    while not request.Test():
        time.sleep(nap)
        nap = min(LONGEST_NAP, 1.5 * nap)
