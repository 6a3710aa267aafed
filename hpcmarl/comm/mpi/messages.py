"""MPI requests of messages under way, and their handling when the other process dies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer
from hpcmarl.comm.reductions.mpi_allreduce import is_death
from hpcmarl.comm.transport import SendHandle

# A message of at most this length travels with its envelope, so it has arrived as soon as it is matched. The
# limits in Open MPI and MPICH are 4 KiB and more.
SMALL_BYTES = 1024
POOLED_BUFFERS = 8  # free buffers kept of each size


def complete(requests: list[Any]) -> bool | None:
    """Return whether all requests are complete; None if the other process has died."""
    try:
        return bool(MPI.Request.Testall(requests))
    except MPI.Exception as error:
        if not is_death(error):
            raise
        return None


class MpiHandle(SendHandle):
    """Requests of one message, and its buffer, which must exist until they are complete.

    The message also counts as done if the receiver has died.
    """

    __slots__ = ("buffer", "requests")

    def __init__(self, requests: list[Any], buffer: Buffer) -> None:
        self.requests = requests
        self.buffer = buffer

    def done(self) -> bool:
        if self.requests and (complete(self.requests) is not False):
            self.requests = []
        return not self.requests


class Route(NamedTuple):
    """Route to a rank.

    Attributes:
        comm: Communicator to send on.
        peer: Rank in this communicator that receives the messages.
        relay: MPI tag for messages that the peer passes on; 0: the peer is the destination itself.
    """

    comm: Any
    peer: int
    relay: int = 0


class BufferPool:
    """Receive buffers for reuse; their sizes are rounded up to powers of two."""

    def __init__(self) -> None:
        self._free: dict[int, list[Buffer]] = {}

    def take(self, size: int) -> Buffer:
        """Return a buffer of at least `size` bytes."""
        capacity = 1 << max(9, (max(size, HEADER_BYTES) - 1).bit_length())
        free = self._free.get(capacity)
        return free.pop() if free else np.empty(capacity, np.uint8)

    def give(self, buffer: Buffer) -> None:
        """Put a buffer back into the pool."""
        free = self._free.setdefault(buffer.nbytes, [])
        if len(free) < POOLED_BUFFERS:
            free.append(buffer)


class Incoming:
    """A message that is being received.

    Attributes:
        source: Rank of the sender.
        destination: Final receiver of a relayed message; None for other messages.
        buffer: Header and payload.
        capacity: Buffer of the pool of which `buffer` is a part.
        requests: Receive requests of the message or of its chunks; empty when they are complete.
        filled: Bytes received, or matched with a request; -1 if the sender has died.
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
        """Return whether the whole message has arrived; always False after the death of the sender."""
        if self.requests and (state := complete(self.requests)) is not False:
            self.requests = []
            self.filled = -1 if state is None else self.filled
        return not self.requests and self.filled >= self.buffer.nbytes


def begin(matched: Any, source: int, buffer: Buffer, capacity: Buffer, destination: int | None) -> Incoming:
    """Start receiving a matched message.

    A message of at most SMALL_BYTES is received at once, which saves the request and its tests.

    Args:
        matched: Message matched by MPI.
        source: Rank of the sender.
        buffer: Part of `capacity` with the length of the message.
        capacity: Buffer of the pool.
        destination: Final receiver of a relayed message; None for other messages.
    """
    if buffer.nbytes > SMALL_BYTES:
        return Incoming(source, buffer, capacity, matched.Irecv([buffer, MPI.BYTE]), destination)
    incoming = Incoming(source, buffer, capacity, None, destination)
    try:
        matched.Recv([buffer, MPI.BYTE])
    except MPI.Exception as error:
        if not is_death(error):
            raise
        incoming.filled = -1  # will never be complete
    return incoming
