"""Every message between ranks: who tells whom, and the fixed header in front of each. Imported by transports
and roles.

A message is one contiguous uint8 buffer: HEADER, then a payload that its kind defines. Kinds double as MPI
tags, and a rank hosts each role at most once, so (rank, kind) names the receiver.

    ROLLOUT     actor   → learner           a Rollout (rollouts/layout.py); version: of its first step; count:
        trajectories
    GRADIENT    learner → server            vector [P], or nothing under AllReduce; version: the round it was
        made for
    PARAMETERS  server  → learner           vector [P], or nothing under AllReduce (the learners reduce and
        step by
                                            themselves); version; env_steps: of the whole run so far
    WEIGHTS     learner → its actors        vector [P]; version; env_steps: of the whole run so far
    REPORT      learner, actor → server     packed tree (hpcmarl.packing): statistics, episodes
    START       server  → everyone          packed tree: the role's state of a resumed run, or an empty one;
                                            env_steps: of the whole run so far
    CHECKPOINT_REQUEST  server  → learner → actors  nothing: send your state; version
    STATE       learner, actor → server     packed tree: the state; version
    CLOSE       server  → learner → actors  nothing: the round has enough, begin no further episode of this
        version (admission: all_begun)
    CLOSED      actor → learner → server    nothing: none is under way any more; version; count: trajectories
        that were sent for it
    LATE        server  → learner           nothing: a gradient for the round `version` came when that was
        over, and nothing of it was used
    STOP        server  → learner → actors  nothing: finish, send your last STATE (flag FINAL)
    EXIT        server  → everyone          nothing: all is written, leave
    INTERRUPT   anyone  → server            nothing: a signal asked this rank to stop
    ALIVE       anyone  → server            nothing: this rank works (runtime/heartbeat.py)
    LOST        server  → everyone          packed tree: a rank is lost and the run goes on without it
    REPLACED    learner → server            packed tree: a new process has the place of a dead actor, or has
        died in its turn

In a league (league/runtime/league_server.py) all of these go between the ranks of one team, which train a
member for a term: `world` is the number of the term. Between the league's server and its clients, one on
every rank, `world` is 0:

    FREE        client → league             packed tree: a rank is there, its team wants a term, or it wants a
        match
    TERM        league → clients of a team  packed tree: train this member from here to there, against these
    OPPONENTS   league → clients of a team  packed tree: go on against these
    PLAYED      client → league             packed tree: how the member in training does against its opponents
    FROZEN      client → league             packed tree: a term is over; what was frozen
    MATCH       league → client             packed tree: play this evaluation match
    RESULT      client → league             packed tree: how it ended

A vector is P float32; or, with the flag SPARSE and where that is shorter, one bit for each of them (whether
it is there; whole words of 32 bits) and the float32 of those that are. The others are zero.
"""

from __future__ import annotations

import os
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import ProtocolError

Buffer = NDArray[np.uint8]

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<i4"),
        ("source", "<i4"),
        ("role", "<i4"),  # of the sender: its index in topology.ROLE_NAMES
        ("version", "<i8"),
        ("group", "<i4"),
        ("world", "<i4"),  # 0: the job's; else the team of that term (comm/team.py)
        ("count", "<i8"),
        ("env_steps", "<i8"),
        ("agent_steps", "<i8"),
        ("staleness", "<f8"),
        ("flags", "<i8"),
    ]
)
HEADER_BYTES = HEADER.itemsize
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MAGIC = 0x4C52414D  # "MARL"

FLAG_FINAL = 1  # the last STATE of a role
FLAG_MORE = 2  # a ROLLOUT: another episode that ended in the same step follows
FLAG_SPARSE = 4  # a vector: only what is there
FLAG_WAIT = 8  # WEIGHTS: the learner is behind, so step no further until others come
FLAG_ALLOTTED = 16  # WEIGHTS: `count` episodes of this version may begin; without it any number
# GRADIENT under AllReduce: it is in the learner's part of its round's sum, even if it comes when the round
# has enough
FLAG_SUMMED = 32


class Kind(IntEnum):
    """Message kinds; the values are MPI tags."""

    ROLLOUT = 1
    GRADIENT = 2
    PARAMETERS = 3
    WEIGHTS = 4
    REPORT = 5
    START = 6
    CHECKPOINT_REQUEST = 7
    STATE = 8
    STOP = 9
    EXIT = 10
    INTERRUPT = 11
    ALIVE = 12
    LOST = 13
    REPLACED = 14
    CLOSE = 15
    CLOSED = 16
    LATE = 17
    FREE = 50
    TERM = 51
    OPPONENTS = 52
    PLAYED = 53
    FROZEN = 54
    MATCH = 55
    RESULT = 56
    # between transports, never seen by a role
    ABORT = 20  # a rank has failed: everyone ends now
    CHUNKED = 30
    CHUNK = 31
    PING = 40
    RELAYED = 100  # plus the rank that it is for; the header holds the kind


def header_of(buffer: Buffer) -> Any:
    """The header at the front of a message, a writable record."""
    return buffer[:HEADER_BYTES].view(HEADER)[0]


