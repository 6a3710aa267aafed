"""Alignment of the clocks of all hosts with the clock of rank 0.

Processes of one host share a clock, so one rank for each host, its leader, is enough. Rank 0 sends it ROUNDS
messages, and the leader answers each with its clock. The answer was given at some time between sending and
receiving. The round with the shortest round trip bounds the offset best:

    offset = (sent + received) / 2 - theirs,   |error| <= (received - sent) / 2

Leaders do not sleep while they wait, and rank 0 serves one after another. A hundred hosts take some 50 ms.
At the end of the run rank 0 measures again. Between both times offsets are interpolated, which removes a
constant drift.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import Message, PeerFailure, Transport
from hpcmarl.tracing.spans import clock
from hpcmarl.types import Array

ROUNDS = 12
# Longest time for one leader, at the start and at the end; then its offset is that of its wall clock.
START_SECONDS, END_SECONDS = 5.0, 0.5
LEADERS_END_SECONDS = 2.0  # longest wait of a leader at the end
SPIN_SECONDS = 2.0  # a leader that waits longer sleeps between polls
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEY_BYTES = 16
_CLOCK = struct.Struct("<d")


@dataclass(frozen=True)
class Alignment:
    """Relation of a rank's clock to that of rank 0 at the start of the run.

    Attributes:
        offset: Seconds to add to this rank's clock; NaN: not measured, use the wall clock.
        uncertainty: Bound of the offset's error, seconds; NaN likewise.
        group: Number of this rank's clock, from 0.
        leaders: First rank of each clock.
        origin: Time of rank 0 that readers show as zero; NaN: unknown.
        wall: time.time() of this rank when its clock was `read_at`.
        read_at: See `wall`.
    """

    offset: float
    uncertainty: float
    group: int
    leaders: tuple[int, ...]
    origin: float
    wall: float
    read_at: float


def best_round(rounds: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the offset of another clock and the bound of its error.

    Args:
        rounds: (sent, theirs, received) of each round trip; the outer times are those of this clock.

    Returns:
        Seconds to add to the other clock, and the largest error in seconds. NaN without rounds.
    """
    if not rounds:
        return float("nan"), float("nan")
    sent, theirs, received = min(rounds, key=lambda each: each[2] - each[0])
    return (sent + received) / 2.0 - theirs, (received - sent) / 2.0


def aligned(times: Array, offset: float, begun: float, later: tuple[float, float] | None) -> Array:
    """Return times of a rank's clock in that of rank 0.

    Args:
        times: Seconds of the rank's clock, [n].
        offset: Its offset at the start.
        begun: Time of the first measurement by the rank's clock.
        later: Time of the second measurement by the rank's clock and the offset then; None: there is none.

    Returns:
        Seconds of rank 0's clock, [n]. Between the measurements offsets are interpolated.
    """
    if later is None or later[0] <= begun:
        return times + offset
    slope = (later[1] - offset) / (later[0] - begun)
    return times + offset + slope * (np.clip(times, begun, later[0]) - begun)


def clock_key() -> bytes:
    """Return bytes that are equal in all processes that share this clock: those of one boot of a kernel."""
    try:
        text = BOOT_ID.read_text() + os.readlink("/proc/self/ns/time")
    except OSError:
        text = os.uname().nodename
    return blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def own_alignment() -> Alignment:
    """Return the alignment of a rank that could not take part; readers use its host's, or its wall clock."""
    nan = float("nan")
    return Alignment(nan, nan, -1, (), nan, time.time(), clock())


