"""What rank 0 tells the others before numpy is loaded: how many threads numpy is to have is part of it.

Called by runtime/entry.py. Imports nothing but mpi4py; importing it initialises MPI.
"""

from __future__ import annotations

import struct
import time

from mpi4py import MPI

LENGTH = struct.Struct("<Q")
SHORTEST_NAP, LONGEST_NAP = 5e-5, 5e-3


def is_first() -> bool:
    """Whether this is rank 0."""
    return bool(MPI.COMM_WORLD.Get_rank() == 0)


def broadcast_at_start(payload: bytes | None) -> bytes | None:
    """Rank 0's payload (None elsewhere) on every rank, asleep while they wait; None where a rank has died.
    Collective.
    """
    try:
        length = bytearray(LENGTH.pack(0 if payload is None else len(payload)))
        _complete(MPI.COMM_WORLD.Ibcast([length, MPI.BYTE], 0))
        data = bytearray(LENGTH.unpack(length)[0] if payload is None else payload)
        _complete(MPI.COMM_WORLD.Ibcast([data, MPI.BYTE], 0))
    except MPI.Exception:
        return None
    return bytes(data)


def _complete(request: MPI.Request) -> None:
    nap = SHORTEST_NAP
    while not request.Test():
        time.sleep(nap)
        nap = min(LONGEST_NAP, 1.5 * nap)