def write_header(buffer: Buffer, kind: Kind, **fields: Any) -> Buffer:
    """Fill the header of `buffer` in place; fields that are not given are 0. Returns the buffer."""
    buffer[:HEADER_BYTES] = 0
    header = header_of(buffer)
    header["magic"], header["kind"] = MAGIC, int(kind)
    for name, value in fields.items():
        header[name] = value
    return buffer


def check_header(buffer: Buffer, source: int) -> Any:
    """The header of a received message; raises ProtocolError where it is none of ours."""
    if buffer.nbytes < HEADER_BYTES:
        raise ProtocolError(
            f"a message of {buffer.nbytes} bytes from rank {source} is shorter than a header ({HEADER_BYTES} "
            "bytes)"
        )
    header = header_of(buffer)
    if header["magic"] != MAGIC:
        raise ProtocolError(
            f"a message from rank {source} does not begin with hpcmarl's mark; do all ranks run the same "
            "version?"
        )
    return header


def announced_bytes(buffer: Buffer, source: int) -> int:
    """The length of the message in pieces that this one announces; ProtocolError where no machine could hold
    it."""
    total = int(check_header(buffer, source)["count"])
    if not HEADER_BYTES <= total <= MEMORY_BYTES:
        raise ProtocolError(
            f"rank {source} announces a message of {total} bytes; allowed: {HEADER_BYTES} to {MEMORY_BYTES}, "
            "this machine's memory"
        )
    return total


def control(kind: Kind, payload: bytes | bytearray = b"", **fields: Any) -> Buffer:
    """A new small message of a packed tree or of nothing."""
    buffer = np.empty(HEADER_BYTES + len(payload), np.uint8)
    if payload:
        buffer[HEADER_BYTES:] = np.frombuffer(payload, np.uint8)
    return write_header(buffer, kind, **fields)


def vector_message(
    kind: Kind,
    vector: NDArray[np.float32] | None,
    mask: NDArray[np.bool_] | None = None,
    flags: int = 0,
    **fields: Any,
) -> Buffer:
    """A new message with a float32 vector [P] (copied) as payload, or without one.

    mask [P]: what of the vector is there. The rest need not arrive, and does not where the message is shorter
    for it."""
    if (
        vector is not None
        and mask is not None
        and sparse_bytes(vector.size, count := int(np.count_nonzero(mask))) < 4 * vector.size
    ):
        buffer = np.empty(HEADER_BYTES + sparse_bytes(vector.size, count), np.uint8)
        bits = np.packbits(mask)
        first = buffer.size - 4 * count
        buffer[HEADER_BYTES : HEADER_BYTES + bits.size] = bits
        buffer[HEADER_BYTES + bits.size : first] = 0
        buffer[first:].view(np.float32)[:] = vector[_places(bits.tobytes(), vector.size)]
        return write_header(buffer, kind, flags=flags | FLAG_SPARSE, **fields)
    size = 0 if vector is None else vector.size
    buffer = np.empty(HEADER_BYTES + 4 * size, np.uint8)
    if vector is not None:
        buffer[HEADER_BYTES:].view(np.float32)[:] = vector
    return write_header(buffer, kind, flags=flags, **fields)


def sparse_bytes(size: int, count: int) -> int:
    """The payload of a vector [size] of which `count` numbers are there."""
    return 4 * (-(-size // 32) + count)


def vector_of(buffer: Buffer, size: int) -> NDArray[np.float32] | None:
    """The float32 vector [size] in a message, a view where all of it is there; None where it carries none.
    Raises as `masked_vector_of`."""
    return masked_vector_of(buffer, size)[0]


def masked_vector_of(
    buffer: Buffer, size: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """The same and what of it is there [size]; None: all. ProtocolError for any other length."""
    if buffer.nbytes == HEADER_BYTES:
        return None, None
    if int(header_of(buffer)["flags"]) & FLAG_SPARSE:
        return _sparse_vector_of(buffer, size)
    if buffer.nbytes != HEADER_BYTES + 4 * size:
        numbers = (buffer.nbytes - HEADER_BYTES) // 4
        raise ProtocolError(
            f"a vector of {numbers} numbers where {size} were expected: the ranks have different networks"
        )
    return buffer[HEADER_BYTES:].view(np.float32), None


def _sparse_vector_of(buffer: Buffer, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    first = HEADER_BYTES + sparse_bytes(size, 0)
    bits = buffer[HEADER_BYTES : min(first, HEADER_BYTES + -(-size // 8))]
    mask = np.unpackbits(bits, count=size).view(np.bool_)
    count = int(np.count_nonzero(mask))
    if buffer.nbytes != first + 4 * count:
        raise ProtocolError(
            f"a sparse vector of {buffer.nbytes - HEADER_BYTES} bytes where {first - HEADER_BYTES} and 4 for "
            f"each of {count} numbers were expected: the ranks have different networks"
        )
    vector = np.zeros(size, np.float32)
    vector[_places(bits.tobytes(), size)] = buffer[first:].view(np.float32)
    return vector, mask


@lru_cache(maxsize=2)
def _places(bits: bytes, size: int) -> NDArray[np.int64]:
    """The indices of the bits that are set. Masks change every few hundred updates, and to find these costs
    more than all the rest."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=size).view(np.bool_))