def align(transport: Transport, origin: float, key: bytes | None = None) -> Alignment:
    """Measure the offsets of all clocks. Collective, before the first message of a run.

    Args:
        transport: Transport of this rank.
        origin: Time of rank 0 that readers show as zero; equal on all ranks.
        key: Bytes that are equal on all ranks that share a clock; None: those of `clock_key`.
    """
    read_at, wall = clock(), time.time()
    if transport.shares_memory((transport.rank + 1) % transport.size):  # virtual ranks share a clock
        return Alignment(0.0, 0.0, 0, (0,), origin, wall, read_at)
    keys = transport.gather_at_first(clock_key() if key is None else key)
    numbers = {each: number for number, each in enumerate(dict.fromkeys(keys))}
    groups = np.array([numbers[each] for each in keys], np.int32)
    groups = np.frombuffer(transport.broadcast(groups.tobytes() if transport.rank == 0 else None), np.int32)
    leaders = leaders_of(groups)
    table = np.full((len(leaders), 2), np.nan)
    if transport.rank == 0:
        table[0] = 0.0
        for group, leader in enumerate(leaders[1:], 1):
            table[group] = best_round(_ask(transport, leader, START_SECONDS))
    elif transport.rank in leaders:
        _answer(transport, START_SECONDS * len(leaders))
    data = np.frombuffer(transport.broadcast(table.tobytes() if transport.rank == 0 else None), np.float64)
    group = int(groups[transport.rank])
    offset, uncertainty = data.reshape(-1, 2)[group].tolist()
    return Alignment(offset, uncertainty, group, leaders, origin, wall, read_at)


def align_again(transport: Transport, alignment: Alignment) -> list[tuple[int, float, float, float]]:
    """Measure the offsets once more at the end of a run. All ranks call it; it ends within seconds.

    Messages that arrive meanwhile are discarded. Ranks that are gone have no result.

    Args:
        transport: Transport of this rank.
        alignment: Its alignment at the start.

    Returns:
        On rank 0 (number of the clock, time of that clock, offset, uncertainty) of each clock that answered;
        an empty list on other ranks.
    """
    found: list[tuple[int, float, float, float]] = []
    try:
        if transport.rank == 0:
            end = clock() + LEADERS_END_SECONDS
            for group, leader in enumerate(alignment.leaders[1:], 1):
                if clock() < end and (rounds := _ask(transport, leader, END_SECONDS)):
                    found.append((group, rounds[-1][1], *best_round(rounds)))
        elif transport.rank in alignment.leaders:
            _answer(transport, LEADERS_END_SECONDS)
    except PeerFailure:
        pass  # the job ends anyway
    return found


def leaders_of(groups: Array) -> tuple[int, ...]:
    """Return the first rank of each clock.

    Args:
        groups: Number of the clock of each rank, [ranks]; numbers are in the order of their first ranks.
    """
    return tuple(np.unique(groups, return_index=True)[1].tolist())


def _ask(transport: Transport, leader: int, limit: float) -> list[tuple[float, float, float]]:
    """Exchange ROUNDS messages with a leader; return (sent, theirs, received) of those that it answered."""
    rounds: list[tuple[float, float, float]] = []
    end = clock() + limit
    for number in range(ROUNDS):
        sent = clock()
        transport.send(leader, control(Kind.PING, source=transport.rank, version=number))
        message = _next_ping(transport, end, leader, number)
        received = clock()
        if message is None:
            break
        rounds.append((sent, _CLOCK.unpack(message.payload.tobytes())[0], received))
        message.release()
    return rounds


def _answer(transport: Transport, limit: float) -> None:
    """Answer the messages of `_ask` with this rank's clock."""
    end = clock() + limit
    for number in range(ROUNDS):
        message = _next_ping(transport, end, 0, number)
        if message is None:
            return
        message.release()
        note = control(Kind.PING, _CLOCK.pack(clock()), source=transport.rank, version=number)
        transport.send(0, note)


def _next_ping(transport: Transport, end: float, source: int, number: int) -> Message | None:
    """Wait for one PING without sleeping; return None at `end`. Other messages are discarded."""
    began = clock()
    while (now := clock()) < end:
        message = transport.receive()
        if message is None:
            if now - began > SPIN_SECONDS:
                time.sleep(1e-3)
            continue
        if message.kind is Kind.PING and message.source == source and message.header.version == number:
            return message
        message.release()
    return None
