"""The transport of a process that was started in the place of a dead rank: everything goes over the rank that
started it.

Called by respawned_actor.py.
"""

from __future__ import annotations

from hpcmarl.comm.mpi.messages import Route
from hpcmarl.comm.mpi.mpi_transport import CHUNK_BYTES, MpiTransport
from hpcmarl.comm.mpi.spawn import FIRST, spawned
from hpcmarl.comm.protocol import Kind


class ReplacementTransport(MpiTransport):
    """`parent`, the rank that started this process, is the only one that it shares a communicator with.
    Without it there is no world any more: then all ranks are `lost`.
    """

    def __init__(self, process: tuple[int, int]) -> None:
        self.comm, self.rank, self.payload = spawned(process)
        self.size = self.rank + 1  # at least: see join
        self._prepare(CHUNK_BYTES)
        self.can_replace = False
        self._dead.add(self.rank)  # the one before it

    def join(self, size: int, parent: int) -> None:
        """Learn how large the world is and who `parent` is; before the first message."""
        self.size = size
        others = [rank for rank in range(size) if rank != self.rank]
        self._ways = {
            rank: Route(self.comm, FIRST, 0 if rank == parent else Kind.RELAYED + rank) for rank in others
        }
        self._sources = [(self.comm, parent)]
