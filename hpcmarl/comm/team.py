"""A world inside the job's world: the ranks that train one member of a league for one term. Made by
league/runtime/client.py.

To the roles of such a team it is a transport as any other, with ranks from 0; the client of the job's world
hands in what comes for it (`deliver`) and whom the job has lost (`lose`). Messages of other teams and of
earlier terms never get here: the header says `world`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from hpcmarl.comm.protocol import Buffer, set_team
from hpcmarl.comm.transport import Message, Reduction, Regrouping, SendHandle, Transport
from hpcmarl.errors import HpcmarlError, LaunchError
from hpcmarl.types import Array

BEGINNING = "a team begins with the word of the league's server"  # so nothing is collective there


class TeamTransport(Transport):
    """`ranks`: those of the job, in the order of their numbers in the team; `world`: the number of the term,
    from 1.
    """

    def __init__(self, job: Transport, ranks: Sequence[int], world: int) -> None:
        self.job, self.ranks, self.world = job, tuple(ranks), world
        self.rank, self.size = self.ranks.index(job.rank), len(self.ranks)
        self.host, self.survives = job.host, job.survives
        self._inbox: deque[Message] = deque()
        self._lost: list[int] = []
        self._buried: set[int] = set()

    # ---- for the client

    def deliver(self, message: Message) -> None:
        """Take over a message that came for this world, and its release."""
        source = self.ranks.index(message.source)
        if source in self._buried:
            message.release()
        else:
            self._inbox.append(Message(message.header, message.buffer, source, message.release))

    def lose(self, rank: int) -> None:
        """The job has lost this rank (its number there)."""
        self._lost.append(self.ranks.index(rank))

    # ---- for the roles

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        if destination in self._buried:
            return SendHandle()
        set_team(buffer, self.world)
        return self.job.send(self.ranks[destination], buffer)

    def shares_memory(self, destination: int) -> bool:
        return self.job.shares_memory(self.ranks[destination])

    def receive(self) -> Message | None:
        return self._inbox.popleft() if self._inbox else None

    def lost(self) -> list[int]:
        found, self._lost = self._lost, []
        return found

    def mark_failed(self, rank: int) -> None:
        self._buried.add(rank)

    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        return []

    def close(self, seconds: float | None = None) -> None:
        """Give back what nobody has read; the job's world goes on."""
        while self._inbox:
            self._inbox.popleft().release()

    def abort(self) -> None:
        self.job.abort()

    # ---- what a team has not: its members neither sum nor start processes

    def replace(self, rank: int, payload: bytes) -> None:
        raise HpcmarlError("a league replaces no dead ranks")

    def reach_through(self, rank: int, relay: int) -> None:
        raise HpcmarlError("a league replaces no dead ranks")

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        raise HpcmarlError("a league has one learner a member: there is nothing to sum")

    def start_sum(self, vector: Array) -> Reduction:
        raise HpcmarlError("a league has one learner a member: there is nothing to sum")

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        raise HpcmarlError("a league has one learner a member: there is nothing to sum")

    def broadcast(self, payload: bytes | None) -> bytes:
        raise HpcmarlError(BEGINNING)

    def gather(self, payload: bytes) -> list[bytes]:
        raise HpcmarlError(BEGINNING)

    def gather_at_first(self, payload: bytes) -> list[bytes]:
        raise HpcmarlError(BEGINNING)

    def gather_hosts(self) -> list[str]:
        raise HpcmarlError(BEGINNING)
