"""Interface of transports, which move messages between ranks without blocking and sum vectors over ranks.

Implementations: comm/local.py (one process), comm/mpi (MPI) and comm/team.py (a team of a league). A
transport reads the headers of messages but not their payloads.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer, Header, Kind, check_header
from hpcmarl.errors import HpcmarlError, LaunchError
from hpcmarl.types import Array


class PeerFailure(HpcmarlError):
    """Another rank has failed and has printed the reason on its standard error; this rank ends, too."""


class PeerAborted(PeerFailure):
    """Another rank has failed and has announced that the job ends; a rank that died could not do so."""


class SendHandle:
    """Handle of a message under way. This base class stands for a message that needs no more waiting."""

    def done(self) -> bool:
        """Return whether the receiver has taken the message, so that its buffer may be written again."""
        return True


class SharedHandle(SendHandle):
    """Handle of a message that the receiver reads in the sender's memory; done when it is released."""

    __slots__ = ("released",)

    def __init__(self) -> None:
        self.released = False

    def done(self) -> bool:
        return self.released

    def release(self) -> None:
        """Note that the receiver no longer reads the buffer."""
        self.released = True


class Message:
    """A received message.

    Attributes:
        header: Decoded header.
        kind: Kind of the message, from the header.
        buffer: Header and payload, uint8; valid until release().
        source: Rank of the sender.
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
        """Return a message made from a stored buffer, for instance from a checkpoint.

        Args:
            buffer: Header and payload.
            source: Rank of the original sender.

        Raises:
            ProtocolError: If the header is invalid.
        """
        return cls(check_header(buffer, source), buffer, source)

    @property
    def payload(self) -> Buffer:
        """Payload of the message, a view of the buffer."""
        return self.buffer[HEADER_BYTES:]

    def release(self) -> None:
        """Return the buffer to its owner; the receiver must not read it afterwards."""
        if self._on_release is not None:
            self._on_release()
            self._on_release = None


class Reduction(ABC):
    """A sum over ranks that is under way."""

    @abstractmethod
    def result(self) -> Array | None:
        """Return the summed vector, or None while it is incomplete; never blocks."""


class Regrouping(ABC):
    """Formation of a new reduction group by the surviving ranks.

    Attributes:
        newer: When done, the state of a member that has completed more sums; None if this rank is not behind.
    """

    @abstractmethod
    def done(self) -> bool:
        """Return whether the new group is complete; never blocks.

        Raises:
            HpcmarlError: If the survivors cannot form a group.
        """

    newer: bytes | None = None


class Regrouped(Regrouping):
    """A regrouping that is complete from the beginning."""

    def done(self) -> bool:
        return True


class Transport(ABC):
    """Messages between ranks, in order between any two of them, and sums over a group of ranks.

    Sends are flow-controlled: a send is done only when the receiver has taken the message.

    Attributes:
        rank: Number of this rank.
        size: Number of ranks in the world.
        host: Name of this rank's host.
        survives: Whether the run can continue after a rank has died.
        library: Name and version of the MPI library.
        can_replace: Whether a new process can replace a dead rank.
        reduction_members: Ranks of the reduction group; empty without one.
    """

    rank: int
    size: int
    host: str
    survives = False
    library = "no MPI"
    can_replace = False
    reduction_members: tuple[int, ...] = ()

    @abstractmethod
    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        """Start sending a message.

        Args:
            destination: Rank of the receiver.
            buffer: Header and payload; must stay unchanged until the handle is done.

        Returns:
            Handle of the message.
        """

    def shares_memory(self, destination: int) -> bool:
        """Return whether a receiver reads the sender's buffer itself.

        A send to such a rank is done only when the receiver has released the message.
        """
        return destination == self.rank

    @abstractmethod
    def receive(self) -> Message | None:
        """Return the next complete message, or None; never blocks.

        Raises:
            PeerAborted: If another rank has announced that the job ends.
            PeerFailure: If another rank has died and the run cannot survive that.
        """

    @abstractmethod
    def lost(self) -> list[int]:
        """Return the ranks that were found dead since the last call."""

    @abstractmethod
    def mark_failed(self, rank: int) -> None:
        """Continue without a rank.

        Messages from it are discarded. Messages to it are dropped, and their handles are done at once.
        """

    @abstractmethod
    def replace(self, rank: int, payload: bytes) -> None:
        """Start a process that replaces a rank marked as failed; does not wait for it (see `poll_respawned`).

        This rank will relay the messages of the other ranks to the new process.

        Args:
            rank: The rank to replace.
            payload: Data for the new process.
        """

    @abstractmethod
    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        """Return the attempts to replace a rank that have ended since the last call.

        Returns:
            Pairs of a rank and the outcome. The outcome is the process number and start time of the new
            process (launch/processes.py), or the reason why it could not be started.
        """

    @abstractmethod
    def reach_through(self, rank: int, relay: int) -> None:
        """Send the messages for a rank marked as failed to its new process from now on.

        Args:
            rank: The replaced rank.
            relay: Rank that has started the new process and passes messages on to it.
        """

    @property
    def leaves_at_once(self) -> bool:
        """Whether this process must end by os._exit: MPI_Finalize may wait forever for a dead rank."""
        return False

    @abstractmethod
    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        """Form the group of ranks that sum vectors, and close an earlier one.

        Collective: every rank of the world calls it with the same arguments.

        Args:
            ranks: Members of the group.
            hosts: Host name of every rank of the world.
            backend: Name of a backend (comm.BACKENDS).

        Raises:
            UsageError: If the backend cannot be used; raised on all members.
        """

    @property
    def sum_device(self) -> Any:
        """Torch device of the tensors that `start_sum` takes beside arrays; None: it takes arrays alone."""
        return None

    @abstractmethod
    def start_sum(self, vector: Any) -> Reduction:
        """Start a sum over the reduction group. All members must start their sums in the same order.

        Args:
            vector: This rank's contribution, shape [P]: an array, or a tensor on `sum_device`. It must stay
                unchanged until the sum has arrived.
        """

    @abstractmethod
    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        """Start to remove a dead rank from the reduction group. Sums that have not arrived yet are void.

        Collective: all survivors of the group call it when they learn of the loss. This call must not wait,
        because a survivor may be frozen without having been noticed. The caller must continue to handle
        messages until the regrouping is done.

        Args:
            lost: The dead member of the reduction group.
            progress: Number of sums that have arrived on this rank.
            state: Returns the state after these sums. Neither the state nor `progress` may change until the
                regrouping is done.

        Returns:
            The regrouping under way.
        """

    @abstractmethod
    def broadcast(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload on every rank. Collective, for the start of a run; waiting ranks sleep.

        Args:
            payload: The payload on rank 0; None on the other ranks.
        """

    @abstractmethod
    def gather(self, payload: bytes) -> list[bytes]:
        """Return the payloads of all ranks on every rank. Collective, for benchmarks.

        The amount of data grows with the square of the number of ranks.

        Args:
            payload: This rank's payload; it has the same length on all ranks.
        """

    @abstractmethod
    def gather_at_first(self, payload: bytes) -> list[bytes]:
        """Return the payloads of all ranks on rank 0. Collective, for the start of a run.

        Args:
            payload: This rank's payload; it has the same length on all ranks.

        Returns:
            The payloads by rank; an empty list on other ranks than 0.
        """

    @abstractmethod
    def gather_hosts(self) -> list[str]:
        """Return the host name of every rank. Collective, for the start of a run."""

    @property
    def wakes(self) -> bool:
        """Whether every message to this rank ends its `rest` early."""
        return False

    def rest(self, seconds: float) -> bool:
        """Sleep, or wake early if this rank can be woken and a message may have arrived.

        Args:
            seconds: Longest sleep.

        Returns:
            Whether the rank was woken early.
        """
        time.sleep(seconds)
        return False

    def wake(self, rank: int) -> None:  # noqa: B027  ranks that cannot be woken poll
        """Wake a rank of this host if it sleeps in `rest`."""

    @property
    def doorbell_token(self) -> str:
        """Token with which a process that replaces a rank can open its doorbell; empty: there is none."""
        return ""

    def open_doorbell(self, token: str, other: int) -> None:  # noqa: B027
        """Open the doorbell of a process that replaces a rank, if it has none yet.

        Args:
            token: `doorbell_token` of another rank of this host.
            other: The rank that this one wakes.
        """

    def announce_abort(self) -> None:  # noqa: B027  virtual ranks share the process and need no message
        """Announce to the other ranks that this rank is about to end the job and has printed the reason."""

    @abstractmethod
    def abort(self) -> None:
        """Announce the end to the other ranks, then end the whole world with a non-zero exit code."""

    @abstractmethod
    def close(self, seconds: float | None = None) -> None:
        """Wait briefly for unfinished sends, then for the other ranks, and leave the world.

        Args:
            seconds: Longest wait for the other ranks, which may have died; None: no limit.
        """


