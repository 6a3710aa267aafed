"""Transport between ranks inside one process.

It serves worlds of one rank, and several virtual ranks in tests and replays. Messages are not copied, and
there are no threads.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Buffer, check_header
from hpcmarl.comm.transport import (
    Message,
    Reduction,
    Regrouped,
    Regrouping,
    SendHandle,
    SharedHandle,
    Transport,
)
from hpcmarl.errors import HpcmarlError, LaunchError
from hpcmarl.types import Array


class LocalWorld:
    """World of virtual ranks in one process; the caller steps their roles in turn.

    Attributes:
        size: Number of virtual ranks.
        queues: Messages under way to each rank: (source, buffer, handle).
        dead: Ranks that count as dead. Tests add to it.
        requested_respawns: (rank, payload) of each respawn requested so far. Tests start them.
        sums: (members, index of the sum) -> rank -> contributed vector.
        broadcasted: Last payload that was broadcast.
        transports: Transport of each rank.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.queues: list[deque[tuple[int, Buffer, SharedHandle]]] = [deque() for _ in range(size)]
        self.dead: set[int] = set()
        self.requested_respawns: list[tuple[int, bytes]] = []
        self.sums: dict[tuple[tuple[int, ...], int], dict[int, Array]] = {}
        self.broadcasted: bytes = b""
        self.transports = [LocalTransport(self, rank) for rank in range(size)]


class LocalSum(Reduction):
    """Sum that is complete when every member has contributed.

    It adds the vectors in the order of `members`, so that the result does not depend on the order of arrival.
    """

    def __init__(self, parts: dict[int, Array], members: tuple[int, ...]) -> None:
        self.parts = parts
        self.members = members

    def result(self) -> Array | None:
        if len(self.parts) < len(self.members):
            return None
        total = np.array(self.parts[self.members[0]])
        for rank in self.members[1:]:
            total += self.parts[rank]
        return total


class LocalTransport(Transport):
    """One virtual rank of a LocalWorld."""

    def __init__(self, world: LocalWorld, rank: int) -> None:
        self.world = world
        self.rank = rank
        self.size = world.size
        self.host = platform.node()
        self.survives = self.can_replace = True
        self._sums_started = 0
        self._known_dead: set[int] = set()
        self._failed: set[int] = set()
        self._new: list[int] = []

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        handle = SharedHandle()
        if destination in self.world.dead or destination in self._failed:
            return SendHandle()
        self.world.queues[destination].append((self.rank, buffer, handle))
        return handle

    def shares_memory(self, destination: int) -> bool:
        return True

    def receive(self) -> Message | None:
        queue = self.world.queues[self.rank]
        while queue:
            source, buffer, handle = queue.popleft()
            if source not in self._failed:
                return Message(check_header(buffer, source), buffer, source, handle.release)
            handle.release()
        return None

    def lost(self) -> list[int]:
        found = sorted(self.world.dead - self._known_dead)
        self._known_dead.update(found)
        return found

    def mark_failed(self, rank: int) -> None:
        self._failed.add(rank)

    def replace(self, rank: int, payload: bytes) -> None:
        self.world.queues[rank].clear()
        self.world.transports[rank] = LocalTransport(self.world, rank)
        self.world.requested_respawns.append((rank, payload))
        self._receive_again(rank)
        self._new.append(rank)

    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        found, self._new = self._new, []
        return [(rank, (0, 0)) for rank in found]

    def reach_through(self, rank: int, relay: int) -> None:
        self._receive_again(rank)

    def _receive_again(self, rank: int) -> None:
        self.world.dead.discard(rank)
        self._known_dead.discard(rank)
        self._failed.discard(rank)

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        """Set the members; the sum is taken in this process's memory and ignores the backend."""
        self.reduction_members = tuple(ranks)

    def start_sum(self, vector: Any) -> Reduction:
        index = self._sums_started
        self._sums_started += 1
        parts = self.world.sums.setdefault((self.reduction_members, index), {})
        parts[self.rank] = np.array(vector)
        # Every member has read this older sum; otherwise the present one could not have started.
        self.world.sums.pop((self.reduction_members, index - 2), None)
        return LocalSum(parts, self.reduction_members)

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        """Remove the lost rank at once.

        A sum to which all members had contributed remains readable here, so no member stays behind.
        """
        self.reduction_members = tuple(rank for rank in self.reduction_members if rank != lost)
        self._sums_started = 0
        return Regrouped()

    def broadcast(self, payload: bytes | None) -> bytes:
        if payload is not None:
            self.world.broadcasted = payload
        return self.world.broadcasted

    def gather(self, payload: bytes) -> list[bytes]:
        return [payload] * self.size  # all virtual ranks have the same payload

    def gather_at_first(self, payload: bytes) -> list[bytes]:
        return self.gather(payload) if self.rank == 0 else []

    def gather_hosts(self) -> list[str]:
        return [self.host] * self.size

    def abort(self) -> None:
        raise HpcmarlError(f"rank {self.rank} of the in-process world aborted")

    def close(self, seconds: float | None = None) -> None:
        self.world.queues[self.rank].clear()
