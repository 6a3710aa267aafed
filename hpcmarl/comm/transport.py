"""What a transport is: buffers between ranks without blocking, and one reduction. `local` and `mpi` implement
it; roles use it.

Knows message kinds and headers, not their payloads.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer, Header, Kind, check_header
from hpcmarl.errors import HpcmarlError, LaunchError
from hpcmarl.types import Array


class PeerFailure(HpcmarlError):
    """Another rank has failed and has told why on its own standard error; this one ends too."""


class PeerAborted(PeerFailure):
    """Another rank has failed and ends the job: unlike one that died, it has said so."""


class SendHandle:
    """A message on its way. `done()`: the receiver has taken it, so its buffer may be written again."""

    def done(self) -> bool:
        return True


class SharedHandle(SendHandle):
    """A message whose receiver reads the sender's own memory: done when the receiver has released it."""

    __slots__ = ("released",)

    def __init__(self) -> None:
        self.released = False

    def done(self) -> bool:
        return self.released

    def release(self) -> None:
        self.released = True


class Message:
    """A received message.

    Attributes:
        header: Its decoded header.
        kind: The header's kind.
        buffer: Header and payload, uint8; valid until release().
        source: Rank that it came from.
    """

    __slots__ = ("_on_release", "buffer", "header", "kind", "source")

    def __init__(
        self, header: Header, buffer: Buffer, source: int, on_release: Callable[[], None] | None = None
    ) -> None:
        self.header = header
        self.kind = header.kind
        self.buffer = buffer
        self.source = source
        self._on_release = on_release

    @classmethod
    def kept(cls, buffer: Buffer, source: int) -> Message:
        """A message made from a buffer that was kept, for instance in a checkpoint."""
        return cls(check_header(buffer, source), buffer, source)

    @property
    def payload(self) -> Buffer:
        """What follows the header, a view."""
        return self.buffer[HEADER_BYTES:]

    def release(self) -> None:
        """Give the buffer back; the receiver must not read it any more."""
        if self._on_release is not None:
            self._on_release()
            self._on_release = None


class Reduction(ABC):
    """A sum over ranks under way."""

    @abstractmethod
    def result(self) -> Array | None:
        """The summed vector when it is complete, else None; never blocks."""


class Regrouping(ABC):
    """The survivors of a reduction group finding together."""

    @abstractmethod
    def done(self) -> bool:
        """Whether they have. Raises HpcmarlError where they cannot."""

    newer: bytes | None = (
        None  # when done: the state of a member that is further; None where this one is not behind
    )


class Regrouped(Regrouping):
    """Survivors that have found together already."""

    def done(self) -> bool:
        return True


class Transport(ABC):
    """Point-to-point messages in order between two ranks, flow-controlled: a send is done when the receiver
    has taken it.
    """

    rank: int
    size: int
    host: str
    survives = False  # whether the run can go on when a rank dies
    library = "no MPI"  # the MPI library, in words
    can_replace = False  # whether a new process can take the place of a dead one
    reduction_members: tuple[int, ...] = ()  # the ranks that sum together

    @abstractmethod
    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        """Start sending a message; the buffer must stay unchanged until the handle is done."""

    def shares_memory(self, destination: int) -> bool:
        """Whether the receiver reads the sender's own buffer, so that a send is done only when the receiver
        has no more use for it.
        """
        return destination == self.rank

    @abstractmethod
    def receive(self) -> Message | None:
        """The next complete message, or None; never blocks. Raises PeerFailure when another rank has aborted,
        or has died where that cannot be survived.
        """

    @abstractmethod
    def lost(self) -> list[int]:
        """Ranks that were found dead since the last call."""

    @abstractmethod
    def mark_failed(self, rank: int) -> None:
        """Go on without a rank: what it sends is not received, what it is sent vanishes (the handle is done
        at once).
        """

    @abstractmethod
    def replace(self, rank: int, payload: bytes) -> None:
        """Begin to start a process in the place of a buried rank; messages to it will go over this rank. See
        `poll_respawned`.
        """

    @abstractmethod
    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        """The ranks whose new process is there since the last call: (its number, when it was started;
        launch/processes.py), or why none is.
        """

    @abstractmethod
    def reach_through(self, rank: int, relay: int) -> None:
        """From now on messages to a buried rank go to the process that `relay` has started in its place."""

    @property
    def leaves_at_once(self) -> bool:
        """Whether this process ends without farewell (os._exit): MPI_Finalize may wait for ever for a rank
        that has died.
        """
        return False

    @abstractmethod
    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        """Prepare sums over `ranks` by a backend (comm.BACKENDS). Collective: every rank of the world calls
        it with the same values.

        `hosts`: the host of every rank of the world. An earlier group is closed. Raises UsageError, on all of
        `ranks`, where the backend cannot be used.
        """

    @abstractmethod
    def start_sum(self, vector: Array) -> Reduction:
        """Start the sum of `vector` over the reduction group; all of its members do so in the same order."""

    @abstractmethod
    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        """Begin to leave a dead rank out of the reduction group; sums under way are void where they have not
        arrived.

        Collective: all survivors of the group call it when they are told. One of them may be frozen and
        unheard of as yet, so nobody may wait here: this rank goes on with its messages until the result is
        there.

        Args:
            lost: a member of the reduction group.
            progress: how many sums have arrived here.
            state: gives the state after them; neither it nor `progress` may change until the result is there.

        Returns:
            What is under way.
        """

    @abstractmethod
    def broadcast(self, payload: bytes | None) -> bytes:
        """Rank 0's payload on every rank. Collective, for the start of a run; the others sleep while they
        wait.
        """

    @abstractmethod
    def gather(self, payload: bytes) -> list[bytes]:
        """Every rank's payload (of one length on all ranks) on every rank. Collective, for benchmarks: it
        grows with the square of the ranks.
        """

    @abstractmethod
    def gather_at_first(self, payload: bytes) -> list[bytes]:
        """Every rank's payload (of one length on all ranks) on rank 0, nothing elsewhere. Collective, for the
        start of a run.
        """

    @abstractmethod
    def gather_hosts(self) -> list[str]:
        """The host name of every rank. Collective, for the start of a run."""

    @property
    def wakes(self) -> bool:
        """Whether every message to this rank ends its `rest`."""
        return False

    def rest(self, seconds: float) -> bool:
        """Sleep for so long, or until a message may have come where this rank can be woken; whether it was
        woken.
        """
        time.sleep(seconds)
        return False

    def announce_abort(self) -> None:  # noqa: B027  virtual ranks see it by themselves
        """Tell the other ranks that this one is about to end the job and has said why."""

    @abstractmethod
    def abort(self) -> None:
        """End the whole world now, with a non-zero exit code: tell the others, then leave."""

    @abstractmethod
    def close(self, seconds: float | None = None) -> None:
        """Wait for unfinished sends for a moment and leave the world; wait for the other ranks, `seconds` at
        most: they may have died.
        """


