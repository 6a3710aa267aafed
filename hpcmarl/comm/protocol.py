"""Every message between ranks: who tells whom, and the fixed header in front of each. Imported by transports and roles.

A message is one contiguous uint8 buffer: HEADER, then a payload that its kind defines. Kinds double as MPI tags, and a rank
hosts each role at most once, so (rank, kind) names the receiver.

    ROLLOUT     actor   → learner           a Rollout (comm/layout.py); version: of its first step; count: trajectories
    GRADIENT    learner → server            float32 vector [P], or nothing under AllReduce; version: the round it was made for
    PARAMETERS  server  → learner           float32 vector [P], or nothing under AllReduce (the learners reduce and step by
                                            themselves); version; env_steps: of the whole run so far
    WEIGHTS     learner → its actors        float32 vector [P]; version; env_steps: of the whole run so far
    REPORT      learner, actor → server     packed tree (hpcmarl.packing): statistics, episodes
    START       server  → everyone          packed tree: the role's state of a resumed run, or an empty one;
                                            env_steps: of the whole run so far
    SNAPSHOT    server  → learner → actors  nothing: send your state; version
    STATE       learner, actor → server     packed tree: the state; version
    STOP        server  → learner → actors  nothing: finish, send your last STATE (flag FINAL)
    EXIT        server  → everyone          nothing: all is written, leave
    INTERRUPT   anyone  → server            nothing: a signal asked this rank to stop
    ALIVE       anyone  → server            nothing: this rank works (roles/liveness.py)
    LOST        server  → everyone          packed tree: a rank is lost and the run goes on without it
    REPLACED    learner → server            packed tree: a new process has the place of a dead actor, or has died in its turn
"""

from __future__ import annotations

import os
from enum import IntEnum
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
        ("policy", "<i4"),  # -1: all policies
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


class Kind(IntEnum):
    """Message kinds; the values are MPI tags."""

    ROLLOUT = 1
    GRADIENT = 2
    PARAMETERS = 3
    WEIGHTS = 4
    REPORT = 5
    START = 6
    SNAPSHOT = 7
    STATE = 8
    STOP = 9
    EXIT = 10
    INTERRUPT = 11
    ALIVE = 12
    LOST = 13
    REPLACED = 14
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
    """Fill the header of `buffer` in place; fields that are not given are 0, policy is -1. Returns the buffer."""
    buffer[:HEADER_BYTES] = 0
    header = header_of(buffer)
    header["magic"], header["kind"], header["policy"] = MAGIC, int(kind), -1
    for name, value in fields.items():
        header[name] = value
    return buffer


def check_header(buffer: Buffer, source: int) -> Any:
    """The header of a received message; raises ProtocolError where it is none of ours."""
    if buffer.nbytes < HEADER_BYTES:
        raise ProtocolError(f"a message of {buffer.nbytes} bytes from rank {source} is shorter than a header ({HEADER_BYTES} bytes)")
    header = header_of(buffer)
    if header["magic"] != MAGIC:
        raise ProtocolError(f"a message from rank {source} does not begin with hpcmarl's mark; do all ranks run the same version?")
    return header


def announced_bytes(buffer: Buffer, source: int) -> int:
    """The length of the message in pieces that this one announces; ProtocolError where no machine could hold it."""
    total = int(check_header(buffer, source)["count"])
    if not HEADER_BYTES <= total <= MEMORY_BYTES:
        raise ProtocolError(f"rank {source} announces a message of {total} bytes; allowed: {HEADER_BYTES} to {MEMORY_BYTES}, this machine's memory")
    return total


def control(kind: Kind, payload: bytes | bytearray = b"", **fields: Any) -> Buffer:
    """A new small message of a packed tree or of nothing."""
    buffer = np.empty(HEADER_BYTES + len(payload), np.uint8)
    if payload:
        buffer[HEADER_BYTES:] = np.frombuffer(payload, np.uint8)
    return write_header(buffer, kind, **fields)


def vector_message(kind: Kind, vector: NDArray[np.float32] | None, **fields: Any) -> Buffer:
    """A new message with a float32 vector (copied) as payload, or without one."""
    size = 0 if vector is None else vector.size
    buffer = np.empty(HEADER_BYTES + 4 * size, np.uint8)
    if vector is not None:
        buffer[HEADER_BYTES:].view(np.float32)[:] = vector
    return write_header(buffer, kind, **fields)


def vector_of(buffer: Buffer, size: int) -> NDArray[np.float32] | None:
    """The float32 vector [size] in a message, a view; None where it carries none. ProtocolError for any other length."""
    if buffer.nbytes == HEADER_BYTES:
        return None
    if buffer.nbytes != HEADER_BYTES + 4 * size:
        numbers = (buffer.nbytes - HEADER_BYTES) // 4
        raise ProtocolError(f"a vector of {numbers} numbers where {size} were expected: the ranks have different networks")
    return buffer[HEADER_BYTES:].view(np.float32)
