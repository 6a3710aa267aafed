"""Kinds of messages between ranks, and the fixed header in front of each.

A message is one contiguous uint8 buffer: a header (`HEADER_DTYPE`), then a payload that its kind defines.
Kinds double as MPI tags. A rank hosts each role at most once, so (rank, kind) names the receiver.

ROLLOUT, actor -> learner: a Rollout (rollouts/layout.py); version of its first step; trajectories.
GRADIENT, learner -> server: vector [P], or none under AllReduce; version: the round that it was made for;
    trajectories.
PARAMETERS, server -> learner: vector [P], or none under AllReduce, where the learners sum and step
    themselves; version; env_steps of the run so far.
WEIGHTS, learner -> its actors: vector [P]; version; env_steps of the run so far; with Flags.ALLOTTED,
    trajectories: episodes that may begin.
REPORT, learner or actor -> server: packed tree (hpcmarl.packing) of statistics and episodes.
START, server -> every role: packed tree with the role's state of a resumed run, or an empty one; addressee;
    env_steps of the run so far.
CHECKPOINT_REQUEST, server -> learner -> actors: no payload; asks for the state at `version`.
STATE, learner or actor -> server: packed tree with the state; version.
CLOSE, server -> learner -> actors: no payload; the round is complete, begin no further episode of this
    version (admission: all_begun).
CLOSED, actor -> learner -> server: no payload; no episode of `version` runs any more; trajectories that were
    sent for it.
LATE, server -> learner: no payload; a gradient for the round `version` came after its end and was not used.
STOP, server -> learner -> actors: no payload; finish and send the last STATE (Flags.FINAL).
EXIT, server -> every rank: no payload; all files are written, leave with exit_code.
INTERRUPT, any rank -> server: no payload; a signal asked this rank to stop.
ALIVE, any rank -> server: no payload; the heartbeat (runtime/heartbeat.py).
LOST, server -> every rank: packed tree; a rank is lost, and the run continues without it.
REPLACED, learner -> server: packed tree; a new process took the place of a dead actor, or has died in turn.

In a league (league/runtime/league_server.py) these messages go between the ranks of one team, which trains a
member; `team` is the number of its training assignment. Between the league's server and its clients, one on
every rank, `team` is 0, and the payloads are packed trees:

FREE, client -> league: a rank is free, its team wants an assignment, or it wants a match.
ASSIGNMENT, league -> clients of a team: a training assignment.
OPPONENTS, league -> clients of a team: a new mixture of opponents.
PLAYED, client -> league: results of the member in training.
FROZEN, client -> league: an assignment is over; the snapshot, if one was made.
MATCH, league -> client: an evaluation match to play.
RESULT, client -> league: its result.

A vector is P float32. With Flags.SPARSE, used where that is shorter, it is a bit mask of P bits (padded to
words of 32 bits), followed by the float32 of the set bits; all other entries are zero.
"""

from __future__ import annotations

import os
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import ProtocolError

Buffer = NDArray[np.uint8]

ROLE_NAMES = ("server", "learner", "actor", "evaluator", "league", "client")
HEADER_DTYPE = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<i4"),
        ("source", "<i4"),
        ("role", "<i4"),  # index in ROLE_NAMES + 1; 0: none
        ("addressee", "<i4"),  # the same
        ("exit_code", "<i4"),
        ("group", "<i4"),
        ("team", "<i4"),
        ("version", "<i8"),
        ("trajectories", "<i8"),
        ("message_bytes", "<i8"),
        ("env_steps", "<i8"),
        ("agent_steps", "<i8"),
        ("staleness", "<f8"),
        ("flags", "<i8"),
    ]
)
HEADER_BYTES = HEADER_DTYPE.itemsize
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MAGIC = 0x324C524D  # "MRL2"
_ROLES = ("", *ROLE_NAMES)
_ROLE_NUMBERS = {name: number for number, name in enumerate(_ROLES)}


class Flags(IntFlag):
    """Yes-or-no facts of a message."""

    NONE = 0
    FINAL = 1  # STATE: the last one of a role
    MORE = 2  # ROLLOUT: another episode that ended in the same step follows
    SPARSE = 4  # a vector holds the active entries only
    WAIT = 8  # WEIGHTS: the learner is behind; step no further until other weights come
    ALLOTTED = 16  # WEIGHTS: at most `trajectories` episodes of this version may begin
    # GRADIENT under AllReduce: it is in the learner's part of its round's sum, even if it comes after the
    # round is complete
    SUMMED = 32


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
    ASSIGNMENT = 51
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