class LatestLink:
    """Sends to one rank where only the newest message matters: at most one under way and one waiting, newer
    ones replace it.

    So a slow or frozen receiver costs its sender two buffers, whatever the rate.
    """

    def __init__(self, transport: Transport, destination: int) -> None:
        self.transport = transport
        self.destination = destination
        self._handle: SendHandle | None = None
        self._waiting: Buffer | None = None

    def offer(self, buffer: Buffer) -> None:
        """Send now if the last message was taken, else as soon as it is (see `flush`), unless a newer one
        comes first.
        """
        self._waiting = buffer
        self.flush()

    def flush(self) -> bool:
        """Send what waits if the line is free; True when nothing waits any more."""
        if self._waiting is not None and self.idle():
            self._handle = self.transport.send(self.destination, self._waiting)
            self._waiting = None
        return self._waiting is None

    def idle(self) -> bool:
        """The last message was taken."""
        if self._handle is not None and self._handle.done():
            self._handle = None
        return self._handle is None


LONGEST_REST = 50e-3  # seconds between two looks where messages wake a rank
RESTS = 25  # times as long are its naps


class Backoff:
    """Sleep between unsuccessful polls: not at all for the first few, then longer and longer up to `longest`
    seconds.

    A nap is at most a tenth of the wait so far (2 ms are always allowed), so that a message is late by little
    compared with the time it took to come, and a rank that waits long leaves its core to others. No nap lasts
    past a moment that is known beforehand.

    Where messages wake the rank, naps are longer: they are for what nobody announces. `transport`: which
    wakes it; None: none does.
    """

    def __init__(
        self,
        shortest: float = 50e-6,
        longest: float = 10e-3,
        spins: int = 3,
        transport: Transport | None = None,
    ) -> None:
        self.shortest, self.longest, self.spins, self.transport = shortest, longest, spins, transport
        self.reset()

    def reset(self) -> None:
        self._tries = 0
        self._slept = 0.0

    def wait(self, until: float = math.inf) -> None:
        """Sleep, or return at once while the tries are few.

        Args:
            until: When there is something to do in any case, in seconds of time.monotonic().
        """
        self._tries += 1
        if self._tries > self.spins:
            growing = min(2e-3, self.shortest * 2.0 ** min(20, self._tries - self.spins - 1))
            wakes = self.transport is not None and self.transport.wakes
            nap = (
                min(LONGEST_REST, RESTS * growing)
                if wakes
                else min(self.longest, max(growing, 0.1 * self._slept))
            )
            nap = max(0.0, min(nap, until - time.monotonic()))
            self._slept += nap
            if self.transport is None:
                time.sleep(nap)
            elif self.transport.rest(nap):
                self.reset()


def receive_from(transport: Transport, kind: Kind, timeout: float) -> Message:
    """Wait for the next message, which must be of `kind`; for benchmarks and checks. TimeoutError after
    `timeout` seconds.
    """
    backoff = Backoff(spins=2000)
    deadline = time.monotonic() + timeout
    while (message := transport.receive()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank {transport.rank} waited {timeout} s for a {kind.name} message")
        backoff.wait()
    if message.kind is not kind:
        raise TimeoutError(
            f"rank {transport.rank} got a {message.kind.name} message where {kind.name} was expected"
        )
    return message
