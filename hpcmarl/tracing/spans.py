"""Recorder of the spans of one rank, in a buffer of fixed size.

A rank without a trace has no recorder (`Context.trace` is None), so its cost is one comparison a span. Times
are those of `time.perf_counter`, which is CLOCK_MONOTONIC on Linux: all processes of a host share it.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import partial

import numpy as np

from hpcmarl.tracing.part_files import PartFiles

clock = time.perf_counter
# Byte layout of a record; RECORD_DTYPE is the same for readers.
RECORD = struct.Struct("<ddIHBB")
RECORD_DTYPE = np.dtype(
    [
        ("began", "<f8"),  # seconds of the rank's clock
        ("ended", "<f8"),
        ("number", "<u4"),  # of a message among those of its pair of ranks; of other spans: the version
        ("peer", "<u2"),  # of a message: the other rank
        ("span", "u1"),  # Span
        ("kind", "u1"),  # of a message: its Kind
    ]
)
NO_NUMBER, NO_PEER = 0xFFFFFFFF, 0xFFFF
ENDED = struct.Struct("<d")
ENDED_AT = RECORD_DTYPE.fields["ended"][1]  # type: ignore[index]
CAPACITY = 65_536  # records in the buffer, 1.5 MiB
FLUSH_SECONDS = 2.0
# Sleeps with a shorter pause between them are one span: a rank that polls sleeps thousands of times a second.
SAME_WAIT_SECONDS = 1e-3


class Span(IntEnum):
    """What a rank does; the values are those of the files."""

    RECEIVE = 1  # a message is there, until its role has processed it
    SEND = 2  # hand a message to the transport
    WAIT = 3  # sleep: no role of the rank has work
    INFERENCE = 4
    ENVIRONMENT = 5  # step environments
    EPISODES = 6  # begin episodes in environments that wait for it
    TRAJECTORIES = 7  # write a rollout to the trajectory file
    GRADIENT = 8
    SERVE = 9  # process a gradient: apply the rule, perhaps step and publish
    OPTIMIZER = 10
    CHECKPOINT = 11  # copy the state of a checkpoint
    CHECKPOINT_FILE = 12  # write it, in another thread
    EVALUATION = 13
    MATCH = 14  # of a league
    FLUSH = 15  # write this trace


LABELS = {
    Span.RECEIVE: "receive",
    Span.SEND: "send",
    Span.WAIT: "wait",
    Span.INFERENCE: "inference",
    Span.ENVIRONMENT: "environment step",
    Span.EPISODES: "begin episodes",
    Span.TRAJECTORIES: "write trajectories",
    Span.GRADIENT: "gradient",
    Span.SERVE: "serve gradient",
    Span.OPTIMIZER: "optimizer step",
    Span.CHECKPOINT: "collect checkpoint",
    Span.CHECKPOINT_FILE: "write checkpoint",
    Span.EVALUATION: "evaluation",
    Span.MATCH: "match",
    Span.FLUSH: "write trace",
}
IN_OTHER_THREADS = (Span.CHECKPOINT_FILE,)


class Tracer:
    """Records spans of one rank. Only the rank's main thread may use it, except for `add_later`.

    Args:
        files: Files to which full buffers go.
        capacity: Records in the buffer.

    Attributes:
        number: Number of the message that the transport has received last; NO_NUMBER: unknown.
    """

    def __init__(self, files: PartFiles, capacity: int = CAPACITY) -> None:
        self.files = files
        self.records = np.zeros(capacity, RECORD_DTYPE)
        self.number = NO_NUMBER
        self._memory = memoryview(self.records.view(np.uint8))  # type: ignore[arg-type]
        self._used, self._last = 0, capacity - 1
        self._wait, self._wait_ended = -1, 0.0  # place of the newest record, if it is a wait
        self._later: deque[tuple[Span, float, float, int]] = deque()
        self._due = clock() + FLUSH_SECONDS

    def add(
        self,
        span: int,
        began: float,
        ended: float,
        number: int = NO_NUMBER,
        peer: int = NO_PEER,
        kind: int = 0,
    ) -> None:
        """Record a span.

        Args:
            span: What the rank has done.
            began: Begin, seconds of `clock`.
            ended: End, likewise.
            number: Number of a message, or version of the parameters; negative: none.
            peer: The other rank of a message.
            kind: Kind of a message.
        """
        used = self._used
        RECORD.pack_into(self._memory, used * RECORD.size, began, ended, number & NO_NUMBER, peer, span, kind)
        self._used = used + 1
        if used == self._last:
            self.flush()

    def add_later(self, span: Span, began: float, ended: float, number: int = NO_NUMBER) -> None:
        """Record a span of another thread; the arguments are those of `add`."""
        self._later.append((span, began, ended, number))

    def later(self, span: Span) -> Callable[[float, float, int], None]:
        """Return `add_later` for one kind of span."""
        return partial(self.add_later, span)

    def waited(self, began: float, ended: float) -> None:
        """Record a sleep. It extends the last span if that is a sleep and ended just before."""
        place = self._used - 1
        if self._wait == place >= 0 and began - self._wait_ended < SAME_WAIT_SECONDS:
            ENDED.pack_into(self._memory, place * RECORD.size + ENDED_AT, ended)
        else:
            self._wait = self._used
            self.add(Span.WAIT, began, ended)
        self._wait_ended = ended

    def tick(self) -> None:
        """Write the buffer if it is time to. Called in each step of the rank."""
        if clock() >= self._due:
            self.flush()

    def flush_soon(self) -> None:
        """Have the next `tick` write the buffer."""
        self._due = 0.0

    def flush(self) -> None:
        """Write the recorded spans to the file. An error of the disk is logged, and the spans are lost."""
        began = clock()
        while self._later:
            if self._used > self._last:
                self._write()
            span, start, end, number = self._later.popleft()
            place = self._used * RECORD.size
            RECORD.pack_into(self._memory, place, start, end, number & NO_NUMBER, NO_PEER, span, 0)
            self._used += 1
        if self._write():
            ended = clock()
            RECORD.pack_into(self._memory, 0, began, ended, NO_NUMBER, NO_PEER, Span.FLUSH, 0)
            self._used = 1
        self._due = clock() + FLUSH_SECONDS

    def _write(self) -> bool:
        """Write the buffer and empty it; return whether it had records."""
        used, self._used, self._wait = self._used, 0, -1
        if used:
            self.files.add_spans(self._memory[: used * RECORD.size], used)
        return used > 0

    def close(self) -> None:
        """Write the last spans and close the file. Later spans open it again."""
        self.flush()
        self.files.close()