class LatestLink:
    """Link to one rank on which only the newest message matters.

    At most one message is under way and one waits; a newer message replaces the waiting one. A slow or frozen
    receiver therefore costs its sender two buffers, whatever the rate of messages.
    """

    def __init__(self, transport: Transport, destination: int) -> None:
        self.transport = transport
        self.destination = destination
        self._handle: SendHandle | None = None
        self._waiting: Buffer | None = None

    def offer(self, buffer: Buffer) -> None:
        """Send a message when the link is free.

        It is sent now if the receiver has taken the last message, else by a later `flush`. A newer message
        replaces it until then.
        """
        self._waiting = buffer
        self.flush()

    def flush(self) -> bool:
        """Send the waiting message if the link is free.

        Returns:
            Whether no message waits now.
        """
        if self._waiting is not None and self.idle():
            self._handle = self.transport.send(self.destination, self._waiting)
            self._waiting = None
        return self._waiting is None

    def idle(self) -> bool:
        """Return whether the receiver has taken the last message."""
        if self._handle is not None and self._handle.done():
            self._handle = None
        return self._handle is None


# A rank that messages wake sleeps RESTS times as long between polls as another rank, at most LONGEST_REST
# seconds.
LONGEST_REST = 50e-3
RESTS = 25


class Backoff:
    """Increasing sleeps between unsuccessful polls.

    The first `spins` polls have no sleep. Later sleeps double up to 2 ms, then grow to a tenth of the time
    slept so far. The delay of a message is therefore small compared with the time it took to arrive, and a
    rank that waits long leaves its core to others. No sleep lasts beyond `longest` or the time given to
    `wait`.

    Sleeps are longer where messages wake the rank. Polls then serve only events without a message.

    Args:
        shortest: First sleep, seconds.
        longest: Longest sleep of a rank that messages do not wake, seconds.
        spins: Polls without a sleep.
        transport: Transport that may wake the rank; None: the rank always sleeps the whole time.
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
        """Start over after a successful poll."""
        self._tries = 0
        self._slept = 0.0

    def wait(self, until: float = math.inf) -> None:
        """Sleep after an unsuccessful poll; return at once for the first `spins` polls.

        Args:
            until: Latest end of the sleep, in seconds of time.monotonic().
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
    """Wait for the next message and check its kind; for benchmarks and checks.

    Args:
        transport: Transport of this rank.
        kind: Expected kind.
        timeout: Longest wait, seconds.

    Raises:
        TimeoutError: If no message arrives in time, or the message has another kind.
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
