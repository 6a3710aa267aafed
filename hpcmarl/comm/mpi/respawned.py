"""Transport of a process that replaces a dead rank."""

from __future__ import annotations

from hpcmarl.comm.mpi.messages import Route
from hpcmarl.comm.mpi.mpi_transport import CHUNK_BYTES, MpiTransport
from hpcmarl.comm.mpi.spawn import FIRST, spawned
from hpcmarl.comm.protocol import Kind


class ReplacementTransport(MpiTransport):
    """Transport that exchanges all messages through the parent, the rank that started this process.

    The parent is the only rank with which this process shares a communicator. If it dies, all ranks are
    reported as `lost`.

    Args:
        process: Process number and start time of this process (launch/processes.py).

    Attributes:
        payload: Data that the parent has sent at the start.
    """

    def __init__(self, process: tuple[int, int]) -> None:
        self.comm, self.rank, self.payload = spawned(process)
        self.size = self.rank + 1  # a lower bound until join() sets the number of ranks
        self._prepare(CHUNK_BYTES)
        self.can_replace = False
        self._dead.add(self.rank)  # the former process with this rank

    def join(self, size: int, parent: int) -> None:
        """Set the routes to all ranks; must precede the first message.

        Args:
            size: Number of ranks in the world.
            parent: Rank of the process that started this one.
        """
        self.size = size
        others = [rank for rank in range(size) if rank != self.rank]
        self._routes = {
            rank: Route(self.comm, FIRST, 0 if rank == parent else Kind.RELAYED + rank) for rank in others
        }
        self._sources = [(self.comm, parent)]
