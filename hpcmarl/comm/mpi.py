"""The only file that imports mpi4py. Importing it initialises MPI; the roles see a Transport.

Messages go by synchronous-mode sends (Issend), whose completion says that the receiver has taken them: flow control without
acknowledgements of our own. Receives are matched probes into pooled buffers, completed without blocking, delivered in order.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.mpi_group import MpiGroup
from hpcmarl.comm.mpi_messages import Incoming, MpiHandle, complete
from hpcmarl.comm.mpi_sums import is_death
from hpcmarl.comm.protocol import HEADER_BYTES, Buffer, Kind, announced_bytes, check_header, control, header_of
from hpcmarl.comm.transport import Backoff, Message, PeerFailure, Reduction, SendHandle, SharedHandle, Transport
from hpcmarl.types import Array

CHUNK_BYTES = 1 << 30  # MPI counts are 32 bits wide in MPI-3 libraries
ABORT_SECONDS = 1.0  # how long a failing rank tries to tell the others
SWEEP = 64  # messages under way before finished ones are looked for behind an unfinished one
POOLED_BUFFERS = 8  # free receive buffers kept of each size class


def library_version() -> str:
    """The MPI library's own words, first line (Open MPI's text ends in a NUL byte)."""
    return MPI.Get_library_version().rstrip("\x00").strip().splitlines()[0]


def standard_version() -> tuple[int, int]:
    """(major, minor) of the MPI standard that the library implements."""
    return MPI.Get_version()


def thread_level_name() -> str:
    """single, funneled, serialized or multiple: what MPI was initialised with."""
    names = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled", MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple"}
    return names[MPI.Query_thread()]


def survives_deaths() -> bool:
    """Whether the other ranks live on when one dies: Open MPI from version 5 on, if mpiexec was told --with-ft ulfm."""
    return MPI.get_vendor()[0] == "Open MPI" and MPI.get_vendor()[1] >= (5, 0) and os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112


def world_size() -> int:
    """Ranks in the world that MPI was started with."""
    return int(MPI.COMM_WORLD.Get_size())


class MpiTransport(Transport):
    """A duplicate of COMM_WORLD with errors returned as exceptions. `chunk_bytes` is smaller in tests."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.comm = MPI.COMM_WORLD.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()
        self.host = platform.node()
        self.chunk_bytes = chunk_bytes
        self._status = MPI.Status()
        self._outgoing: deque[MpiHandle] = deque()
        self._sweep_at = SWEEP
        self._to_self: deque[tuple[Buffer, SharedHandle]] = deque()
        self._incoming: deque[Incoming] = deque()
        self._expecting: dict[int, Incoming] = {}  # source -> large message whose chunks come next
        self._pool: dict[int, list[Buffer]] = {}
        self._reducing: MpiGroup | None = None
        self.survives = survives_deaths()
        self._dead: set[int] = set()  # MPI has said so
        self._newly_dead: list[int] = []
        self._buried: set[int] = set()  # the run goes on without them
        self._remains: list[Incoming] = []  # of messages that will not come: MPI may still hold their buffers

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        if destination == self.rank:
            own = SharedHandle()
            self._to_self.append((buffer, own))
            return own
        if destination in self._dead or destination in self._buried:
            return SendHandle()
        try:
            if buffer.nbytes <= self.chunk_bytes:
                requests = [self.comm.Issend([buffer, MPI.BYTE], destination, int(header_of(buffer)["kind"]))]
            else:
                requests = self._send_chunks(destination, buffer)
        except MPI.Exception as error:
            if not is_death(error):
                raise
            return SendHandle()  # the next receive() finds out who has died
        handle = MpiHandle(requests, buffer)
        self._outgoing.append(handle)
        return handle

    def _send_chunks(self, destination: int, buffer: Buffer) -> list[Any]:
        """Announce the length, then send the pieces; MPI keeps the order between two ranks."""
        announcement = control(Kind.CHUNKED, count=buffer.nbytes)
        requests = [self.comm.Issend([announcement, MPI.BYTE], destination, int(Kind.CHUNKED))]
        starts = range(0, buffer.nbytes, self.chunk_bytes)
        pieces = [buffer[start : start + self.chunk_bytes] for start in starts]
        requests += [self.comm.Issend([piece, MPI.BYTE], destination, int(Kind.CHUNK)) for piece in pieces]
        self._outgoing.append(MpiHandle(requests[:1], announcement))
        return requests

    def receive(self) -> Message | None:
        self._forget_sent()
        if self._to_self:
            buffer, own = self._to_self.popleft()
            return Message(check_header(buffer, self.rank), buffer, self.rank, own.release)
        while self._match():
            pass
        return self._deliver()

    def _forget_sent(self) -> None:
        """Let go of the buffers that have arrived; one message to a rank that is slow or frozen does not keep the later ones."""
        while self._outgoing and self._outgoing[0].done():
            self._outgoing.popleft()
        if len(self._outgoing) > self._sweep_at:
            self._outgoing = deque(handle for handle in self._outgoing if not handle.done())
            self._sweep_at = max(SWEEP, 2 * len(self._outgoing))

    def _match(self) -> bool:
        """Match one arriving MPI message, if there is one, and start receiving it."""
        try:
            matched = self.comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, self._status)
        except MPI.Exception as error:
            if not (self.survives and is_death(error)):
                raise PeerFailure(f"MPI reports to rank {self.rank} that another rank has died: {error.Get_error_string()}") from None
            return self._note_deaths()
        if matched is None:
            return False
        source, tag, size = self._status.Get_source(), self._status.Get_tag(), self._status.Get_count(MPI.BYTE)
        if tag == Kind.ABORT:
            raise PeerFailure(f"rank {source} has failed; rank {self.rank} ends with it")
        if source in self._buried:  # frozen, given up, and awake again
            matched.Recv([np.empty(size, np.uint8), MPI.BYTE])
        elif tag == Kind.CHUNK:
            large = self._expecting[source]
            large.requests.append(matched.Irecv([large.buffer[large.filled : large.filled + size], MPI.BYTE]))
            large.filled += size
            if large.filled >= large.buffer.nbytes:
                del self._expecting[source]
        elif tag == Kind.CHUNKED:
            announcement = np.empty(size, np.uint8)
            matched.Recv([announcement, MPI.BYTE])
            whole = np.empty(announced_bytes(announcement, source), np.uint8)
            large = Incoming(source, whole, whole, MPI.REQUEST_NULL)
            large.filled = 0
            self._expecting[source] = large
            self._incoming.append(large)
        else:
            capacity = self._take_buffer(size)
            buffer = capacity[:size]
            self._incoming.append(Incoming(source, buffer, capacity, matched.Irecv([buffer, MPI.BYTE])))
        return True

    def _note_deaths(self) -> bool:
        """Ask MPI who has died, and have it report on the living again; whether there was anybody new."""
        self.comm.Ack_failed()
        group = self.comm.Get_failed()
        failed = MPI.Group.Translate_ranks(group, list(range(group.Get_size())), self.comm.Get_group())
        new = sorted(set(failed) - self._dead)
        self._dead.update(new)
        self._newly_dead += new
        return bool(new)

    def lost(self) -> list[int]:
        found, self._newly_dead = self._newly_dead, []
        return found

    def bury(self, rank: int) -> None:
        self._buried.add(rank)
        self._expecting.pop(rank, None)
        self._remains += [incoming for incoming in self._incoming if incoming.source == rank]
        self._incoming = deque(incoming for incoming in self._incoming if incoming.source != rank)

    def _deliver(self) -> Message | None:
        """The first complete message none of whose source's earlier ones is still under way."""
        behind: set[int] = set()
        for index, incoming in enumerate(self._incoming):
            if incoming.source not in behind and incoming.complete():
                del self._incoming[index]
                header = check_header(incoming.buffer, incoming.source)
                return Message(header, incoming.buffer, incoming.source, partial(self._give_buffer, incoming.capacity))
            behind.add(incoming.source)
        return None

    def _take_buffer(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes; sizes are rounded up to powers of two so that they can be used again."""
        capacity = 1 << max(9, (max(size, HEADER_BYTES) - 1).bit_length())
        free = self._pool.get(capacity)
        return free.pop() if free else np.empty(capacity, np.uint8)

    def _give_buffer(self, buffer: Buffer) -> None:
        free = self._pool.setdefault(buffer.nbytes, [])
        if len(free) < POOLED_BUFFERS:
            free.append(buffer)

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        if self._reducing is not None:
            self._reducing.close()
            self._reducing = None
        self._reducing = MpiGroup(self.comm, ranks, hosts, backend)

    @property
    def reduction_members(self) -> tuple[int, ...]:  # type: ignore[override]
        return () if self._reducing is None else self._reducing.members

    def start_sum(self, vector: Array) -> Reduction:
        assert self._reducing is not None
        return self._reducing.start_sum(vector)

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> bytes | None:
        assert self._reducing is not None
        return self._reducing.regroup(progress, state)

    def broadcast(self, payload: bytes | None) -> bytes:
        length = np.array([len(payload) if payload is not None else 0], np.int64)
        self._sleep_until(self.comm.Ibcast(length, 0))
        data = np.frombuffer(payload, np.uint8).copy() if payload is not None else np.empty(int(length[0]), np.uint8)
        self._sleep_until(self.comm.Ibcast([data, MPI.BYTE], 0))
        return data.tobytes()

    def gather(self, payload: bytes) -> list[bytes]:
        own = np.frombuffer(payload, np.uint8).copy()
        everyone = np.empty((self.size, own.size), np.uint8)
        self._sleep_until(self.comm.Iallgather([own, MPI.BYTE], [everyone, MPI.BYTE]))
        return [row.tobytes() for row in everyone]

    def abort(self) -> None:
        # MPI_Abort alone is not enough: with fault tolerance on, Open MPI lets the other ranks live
        note = control(Kind.ABORT, source=self.rank)
        others = [rank for rank in range(self.size) if rank != self.rank and rank not in self._dead]
        with contextlib.suppress(MPI.Exception):  # somebody is dead already
            requests = [self.comm.Isend([note, MPI.BYTE], rank, int(Kind.ABORT)) for rank in others]
            deadline = time.monotonic() + ABORT_SECONDS
            while complete(requests) is False and time.monotonic() < deadline:
                time.sleep(1e-3)
        if os.environ.get("OMPI_MCA_mpi_ft_enable") != "1":  # noqa: SIM112  set by mpiexec --with-ft ulfm
            MPI.COMM_WORLD.Abort(1)
        os._exit(1)

    def bare_ping_pong(self, peer: int, sent: Buffer, repeats: int) -> float:
        """Seconds of a round trip by plain blocking calls: what the benchmark compares with. The lower rank begins."""
        received = np.empty_like(sent)
        began = time.perf_counter()
        for _ in range(repeats):
            if self.rank < peer:
                self.comm.Send([sent, MPI.BYTE], peer)
                self.comm.Recv([received, MPI.BYTE], peer)
            else:
                self.comm.Recv([received, MPI.BYTE], peer)
                self.comm.Send([sent, MPI.BYTE], peer)
        return (time.perf_counter() - began) / repeats

    def _sleep_until(self, request: Any) -> None:
        """Wait for a collective without burning a core; raises PeerFailure when a rank gives up meanwhile."""
        backoff = Backoff()
        while (state := complete([request])) is not True:
            if state is None:
                raise PeerFailure(f"MPI reports to rank {self.rank} that another rank has died")
            if self.comm.Iprobe(MPI.ANY_SOURCE, int(Kind.ABORT)):
                raise PeerFailure(f"another rank has failed; rank {self.rank} ends with it")
            backoff.wait()

    def close(self) -> None:
        deadline = time.monotonic() + 5.0
        while self._outgoing and time.monotonic() < deadline:
            if self._outgoing[0].done():
                self._outgoing.popleft()
            else:
                time.sleep(1e-3)
        if not self.impaired:
            if self._reducing is not None:
                self._reducing.close()
            self._sleep_until(self.comm.Ibarrier())  # so that nobody spins in Finalize while another still writes

    @property
    def impaired(self) -> bool:
        return bool(self._dead or self._buried)
