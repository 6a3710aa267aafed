"""Ranks inside one process: a world of one rank, several virtual ranks in tests and in replays. No copies, no threads."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Sequence

import numpy as np

from hpcmarl.comm.protocol import Buffer, check_header
from hpcmarl.comm.transport import Message, Reduction, SendHandle, SharedHandle, Transport
from hpcmarl.errors import HpcmarlError
from hpcmarl.types import Array


class LocalWorld:
    """`size` virtual ranks; step their roles in turn. `transports[r]` belongs to rank r."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.queues: list[deque[tuple[int, Buffer, SharedHandle]]] = [deque() for _ in range(size)]
        self.members: tuple[int, ...] = ()
        self.sums: dict[int, dict[int, Array]] = {}
        self.broadcasted: bytes = b""
        self.transports = [LocalTransport(self, rank) for rank in range(size)]


class LocalSum(Reduction):
    """Complete when every member has contributed; summed in rank order, so the result does not depend on who came first."""

    def __init__(self, world: LocalWorld, index: int) -> None:
        self.world = world
        self.index = index

    def result(self) -> Array | None:
        parts = self.world.sums[self.index]
        if len(parts) < len(self.world.members):
            return None
        total = np.array(parts[self.world.members[0]])
        for rank in self.world.members[1:]:
            total += parts[rank]
        return total


class LocalTransport(Transport):
    """One virtual rank of a LocalWorld."""

    def __init__(self, world: LocalWorld, rank: int) -> None:
        self.world = world
        self.rank = rank
        self.size = world.size
        self.host = platform.node()
        self._sums_started = 0

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        handle = SharedHandle()
        self.world.queues[destination].append((self.rank, buffer, handle))
        return handle

    def shares_memory(self, destination: int) -> bool:
        return True

    def receive(self) -> Message | None:
        queue = self.world.queues[self.rank]
        if not queue:
            return None
        source, buffer, handle = queue.popleft()
        return Message(check_header(buffer, source), buffer, source, handle.release)

    def reduction_group(self, ranks: Sequence[int]) -> None:
        self.world.members = tuple(ranks)

    def start_sum(self, vector: Array) -> Reduction:
        index = self._sums_started
        self._sums_started += 1
        self.world.sums.setdefault(index, {})[self.rank] = np.array(vector)
        self.world.sums.pop(index - 2, None)  # everyone has read it, or this sum could not have started
        return LocalSum(self.world, index)

    def broadcast(self, payload: bytes | None) -> bytes:
        if payload is not None:
            self.world.broadcasted = payload
        return self.world.broadcasted

    def gather(self, payload: bytes) -> list[bytes]:
        return [payload] * self.size  # virtual ranks are alike

    def abort(self) -> None:
        raise HpcmarlError(f"rank {self.rank} of the in-process world aborted")

    def close(self) -> None:
        self.world.queues[self.rank].clear()
