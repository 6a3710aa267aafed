"""MPI requests of messages under way, and what becomes of them when the other side dies.

Called by comm/mpi/mpi_transport.py; knows neither kinds nor roles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer
from hpcmarl.comm.reductions.mpi_allreduce import is_death
from hpcmarl.comm.transport import SendHandle

# a message of so many bytes travels with its envelope (4 KiB and more in Open MPI and MPICH): once matched,
# it is there
SMALL_BYTES = 1024
POOLED_BUFFERS = 8  # free ones kept of each size


def complete(requests: list[Any]) -> bool | None:
    """Whether all requests are complete; None: the other side has died."""
    try:
        return bool(MPI.Request.Testall(requests))
    except MPI.Exception as error:
        if not is_death(error):
            raise
        return None


class MpiHandle(SendHandle):
    """Requests of one message; keeps the buffer alive until they are complete, or their receiver has died."""

    __slots__ = ("buffer", "requests")

    def __init__(self, requests: list[Any], buffer: Buffer) -> None:
        self.requests = requests
        self.buffer = buffer

    def done(self) -> bool:
        if self.requests and (complete(self.requests) is not False):
            self.requests = []
        return not self.requests


class Route(NamedTuple):
    """How a rank is reached: as `peer` of a communicator, in person or (`relay` > 0, the MPI tag) by a peer
    that hands messages on to it.
    """

    comm: Any
    peer: int
    relay: int = 0


class BufferPool:
    """Receive buffers that can be used again; sizes are rounded up to powers of two for that."""

    def __init__(self) -> None:
        self._free: dict[int, list[Buffer]] = {}

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes."""
        capacity = 1 << max(9, (max(size, HEADER_BYTES) - 1).bit_length())
        free = self._free.get(capacity)
        return free.pop() if free else np.empty(capacity, np.uint8)

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back."""
        free = self._free.setdefault(buffer.nbytes, [])
        if len(free) < POOLED_BUFFERS:
            free.append(buffer)


class Incoming:
    """A message being received: one request (none where it is there already), or the chunks of a large one
    still to be matched.

    `destination`: the rank that a message to be handed on is for, else None.
    """

    __slots__ = ("buffer", "capacity", "destination", "filled", "requests", "source")

    def __init__(
        self,
        source: int,
        buffer: Buffer,
        capacity: Buffer,
        request: Any | None,
        destination: int | None = None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.buffer = buffer
        self.capacity = capacity
        self.requests = [] if request is None else [request]
        self.filled = buffer.nbytes

    def complete(self) -> bool:
        """Never true again once the sender has died on the way."""
        if self.requests and (state := complete(self.requests)) is not False:
            self.requests = []
            self.filled = -1 if state is None else self.filled
        return not self.requests and self.filled >= self.buffer.nbytes


def begin(matched: Any, source: int, buffer: Buffer, capacity: Buffer, destination: int | None) -> Incoming:
    """Start receiving a matched message; a small one at once, which spares its request and the tests of
    it.
    """
    if buffer.nbytes > SMALL_BYTES:
        return Incoming(source, buffer, capacity, matched.Irecv([buffer, MPI.BYTE]), destination)
    incoming = Incoming(source, buffer, capacity, None, destination)
    try:
        matched.Recv([buffer, MPI.BYTE])
    except MPI.Exception as error:
        if not is_death(error):
            raise
        incoming.filled = -1  # never complete
    return incoming
