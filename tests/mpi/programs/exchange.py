"""Any number of ranks: messages of all sizes from everyone to everyone, in order and whole; chunks; sums; broadcast; idle waiting."""

import time

import numpy as np

from hpcmarl.comm.mpi import MpiTransport
from hpcmarl.comm.protocol import HEADER_BYTES, Kind, write_header
from hpcmarl.comm.transport import Backoff

transport = MpiTransport(chunk_bytes=4096)
sizes = [0, 1, 500, 4096 - HEADER_BYTES, 5000, 100_000, 3, 1_000_000]


def message(source: int, number: int) -> np.ndarray:
    buffer = np.empty(HEADER_BYTES + sizes[number], np.uint8)
    write_header(buffer, Kind.REPORT, source=source, count=number)
    buffer[HEADER_BYTES:] = (np.arange(sizes[number]) * (source + 1) + number) % 251
    return buffer


handles = [transport.send(rank, message(transport.rank, number)) for number in range(len(sizes)) for rank in range(transport.size)]
expected = dict.fromkeys(range(transport.size), 0)
backoff, deadline = Backoff(), time.monotonic() + 60
while any(number < len(sizes) for number in expected.values()) or not all(handle.done() for handle in handles):
    assert time.monotonic() < deadline, f"rank {transport.rank} waits for {expected}"
    received = transport.receive()
    if received is None:
        backoff.wait()
        continue
    backoff.reset()
    number = int(received.header["count"])
    assert number == expected[received.source], f"message {number} of rank {received.source} where {expected[received.source]} was expected"
    assert np.array_equal(received.buffer, message(received.source, number))
    expected[received.source] += 1
    received.release()

assert transport.broadcast(b"word" if transport.rank == 0 else None) == b"word"
assert transport.gather(bytes([transport.rank])) == [bytes([rank]) for rank in range(transport.size)]
hosts = transport.gather_hosts()
assert len(hosts) == transport.size
transport.reduction_group(range(transport.size), hosts, "mpi")
for turn in range(3):
    reduction = transport.start_sum(np.full(1000, float(transport.rank + turn), np.float32))
    while (total := reduction.result()) is None:
        backoff.wait()
    assert total[0] == sum(rank + turn for rank in range(transport.size))

transport.broadcast(b"" if transport.rank == 0 else None)
backoff.reset()
cpu, wall = time.process_time(), time.monotonic()
while time.monotonic() - wall < 1.5:
    assert transport.receive() is None
    backoff.wait()
share = (time.process_time() - cpu) / (time.monotonic() - wall)
assert share < 0.2, f"an idle rank used {share:.0%} of a core"
transport.close()
if transport.rank == 0:
    print(f"exchanged, idle share {share:.3f}", flush=True)
