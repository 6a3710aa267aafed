"""Messages of all sizes between all ranks, chunks, broadcast and gathering, sums, and idle ranks."""

import time

import numpy as np

from hpcmarl.comm.protocol import HEADER_BYTES, Header, Kind, control, write_header
from hpcmarl.comm.transport import Backoff, receive_from
from hpcmarl.tracing.clock import KEY_BYTES, align, align_again
from tests.mpi.checks import Ranks, on_ranks

CHUNK_BYTES = 4096
SIZES = [0, 1, 500, CHUNK_BYTES - HEADER_BYTES, 5000, 100_000, 3, 1_000_000]
IDLE_SECONDS = 1.0


def message(source: int, number: int) -> np.ndarray:
    buffer = np.empty(HEADER_BYTES + SIZES[number], np.uint8)
    write_header(buffer, Header(Kind.REPORT, source=source, trajectories=number))
    buffer[HEADER_BYTES:] = (np.arange(SIZES[number]) * (source + 1) + number) % 251
    return buffer


@on_ranks(1, 2, 4)
def messages_arrive_whole_and_in_order(ranks: Ranks) -> None:
    transport = ranks.transport(chunk_bytes=CHUNK_BYTES)
    handles = [
        transport.send(rank, message(ranks.rank, number))
        for number in range(len(SIZES))
        for rank in range(ranks.size)
    ]
    expected = dict.fromkeys(range(ranks.size), 0)
    backoff, deadline = Backoff(), time.monotonic() + 60
    while any(number < len(SIZES) for number in expected.values()) or not all(
        handle.done() for handle in handles
    ):
        assert time.monotonic() < deadline, f"rank {ranks.rank} waits for {expected}"
        received = transport.receive()
        if received is None:
            backoff.wait()
            continue
        backoff.reset()
        number = received.header.trajectories
        assert number == expected[received.source], (
            f"message {number} of rank {received.source}, not {expected[received.source]}"
        )
        assert np.array_equal(received.buffer, message(received.source, number))
        expected[received.source] += 1
        received.release()
    transport.close()


@on_ranks(1)
def a_message_waits_for_an_earlier_incomplete_one(ranks: Ranks) -> None:
    """Rank 1's second message waits while chunks of its first are missing; rank 2's does not wait."""
    from hpcmarl.comm.mpi.messages import Incoming

    transport = ranks.transport()
    first, second, other = (
        Incoming(source, message(source, number), message(source, number), None)
        for source, number in ((1, 5), (1, 1), (2, 2))
    )
    first.filled = 0
    transport._incoming.extend([first, second, other])
    assert transport.receive().source == 2
    assert transport.receive() is None
    first.filled = first.buffer.nbytes
    assert [transport.receive().header.trajectories for _ in range(2)] == [5, 1]
    transport.close()


@on_ranks(1, 2, 4)
def collectives_give_the_same_on_every_rank(ranks: Ranks) -> None:
    transport = ranks.transport()
    assert transport.broadcast(b"word" if ranks.rank == 0 else None) == b"word"
    assert transport.gather(bytes([ranks.rank])) == [bytes([rank]) for rank in range(ranks.size)]
    hosts = transport.gather_hosts()
    assert len(hosts) == ranks.size
    transport.reduction_group(range(ranks.size), hosts, "mpi")
    backoff = Backoff()
    for turn in range(3):
        reduction = transport.start_sum(np.full(1000, float(ranks.rank + turn), np.float32))
        while (total := reduction.result()) is None:
            backoff.wait()
        assert total[0] == sum(rank + turn for rank in range(ranks.size))
    transport.close()


@on_ranks(1, 2, 4)
def an_idle_rank_sleeps(ranks: Ranks) -> None:
    transport = ranks.transport()
    transport.broadcast(b"" if ranks.rank == 0 else None)
    backoff = Backoff()
    processor, wall = time.process_time(), time.monotonic()
    while time.monotonic() - wall < IDLE_SECONDS:
        assert transport.receive() is None
        backoff.wait()
    share = (time.process_time() - processor) / (time.monotonic() - wall)
    assert share < 0.05, f"idle rank {ranks.rank} used {share:.0%} of a core"
    transport.close()


@on_ranks(2, 4)
def a_message_wakes_a_sleeping_rank(ranks: Ranks) -> None:
    transport = ranks.transport()
    transport.gather_hosts()
    assert transport.wakes
    if ranks.rank == 0:
        for rank in range(1, ranks.size):
            transport.send(rank, control(Kind.PING, source=0))
    else:
        assert transport.rest(60.0), f"rank {ranks.rank} was not woken"
        receive_from(transport, Kind.PING, 60.0).release()
        assert transport.rest(0.0) is False
    transport.gather(b"done")
    transport.close()


@on_ranks(2, 4)
def clocks_of_all_hosts_are_aligned(ranks: Ranks) -> None:
    """Each rank counts as a host of its own, though all share one clock: the true offsets are zero."""
    transport = ranks.transport()
    alignment = align(transport, 5.0, ranks.rank.to_bytes(KEY_BYTES, "little"))
    assert (alignment.group, alignment.origin) == (ranks.rank, 5.0)
    assert alignment.leaders == tuple(range(ranks.size))
    assert abs(alignment.offset) <= alignment.uncertainty < 1.0
    found = align_again(transport, alignment)
    assert [row[0] for row in found] == (list(range(1, ranks.size)) if ranks.rank == 0 else [])
    assert all(abs(offset) <= uncertainty for _, _, offset, uncertainty in found)
    shared = align(transport, 5.0, bytes(KEY_BYTES))
    assert (shared.offset, shared.uncertainty, shared.leaders) == (0.0, 0.0, (0,))
    transport.close()
