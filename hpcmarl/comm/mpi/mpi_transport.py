"""Transport between MPI ranks. Importing this module initialises MPI.

Messages are sent in synchronous mode (Issend). Completion of such a send means that the receiver has taken
the message, which gives flow control without separate acknowledgements. Messages are received by matched
probes into pooled buffers, completed without blocking, and delivered in order.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.doorbell import Doorbell, new_token
from hpcmarl.comm.hosts import pack_hosts, unpack_hosts
from hpcmarl.comm.mpi.collectives import broadcast, gather, gather_at_first, leave_together
from hpcmarl.comm.mpi.group import MpiGroup, MpiRegrouping
from hpcmarl.comm.mpi.library import library_version, survives_deaths
from hpcmarl.comm.mpi.messages import BufferPool, Incoming, MpiHandle, Route, begin, complete
from hpcmarl.comm.mpi.spawn import Spawning
from hpcmarl.comm.protocol import Buffer, Kind, announced_bytes, check_header, control, kind_of
from hpcmarl.comm.reductions.mpi_allreduce import is_death
from hpcmarl.comm.transport import (
    Message,
    PeerAborted,
    PeerFailure,
    Reduction,
    Regrouping,
    SendHandle,
    SharedHandle,
    Transport,
)
from hpcmarl.errors import LaunchError

CHUNK_BYTES = 1 << 30  # counts have 32 bits in MPI-3 libraries
HOST_BYTES = 255  # space for a host name
# Longest wait of a leaving rank until its messages are taken.
SENDING_SECONDS = 5.0
# Longest wait of a failing rank until its announcement is sent.
ABORT_SECONDS = 1.0
# Messages received ahead of their delivery. The sender of a message that is not matched has to wait.
MATCHED = 64
# Number of messages under way above which completed ones are also removed behind an incomplete one.
SWEEP = 64


class MpiTransport(Transport):
    """Transport over a duplicate of an MPI communicator, which returns errors as exceptions.

    Args:
        chunk_bytes: Longest MPI message; longer messages are sent in chunks. Tests use smaller values.
        world: Communicator of all ranks; None: COMM_WORLD.
    """

    def __init__(self, chunk_bytes: int = CHUNK_BYTES, world: Any = None) -> None:
        world = MPI.COMM_WORLD if world is None else world
        self.comm = _duplicate(world)
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()
        self._prepare(chunk_bytes)

    def _prepare(self, chunk_bytes: int) -> None:
        self.host = platform.node()
        self.chunk_bytes = chunk_bytes
        self._status = MPI.Status()
        self._outgoing: deque[MpiHandle] = deque()
        self._sweep_at = SWEEP
        self._to_self: deque[tuple[Buffer, SharedHandle]] = deque()
        self._incoming: deque[Incoming] = deque()
        self._expecting: dict[int, Incoming] = {}  # source -> large message whose chunks come next
        self._pool = BufferPool()
        self._reducing: MpiGroup | None = None
        self.survives = self.can_replace = survives_deaths()
        self.library = " ".join(library_version().partition(",")[0].split())
        # Routes to the ranks that are not reached by their number in `comm`.
        self._routes: dict[int, Route] = {}
        self._spawning: dict[int, Spawning] = {}
        # Communicators from which messages come, with the rank of the sender; None: the rank in `comm`.
        self._sources: list[tuple[Any, int | None]] = [(self.comm, None)]
        self._dead: set[int] = set()  # ranks that MPI has reported as dead
        self._newly_dead: list[int] = []
        self._failed: set[int] = set()  # ranks marked as failed: the run continues without them
        self._doorbell: Doorbell | None = None
        self._woken_by_all = False  # whether every other rank can ring the doorbell
        # Incomplete messages of failed ranks. MPI may still write to their buffers, so they are kept.
        self._remains: list[Incoming] = []

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        if destination == self.rank:
            own = SharedHandle()
            self._to_self.append((buffer, own))
            return own
        route = self._routes.get(destination)
        if route is None:
            if destination in self._dead or destination in self._failed:
                return SendHandle()
            route = Route(self.comm, destination)
        return self._send_over(route, buffer)

    def _hand_on(self, destination: int, buffer: Buffer) -> None:
        """Pass on a message to or from a process that is not in the communicator of all ranks."""
        self._send_over(
            self._routes.get(destination, Route(self.comm, destination, Kind.RELAYED + destination)), buffer
        )

    def _send_over(self, route: Route, buffer: Buffer) -> SendHandle:
        try:
            if buffer.nbytes <= self.chunk_bytes or route.relay:
                requests = [route.comm.Issend([buffer, MPI.BYTE], route.peer, route.relay or kind_of(buffer))]
            else:
                requests = self._send_chunks(route, buffer)
        except MPI.Exception as error:
            if not is_death(error):
                raise
            return SendHandle()  # the next receive() determines which rank has died
        handle = MpiHandle(requests, buffer)
        self._outgoing.append(handle)
        if self._doorbell is not None and route.comm is self.comm:
            self._doorbell.ring(route.peer)
        return handle

    def _send_chunks(self, route: Route, buffer: Buffer) -> list[Any]:
        """Announce the length, then send the chunks; MPI keeps the order between two ranks."""
        announcement = control(Kind.CHUNKED, message_bytes=buffer.nbytes)
        requests = [route.comm.Issend([announcement, MPI.BYTE], route.peer, int(Kind.CHUNKED))]
        starts = range(0, buffer.nbytes, self.chunk_bytes)
        pieces = [buffer[start : start + self.chunk_bytes] for start in starts]
        requests += [route.comm.Issend([piece, MPI.BYTE], route.peer, int(Kind.CHUNK)) for piece in pieces]
        self._outgoing.append(MpiHandle(requests[:1], announcement))
        return requests

    def receive(self) -> Message | None:
        self._forget_sent()
        if self._to_self:
            buffer, own = self._to_self.popleft()
            return Message(check_header(buffer, self.rank), buffer, self.rank, own.release)
        if len(self._incoming) >= MATCHED and (message := self._deliver()) is not None:
            return message
        for comm, rank in tuple(self._sources):
            while self._match(comm, rank) and len(self._incoming) < MATCHED:
                pass
        return self._deliver()

    def _forget_sent(self) -> None:
        """Release the buffers of messages that have arrived.

        A message to a slow or frozen rank does not keep the buffers of later messages.
        """
        while self._outgoing and self._outgoing[0].done():
            self._outgoing.popleft()
        if len(self._outgoing) > self._sweep_at:
            self._outgoing = deque(handle for handle in self._outgoing if not handle.done())
            self._sweep_at = max(SWEEP, 2 * len(self._outgoing))

    def _match(self, comm: Any, rank: int | None) -> bool:
        """Match one arriving MPI message and start receiving it.

        Args:
            comm: Communicator to probe.
            rank: Rank of the sender; None: the rank in the communicator.

        Returns:
            Whether to call this method again: a message was matched, or new deaths were noted.
        """
        try:
            matched = comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, self._status)
        except MPI.Exception as error:
            if not (self.survives and is_death(error)):
                raise PeerFailure(
                    f"MPI reports to rank {self.rank} that another rank has died: {error.Get_error_string()}"
                ) from None
            return self._note_deaths() if rank is None else self._note_end_of(comm)
        if matched is None:
            return False
        source, tag, size = (
            self._status.Get_source(),
            self._status.Get_tag(),
            self._status.Get_count(MPI.BYTE),
        )
        if rank is not None:
            source = rank
        if tag == Kind.ABORT:
            if rank is not None:
                self.announce_abort()  # the sender cannot reach the other ranks itself
            raise PeerAborted(f"rank {source} has failed; rank {self.rank} ends with it")
        if source in self._failed and rank is None:  # a frozen rank that was marked as failed and woke up
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
            self._expecting[source] = large = Incoming(source, whole, whole, None)
            large.filled = 0
            self._incoming.append(large)
        else:
            capacity = self._pool.take(size)
            buffer = capacity[:size]
            destination = tag - Kind.RELAYED if tag >= Kind.RELAYED else None
            self._incoming.append(begin(matched, source, buffer, capacity, destination))
        return True

    def _note_deaths(self) -> bool:
        """Record the ranks that MPI reports as dead.

        They are acknowledged, so that probes for messages of the living ranks work again.

        Returns:
            Whether there were new ones.
        """
        self.comm.Ack_failed()
        group = self.comm.Get_failed()
        failed = MPI.Group.Translate_ranks(group, list(range(group.Get_size())), self.comm.Get_group())
        new = sorted(set(failed) - self._dead)
        self._dead.update(new)
        self._newly_dead += new
        return bool(new)

    def _note_end_of(self, comm: Any) -> bool:
        """Record the death of the other process of a communicator of two.

        All ranks that were reached through it are lost.

        Returns:
            False, the result of `_match`.
        """
        lost = [rank for rank, route in self._routes.items() if route.comm is comm]
        for rank in lost:
            del self._routes[rank]
        self._sources = [source for source in self._sources if source[0] is not comm]
        self._dead.update(lost)
        self._newly_dead += lost
        return False

    def lost(self) -> list[int]:
        found, self._newly_dead = self._newly_dead, []
        return found

    def mark_failed(self, rank: int) -> None:
        self._failed.add(rank)
        self._routes.pop(rank, None)
        self._sources = [source for source in self._sources if source[1] != rank]
        self._expecting.pop(rank, None)
        self._remains += [incoming for incoming in self._incoming if incoming.source == rank]
        self._incoming = deque(incoming for incoming in self._incoming if incoming.source != rank)

    def replace(self, rank: int, payload: bytes) -> None:
        self._spawning[rank] = Spawning(rank, payload)

    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        found: list[tuple[int, tuple[int, int] | LaunchError]] = []
        done = {
            rank: result
            for rank, spawning in self._spawning.items()
            if (result := spawning.result()) is not None
        }
        for rank, result in done.items():
            del self._spawning[rank]
            if not isinstance(result, LaunchError):
                self._routes[rank] = result.way
                self._sources.append((result.way.comm, rank))
            found.append((rank, result if isinstance(result, LaunchError) else result.process))
        return found

    def reach_through(self, rank: int, relay: int) -> None:
        if relay != self.rank:
            self._routes[rank] = Route(self.comm, relay, Kind.RELAYED + rank)

    def _deliver(self) -> Message | None:
        """Return the first complete message, in order for each source, or None.

        A message is delivered only after all earlier messages of its source. Complete messages for other
        ranks are passed on.
        """
        behind: set[int] = set()
        for index, incoming in enumerate(self._incoming):
            if incoming.source not in behind and incoming.complete():
                del self._incoming[index]
                header = check_header(incoming.buffer, incoming.source)
                source = incoming.source
                if incoming.destination is not None:
                    source = header.source
                    if incoming.destination != self.rank:
                        self._hand_on(incoming.destination, incoming.buffer)
                        return self._deliver()
                return Message(header, incoming.buffer, source, partial(self._pool.give, incoming.capacity))
            behind.add(incoming.source)
        return None

    def gather_hosts(self) -> list[str]:
        """Return the host name of every rank. Collective, for the start of a run.

        From then on ranks of one host wake each other by doorbells.
        """
        if self._doorbell is None:
            self._doorbell = Doorbell(self.broadcast(new_token() if self.rank == 0 else None), self.rank)
        own = bytes([self._doorbell.exists]) + self.host.encode()[:HOST_BYTES].ljust(HOST_BYTES, b"\0")
        rows = self.gather_at_first(own)  # afterwards the doorbells of all ranks exist
        everyone = pack_hosts(
            [row[1:].rstrip(b"\0").decode() for row in rows],
            [rank for rank, row in enumerate(rows) if not row[0]],
        )
        hosts, without_doorbell = unpack_hosts(self.broadcast(everyone if self.rank == 0 else None))
        others = [
            rank
            for rank, host in enumerate(hosts)
            if host == self.host and rank != self.rank and rank not in without_doorbell
        ]
        self._doorbell.connect(others)
        self._woken_by_all = self._doorbell.exists and len(others) == self.size - 1
        return hosts

    @property
    def wakes(self) -> bool:
        # Progress of messages under way inside MPI rings no doorbell.
        moving = (
            self._outgoing or self._incoming or self._expecting or self._spawning or len(self._sources) > 1
        )
        return self._woken_by_all and self._reducing is None and not moving

    def rest(self, seconds: float) -> bool:
        if self._doorbell is None:
            return super().rest(seconds)
        return self._doorbell.wait(seconds)

    @property
    def doorbell_token(self) -> str:
        return "" if self._doorbell is None or not self._doorbell.exists else self._doorbell.token.decode()

    def open_doorbell(self, token: str, other: int) -> None:
        if self._doorbell is None and token:
            self._doorbell = Doorbell(token.encode(), self.rank)
            self._doorbell.connect([other])

    def wake(self, rank: int) -> None:
        if self._doorbell is not None:
            self._doorbell.ring(rank)

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        if self._reducing is not None:
            self._reducing.close()
            self._reducing = None
        try:
            self._reducing = MpiGroup(self.comm, ranks, hosts, backend)
        except MPI.Exception as error:
            if not is_death(error):
                raise
            raise PeerFailure(f"MPI reports to rank {self.rank} that another rank has died") from None

    @property
    def reduction_members(self) -> tuple[int, ...]:  # type: ignore[override]
        return () if self._reducing is None else self._reducing.members

    @property
    def sum_device(self) -> Any:
        return None if self._reducing is None else self._reducing.device

    def start_sum(self, vector: Any) -> Reduction:
        assert self._reducing is not None
        return self._reducing.start_sum(vector)

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        assert self._reducing is not None
        return MpiRegrouping(self._reducing, progress, state)

    def broadcast(self, payload: bytes | None) -> bytes:
        return broadcast(self.comm, payload)

    def gather(self, payload: bytes) -> list[bytes]:
        return gather(self.comm, payload)

    def gather_at_first(self, payload: bytes) -> list[bytes]:
        return gather_at_first(self.comm, payload)

    def announce_abort(self) -> None:
        note = control(Kind.ABORT, source=self.rank)
        others = [
            peer
            for peer in range(self.comm.Get_size())
            if peer != self.comm.Get_rank() and peer not in self._dead
        ]
        with contextlib.suppress(MPI.Exception):  # another rank may be dead
            requests = [self.comm.Isend([note, MPI.BYTE], rank, int(Kind.ABORT)) for rank in others]
            deadline = time.monotonic() + ABORT_SECONDS
            while complete(requests) is False and time.monotonic() < deadline:
                time.sleep(1e-3)

    def abort(self) -> None:
        # MPI_Abort is not enough: with fault tolerance, Open MPI lets the other ranks continue.
        self.announce_abort()
        if os.environ.get("OMPI_MCA_mpi_ft_enable") != "1":  # noqa: SIM112  set by mpiexec --with-ft ulfm
            MPI.COMM_WORLD.Abort(1)
        os._exit(1)

    def close(self, seconds: float | None = None) -> None:
        while self._spawning:  # a process that is starting would wait for this one forever
            self.poll_respawned()
            time.sleep(1e-2)
        deadline = time.monotonic() + SENDING_SECONDS
        while self._outgoing and time.monotonic() < deadline:
            if self._outgoing[0].done():
                self._outgoing.popleft()
            else:
                time.sleep(1e-3)
        # Leave together, so that no rank spins in MPI_Finalize while another one still writes files.
        if not self._dead and not self._failed:
            self._close_reducing(seconds)
            leave_together(self.comm, seconds)

    def _close_reducing(self, seconds: float | None) -> None:
        """Close the backend of the sums, which waits for all members, for at most `seconds`."""
        if self._reducing is not None:
            closing = threading.Thread(target=self._reducing.close, daemon=True)
            closing.start()
            closing.join(seconds)

    @property
    def leaves_at_once(self) -> bool:
        return self.survives


def _duplicate(world: Any) -> Any:
    """Return a duplicate of a communicator.

    If a rank has already died, return the communicator itself; the first collective call of the run then
    reports the death.
    """
    try:
        return world.Dup()
    except MPI.Exception as error:
        if not is_death(error):
            raise
        return world
