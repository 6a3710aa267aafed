"""Transport that records its messages. It wraps the transport of a rank whose run has `logging.trace`.

A message has no number in its header. Messages between two ranks keep their order, so sender and receiver
count them alike: the n-th message that one sends is the n-th that the other receives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from hpcmarl.comm.protocol import HEADER_DTYPE, Buffer, Kind
from hpcmarl.comm.transport import Message, Reduction, Regrouping, SendHandle, Transport
from hpcmarl.errors import LaunchError
from hpcmarl.tracing.clock import Alignment
from hpcmarl.tracing.spans import NO_NUMBER, NO_PEER, Span, Tracer, clock
from hpcmarl.types import Array

KIND_BYTE = HEADER_DTYPE.fields["kind"][1]  # type: ignore[index]  # low byte; all kinds are below 256
STATE = int(Kind.STATE)


class TracedTransport(Transport):
    """Another transport, with a span for each message sent and a number for each message received.

    Args:
        inner: The transport.
        trace: Recorder of this rank.
        alignment: Clock of this rank; kept for the measurement at the end.
        numbered: Whether messages have numbers. A process that replaces a dead one cannot know them.
    """

    def __init__(
        self, inner: Transport, trace: Tracer, alignment: Alignment, *, numbered: bool = True
    ) -> None:
        self.inner, self.trace, self.alignment, self._numbered = inner, trace, alignment, numbered
        self.rank, self.size, self.host = inner.rank, inner.size, inner.host
        self.survives, self.library, self.can_replace = inner.survives, inner.library, inner.can_replace
        self._sent: defaultdict[int, int] = defaultdict(int)
        self._received: defaultdict[int, int] = defaultdict(int)
        self._replaced: set[int] = set()  # ranks whose messages have no numbers

    def send(self, destination: int, buffer: Buffer) -> SendHandle:
        began = clock()
        handle = self.inner.send(destination, buffer)
        ended = clock()
        kind = int(buffer[KIND_BYTE])
        self.trace.add(
            Span.SEND, began, ended, self._next(self._sent, destination), min(destination, NO_PEER), kind
        )
        if kind == STATE:  # a checkpoint: what it covers should be readable, too
            self.trace.flush_soon()
        return handle

    def receive(self) -> Message | None:
        message = self.inner.receive()
        if message is not None:
            self.trace.number = self._next(self._received, message.source)
        return message

    def _next(self, counts: defaultdict[int, int], other: int) -> int:
        """Return the number of the next message to or from a rank, and count it."""
        number = counts[other]
        counts[other] = number + 1
        return NO_NUMBER if other in self._replaced or not self._numbered else number % NO_NUMBER

    def replace(self, rank: int, payload: bytes) -> None:
        self._replaced.add(rank)
        self.inner.replace(rank, payload)

    def reach_through(self, rank: int, relay: int) -> None:
        self._replaced.add(rank)
        self.inner.reach_through(rank, relay)

    # ---- passed on unchanged

    @property
    def reduction_members(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.reduction_members

    def shares_memory(self, destination: int) -> bool:
        return self.inner.shares_memory(destination)

    def lost(self) -> list[int]:
        return self.inner.lost()

    def mark_failed(self, rank: int) -> None:
        self.inner.mark_failed(rank)

    def poll_respawned(self) -> list[tuple[int, tuple[int, int] | LaunchError]]:
        return self.inner.poll_respawned()

    @property
    def leaves_at_once(self) -> bool:
        return self.inner.leaves_at_once

    def reduction_group(self, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        self.inner.reduction_group(ranks, hosts, backend)

    def start_sum(self, vector: Array) -> Reduction:
        return self.inner.start_sum(vector)

    def regroup(self, lost: int, progress: int, state: Callable[[], bytes]) -> Regrouping:
        return self.inner.regroup(lost, progress, state)

    def broadcast(self, payload: bytes | None) -> bytes:
        return self.inner.broadcast(payload)

    def gather(self, payload: bytes) -> list[bytes]:
        return self.inner.gather(payload)

    def gather_at_first(self, payload: bytes) -> list[bytes]:
        return self.inner.gather_at_first(payload)

    def gather_hosts(self) -> list[str]:
        return self.inner.gather_hosts()

    @property
    def wakes(self) -> bool:
        return self.inner.wakes

    def rest(self, seconds: float) -> bool:
        return self.inner.rest(seconds)

    def wake(self, rank: int) -> None:
        self.inner.wake(rank)

    @property
    def doorbell_token(self) -> str:
        return self.inner.doorbell_token

    def open_doorbell(self, token: str, other: int) -> None:
        self.inner.open_doorbell(token, other)

    def announce_abort(self) -> None:
        self.inner.announce_abort()

    def abort(self) -> None:
        self.inner.abort()

    def close(self, seconds: float | None = None) -> None:
        self.inner.close(seconds)
