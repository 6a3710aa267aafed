"""Kinds of messages between ranks, and the fixed header in front of each.

A message is one contiguous uint8 buffer: a header (`HEADER_DTYPE`), then a payload that depends on the kind.
Kinds are also the MPI tags. A rank hosts each role at most once, so the rank and the kind determine the
receiver.

Kinds, with sender -> receiver, the payload, the header fields in use, and the meaning. P is the number of
parameters; "progress" means env_steps, the environment steps of the run so far.

ROLLOUT, actor -> learner: a Rollout (rollouts/layout.py); version of its first step, trajectories.
GRADIENT, learner -> server: vector [P], or no payload under AllReduce; version of the round that it was made
    for, trajectories.
PARAMETERS, server -> learner: vector [P]; version, progress. There is no payload under AllReduce, where the
    learners sum gradients and step the optimizer themselves.
WEIGHTS, learner -> its actors: vector [P]; version, progress; with Flags.ALLOTTED also trajectories, the
    number of episodes that may begin.
REPORT, learner or actor -> server: packed tree (hpcmarl.packing) of statistics and episodes.
START, server -> learners and actors: packed tree with the role's state in a resumed run, else an empty tree;
    addressee, progress. Actor -> its workers: states of their environments.
CHECKPOINT_REQUEST, server -> learner -> actors -> workers: no payload; asks for the state at `version`.
    Workers are asked only in deterministic runs.
STATE, learner or actor -> server, worker -> actor: packed tree with the state; version.
CLOSE, server -> learner -> actors: no payload; the round is complete, so actors must not begin further
    episodes of `version` (admission: all_begun).
CLOSED, actor -> learner -> server: no payload; all episodes of `version` have ended; trajectories is the
    number sent for this version.
LATE, server -> learner: no payload; a gradient for the round `version` arrived after the end of the round and
    was not used.
STOP, server -> learner -> actors -> workers: no payload; finish and send the last STATE (Flags.FINAL).
SHARE, actor -> its workers: packed tree; where the shared memory lies.
SHARED, worker -> actor: packed tree; the worker has mapped the shared memory.
EXIT, server -> every rank: no payload; all files are written, leave with exit_code.
INTERRUPT, any rank -> server: no payload; a signal asked this rank to stop.
ALIVE, any rank -> server: no payload; the heartbeat (runtime/heartbeat.py).
LOST, server -> every rank: packed tree; a rank is lost, and the run continues without it.
REPLACED, learner -> server: packed tree; a new process has replaced a dead actor, or could not be started, or
    has died too.

In a league (league/runtime/league_server.py) these messages pass between the ranks of one team, which trains
one member. Their `team` is the number of the team's training assignment. The following kinds pass between the
league's server and its clients, one on every rank. Their `team` is 0, and their payloads are packed trees:

FREE, client -> league: a rank is free, its team requests an assignment, or it requests a match.
ASSIGNMENT, league -> clients of a team: a training assignment.
OPPONENTS, league -> clients of a team: a new mixture of opponents.
PLAYED, client -> league: results of the member in training.
FROZEN, client -> league: an assignment has ended; the snapshot, if one was made.
MATCH, league -> client: an evaluation match to play.
RESULT, client -> league: the result of a match.

A vector consists of P float32. With Flags.SPARSE it is a bit mask of P bits, padded to words of 32 bits, then
the float32 of the set bits; all other entries are zero. The sparse form is used where it is shorter.
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

ROLE_NAMES = ("server", "learner", "actor", "evaluator", "league", "client", "worker")
HEADER_DTYPE = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<i4"),
        ("source", "<i4"),
        ("role", "<i4"),  # index in ROLE_NAMES + 1; 0: none
        ("addressee", "<i4"),  # as for role
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
_ROLES = dict(enumerate(("", *ROLE_NAMES)))
_ROLE_NUMBERS = {name: number for number, name in _ROLES.items()}


class Flags(IntFlag):
    """Flags in the header of a message."""

    NONE = 0
    FINAL = 1  # STATE: the last one of a role
    MORE = 2  # ROLLOUT: another episode that ended in the same step follows
    SPARSE = 4  # a vector holds the active entries only
    WAIT = 8  # WEIGHTS: the learner is behind; pause until the next weights arrive
    ALLOTTED = 16  # WEIGHTS: at most `trajectories` episodes of this version may begin
    # GRADIENT under AllReduce: the learner's contribution to the round's sum contains this gradient, even if
    # the message arrives after the round is complete.
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
    SHARE = 18
    SHARED = 19
    FREE = 50
    ASSIGNMENT = 51
    OPPONENTS = 52
    PLAYED = 53
    FROZEN = 54
    MATCH = 55
    RESULT = 56
    # Messages between transports, which roles never see.
    ABORT = 20  # a rank has failed: all ranks must end now
    CHUNKED = 30  # announces the length of a message that follows in chunks
    CHUNK = 31
    PING = 40
    # Tag of a message that another rank passes on: RELAYED + rank of the receiver. The header has the kind.
    RELAYED = 100


_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """Decoded header of a message; byte layout: HEADER_DTYPE."""

    kind: Kind
    source: int = 0  # MPI rank of the sender
    role: str = ""  # of the sender; empty in messages of transports
    addressee: str = ""  # of a START: role that receives it
    exit_code: int = 0  # of an EXIT
    group: int = 0
    team: int = 0  # number of a league's training assignment; 0: outside a team
    version: int = 0  # number of parameter updates
    trajectories: int = 0
    message_bytes: int = 0  # CHUNKED: length of the whole message
    env_steps: int = 0
    agent_steps: int = 0
    staleness: float = 0.0  # summed over trajectories, in versions
    flags: Flags = Flags.NONE


def read_header(buffer: Buffer) -> Header:
    """Decode the header of a message that has already been checked (see `check_header`)."""
    return _decode(buffer[:HEADER_BYTES].view(HEADER_DTYPE)[0].item())


def _decode(fields: tuple[Any, ...]) -> Header:
    """Return the header of a decoded record.

    Raises:
        KeyError: If the kind or a role has an unknown number.
    """
    _, kind, source, role, addressee = fields[:5]
    return Header._make(
        (_KINDS[kind], source, _ROLES[role], _ROLES[addressee], *fields[5:-1], Flags(fields[-1]))
    )


def write_header(buffer: Buffer, header: Header) -> Buffer:
    """Write a header into the first bytes of `buffer` and return the buffer."""
    kind, source, role, addressee, *rest = header
    numbers = (_ROLE_NUMBERS[role], _ROLE_NUMBERS[addressee])
    buffer[:HEADER_BYTES].view(HEADER_DTYPE)[0] = (MAGIC, int(kind), source, *numbers, *rest)
    return buffer


def set_team(buffer: Buffer, team: int) -> None:
    """Overwrite the team in the header of a message."""
    buffer[:HEADER_BYTES].view(HEADER_DTYPE)["team"] = team


def kind_of(buffer: Buffer) -> int:
    """Return the kind of a message as a number, which is also its MPI tag."""
    return int(buffer[:HEADER_BYTES].view(HEADER_DTYPE)["kind"][0])


def check_header(buffer: Buffer, source: int) -> Header:
    """Decode the header of a received message.

    Args:
        buffer: The message.
        source: Rank of the sender, for error messages.

    Raises:
        ProtocolError: If the buffer is too short, has another magic number, or has invalid fields.
    """
    if buffer.nbytes < HEADER_BYTES:
        raise ProtocolError(
            f"a message of {buffer.nbytes} bytes from rank {source} is shorter than a header ({HEADER_BYTES} "
            "bytes)"
        )
    fields = buffer[:HEADER_BYTES].view(HEADER_DTYPE)[0].item()
    if fields[0] != MAGIC:
        raise ProtocolError(
            f"a message from rank {source} does not begin with hpcmarl's mark; run the same version of "
            "hpcmarl on all ranks"
        )
    try:
        return _decode(fields)
    except KeyError as error:
        raise ProtocolError(
            f"a message from rank {source} has a damaged header: unknown kind or role {error}"
        ) from None


def announced_bytes(buffer: Buffer, source: int) -> int:
    """Return the length of a message that follows in chunks.

    Args:
        buffer: The CHUNKED message that announces it.
        source: Rank of the sender, for error messages.

    Returns:
        Length in bytes, with the header.

    Raises:
        ProtocolError: If the length exceeds this machine's memory or is less than a header.
    """
    total = check_header(buffer, source).message_bytes
    if not HEADER_BYTES <= total <= MEMORY_BYTES:
        raise ProtocolError(
            f"rank {source} announces a message of {total} bytes; allowed: {HEADER_BYTES} to {MEMORY_BYTES}, "
            "this machine's memory"
        )
    return total


def control(kind: Kind, payload: bytes | bytearray = b"", **fields: Any) -> Buffer:
    """Build a message.

    Args:
        kind: Kind of the message.
        payload: Packed tree, or empty.
        **fields: Further fields of Header.
    """
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
    """Build a message that holds a copy of a vector.

    Args:
        kind: Kind of the message.
        vector: Vector, shape [P]; None: no payload.
        mask: Active entries, shape [P]; None: all. The message is sparse if that makes it shorter. The
            inactive entries are then zero for the receiver.
        flags: Flags of the header, without SPARSE.
        **fields: Further fields of Header.
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
    """Return the payload length in bytes of a sparse vector of `size` entries, `count` of them active."""
    return 4 * (-(-size // 32) + count)


def vector_of(buffer: Buffer, size: int) -> NDArray[np.float32] | None:
    """Return the vector in a message.

    Args:
        buffer: The message.
        size: Expected length P of the vector.

    Returns:
        Vector, shape [P]: a view of the buffer if the message is dense, else a new array. None if the message
        has no payload.

    Raises:
        ProtocolError: If the vector has another length.
    """
    return masked_vector_of(buffer, size)[0]


def masked_vector_of(
    buffer: Buffer, size: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """Return the vector in a message and the mask of its active entries.

    Args:
        buffer: The message.
        size: Expected length P of the vector.

    Returns:
        The vector as from `vector_of`, and the mask, shape [P]; the mask is None if the message is dense or
        has no payload.

    Raises:
        ProtocolError: If the vector has another length.
    """
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
    """Return the indices of the set bits among the first `size` bits.

    The cache is worthwhile: masks change only every few hundred updates, and unpacking the bits costs more
    than the rest of encoding or decoding.
    """
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=size).view(np.bool_))