class Header(NamedTuple):
    """The decoded front of a message; byte layout: HEADER_DTYPE."""

    kind: Kind
    source: int = 0  # MPI rank of the sender
    role: str = ""  # of the sender; empty in messages of transports
    addressee: str = ""  # role that a START is for
    exit_code: int = 0  # of an EXIT
    group: int = 0
    team: int = 0  # number of a league's training assignment; 0: outside a team
    version: int = 0  # of parameters, in updates
    trajectories: int = 0
    message_bytes: int = 0  # CHUNKED: length of the whole message
    env_steps: int = 0
    agent_steps: int = 0
    staleness: float = 0.0  # summed over trajectories, in versions
    flags: Flags = Flags.NONE


def read_header(buffer: Buffer) -> Header:
    """Decode the header at the front of a message that is known to be one of ours."""
    fields = buffer[:HEADER_BYTES].view(HEADER_DTYPE)[0].item()
    _, kind, source, role, addressee = fields[:5]
    return Header._make(
        (Kind(kind), source, _ROLES[role], _ROLES[addressee], *fields[5:-1], Flags(fields[-1]))
    )


def write_header(buffer: Buffer, header: Header) -> Buffer:
    """Encode a header at the front of `buffer`, in place, and return the buffer."""
    kind, source, role, addressee, *rest = header
    numbers = (_ROLE_NUMBERS[role], _ROLE_NUMBERS[addressee])
    buffer[:HEADER_BYTES].view(HEADER_DTYPE)[0] = (MAGIC, int(kind), source, *numbers, *rest)
    return buffer


def set_team(buffer: Buffer, team: int) -> None:
    """Overwrite the team in the header of a message."""
    buffer[:HEADER_BYTES].view(HEADER_DTYPE)["team"] = team


def kind_of(buffer: Buffer) -> int:
    """Return the number of a message's kind, its MPI tag."""
    return int(buffer[:HEADER_BYTES].view(HEADER_DTYPE)["kind"][0])


def check_header(buffer: Buffer, source: int) -> Header:
    """Decode the header of a received message.

    Args:
        buffer: The message.
        source: Rank that it came from, for error messages.

    Raises:
        ProtocolError: If it is no message of this version of hpcmarl.
    """
    if buffer.nbytes < HEADER_BYTES:
        raise ProtocolError(
            f"a message of {buffer.nbytes} bytes from rank {source} is shorter than a header ({HEADER_BYTES} "
            "bytes)"
        )
    if buffer[:HEADER_BYTES].view(HEADER_DTYPE)["magic"][0] != MAGIC:
        raise ProtocolError(
            f"a message from rank {source} does not begin with hpcmarl's mark; do all ranks run the same "
            "version?"
        )
    try:
        return read_header(buffer)
    except (ValueError, IndexError) as error:
        raise ProtocolError(f"a message from rank {source} has a damaged header: {error}") from None


def announced_bytes(buffer: Buffer, source: int) -> int:
    """Return the length of the message whose pieces follow this announcement.

    Raises:
        ProtocolError: If this machine's memory could not hold it.
    """
    total = check_header(buffer, source).message_bytes
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
    return write_header(buffer, Header(kind, **fields))


def vector_message(
    kind: Kind,
    vector: NDArray[np.float32] | None,
    mask: NDArray[np.bool_] | None = None,
    flags: Flags = Flags.NONE,
    **fields: Any,
) -> Buffer:
    """A new message with a float32 vector [P] (copied) as payload, or without one.

    mask [P]: what of the vector is there. The rest need not arrive, and does not where the message is shorter
    for it.
    """
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
        return write_header(buffer, Header(kind, flags=flags | Flags.SPARSE, **fields))
    size = 0 if vector is None else vector.size
    buffer = np.empty(HEADER_BYTES + 4 * size, np.uint8)
    if vector is not None:
        buffer[HEADER_BYTES:].view(np.float32)[:] = vector
    return write_header(buffer, Header(kind, flags=flags, **fields))


def sparse_bytes(size: int, count: int) -> int:
    """The payload of a vector [size] of which `count` numbers are there."""
    return 4 * (-(-size // 32) + count)


def vector_of(buffer: Buffer, size: int) -> NDArray[np.float32] | None:
    """The float32 vector [size] in a message, a view where all of it is there; None where it carries none.
    Raises as `masked_vector_of`.
    """
    return masked_vector_of(buffer, size)[0]


def masked_vector_of(
    buffer: Buffer, size: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """The same and what of it is there [size]; None: all. ProtocolError for any other length."""
    if buffer.nbytes == HEADER_BYTES:
        return None, None
    if read_header(buffer).flags & Flags.SPARSE:
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
    more than all the rest.
    """
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=size).view(np.bool_))
