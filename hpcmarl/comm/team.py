"""Transport among the ranks that train one member of a league during one training assignment.

Roles of a team use it like any other transport, with ranks counted from 0. The league's client on this rank
passes in the messages for the team (`deliver`) and the ranks that the job has lost (`lose`). The `team` field
of the header keeps messages of other teams and of earlier assignments away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hpcmarl.comm.protocol import Buffer, set_team
from hpcmarl.comm.transport import Message, Reduction, Regrouping, SendHandle, Transport
from hpcmarl.errors import HpcmarlError, LaunchError

NOT_COLLECTIVE = "a team has no collective calls: it starts with an assignment from the league's server"
NO_REPLACEMENT = "a league does not replace dead ranks"
NO_SUMS = "a league has one learner per member, so it has no sums over learners"


class TeamTransport(Transport):
    """Transport of one rank of a team.

    Args:
        job: Transport of the whole job.
        ranks: Ranks of the team in the job. Their order gives their ranks in the team.
        world: Number of the training assignment, from 1; the `team` field of the header.
    """

    def __init__(self, job: Transport, ranks: Sequence[int], world: int) -> None:
        self.job, self.ranks, self.world = job, tuple(ranks), world
        self.rank, self.size = self.ranks.index(job.rank), len(self.ranks)
        self.host, self.survives = job.host, job.survives
        self._inbox: deque[Message] = deque()
        self._lost: list[int] = []
        self._failed: set[int] = set()

    # ---- called by the league's client

    def deliver(self, message: Message) -> None:
        """Queue a message that the job's transport received for this team.

        Args:
            message: Message from a rank of the team. This transport now owns it and will release it.
        """
        source = self.ranks.index(message.source)
        if source in self._failed:
            message.release()
        else:
            self._inbox.append(Message(message.header, message.buffer, source, message.release))

    def lose(self, rank: int) -> None:
        """Note that a rank of the team is lost.

        Args:
            rank: Its rank in the job.
        """
        self._lost.append(self.ranks.index(rank))

    # ---- called by the roles

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        if destination in self._failed:
            return SendHandle()
        set_team(buffer, self.world)
        return self.job.send(self.ranks[destination], buffer)

    def shares_memory(self, destination: int) -> bool:
        return self.job.shares_memory(self.ranks[destination])

    @property
    def doorbell_token(self) -> str:
        return self.job.doorbell_token

    def wake(self, rank: int) -> None:
        self.job.wake(self.ranks[rank])

    def receive(self) -> Message | None:
        return self._inbox.popleft() if self._inbox else None

    def lost(self) -> list[int]:
        found, self._lost = self._lost, []
        return found

    def mark_failed(self, rank: int) -> None:
        self._failed.add(rank)

    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        return []

    def close(self, seconds: float | None = None) -> None:
        """Release the messages that were not received; the transport of the job stays open."""
        while self._inbox:
            self._inbox.popleft().release()

    def abort(self) -> None:
        self.job.abort()

    # ---- not available in a team: its ranks neither sum vectors nor start processes

    def replace(self, rank: int, payload: bytes) -> None:
        raise HpcmarlError(NO_REPLACEMENT)

    def reach_through(self, rank: int, relay: int) -> None:
        raise HpcmarlError(NO_REPLACEMENT)

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        raise HpcmarlError(NO_SUMS)

    def start_sum(self, vector: Any) -> Reduction:
        raise HpcmarlError(NO_SUMS)

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        raise HpcmarlError(NO_SUMS)

    def broadcast(self, payload: bytes | None) -> bytes:
        raise HpcmarlError(NOT_COLLECTIVE)

    def gather(self, payload: bytes) -> list[bytes]:
        raise HpcmarlError(NOT_COLLECTIVE)

    def gather_at_first(self, payload: bytes) -> list[bytes]:
        raise HpcmarlError(NOT_COLLECTIVE)

    def gather_hosts(self) -> list[str]:
        raise HpcmarlError(NOT_COLLECTIVE)
