"""Compare hpcmarl's messages with a bare mpi4py ping-pong of the same bytes between the same two ranks.

Both take turns. The sizes are those that runs send: a header alone, the configuration's parameters and
rollouts, and 64 KiB to 16 MiB. The benchmark also times the sum of a vector over all ranks with every
available backend of rounds.reduce. Finally it counts the small gradients that the server processes per
second.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.bench.flood import flood
from hpcmarl.comm import BACKENDS
from hpcmarl.comm.protocol import HEADER_BYTES, Buffer, Header, Kind, write_header
from hpcmarl.comm.transport import Backoff, SendHandle, Transport, receive_from
from hpcmarl.config import Config
from hpcmarl.envs import describe
from hpcmarl.errors import UsageError
from hpcmarl.roles.base import ARENA_STEPS
from hpcmarl.rollouts.layout import RolloutLayout
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.training import join_world

SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "4 MiB": 1 << 22, "16 MiB": 1 << 24}
ROUNDS = 5
TIMEOUT = 60.0  # seconds to wait for one message
SUMMED = 1_000_000  # float32 elements of the summed vector
SUMS = 20  # timed sums of each backend


def run(config: Config, seconds: float) -> dict[str, Any] | None:
    """Measure messages and sums on the ranks of this world. Collective.

    Args:
        config: Configuration whose parameters and rollouts give two of the sizes.
        seconds: Time for all messages together, and again for the small gradients.

    Returns:
        The result on rank 0; None on other ranks.

    Raises:
        UsageError: The world has only one rank.
    """
    transport = join_world()
    if transport.size < 2:
        raise UsageError(
            "bench comm measures messages between ranks 0 and 1; start at least two ranks: hpcmarl bench "
            "comm -n 2"
        )
    hook = AbortHook(transport)
    try:
        result = _measure(transport, config, seconds)
        flooded = flood(transport, hook, seconds)
    except BaseException as error:
        hook.fail(error)
        raise
    transport.close()
    return None if result is None else result | flooded


def _measure(transport: Transport, config: Config, seconds: float) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = []
    sizes = _sizes(config)
    if transport.rank < 2:
        for name, size in sizes.items():
            rows.append({"message": name, **_compare(transport, size, seconds / len(sizes))})
    transport.broadcast(b"done" if transport.rank == 0 else None)
    sums = _sums(transport)
    if transport.rank != 0:
        return None
    large = [row["bandwidth_ratio"] for row in rows if row["bytes"] >= 1 << 20]
    return {
        "messages": rows,
        "sums": sums,
        "bandwidth_ratio_from_1_mib": min(large),
        "added_microseconds_small": rows[0]["hpcmarl_microseconds"] - rows[0]["bare_microseconds"],
        "ranks": transport.size,
    }


def _sums(transport: Transport) -> list[dict[str, Any]]:
    """Time the sum of a vector over all ranks with each backend that can be used.

    Returns:
        One row for each backend. Its time is the median from the start of a sum until this rank has the
        result.
    """
    vector, hosts, rows = np.ones(SUMMED, np.float32), transport.gather_hosts(), []
    for backend in BACKENDS:
        try:
            transport.reduction_group(range(transport.size), hosts, backend)
        except UsageError:
            continue  # every rank raises the same error
        times = []
        for _ in range(SUMS + 1):
            transport.gather(b"ready")
            began, backoff = time.perf_counter(), Backoff(spins=2000)
            reduction = transport.start_sum(vector)
            while reduction.result() is None:
                backoff.wait()
            times.append(time.perf_counter() - began)
        # The first sum warms up and does not count.
        rows.append(
            {"backend": backend, "elements": SUMMED, "milliseconds": 1e3 * float(np.median(times[1:]))}
        )
    return rows


def _sizes(config: Config) -> dict[str, int]:
    spec = describe(config.env, config.policies)
    algorithm = make_model(spec, config.algo, config.seed)
    unroll = config.algo.unroll_steps or ARENA_STEPS
    rollout = RolloutLayout(spec, unroll, config.topology.environments_per_actor).fixed_bytes
    return {
        "header": HEADER_BYTES,
        "parameters": HEADER_BYTES + 4 * algorithm.size,
        "rollout": rollout,
        **SIZES,
    }


def _compare(transport: Any, size: int, seconds: float) -> dict[str, float]:
    """Time messages of one size in alternating rounds.

    Both ranks derive the number of repeats from the same estimate of the speed, so that they agree.

    Returns:
        Medians over the rounds.
    """
    peer = 1 - transport.rank
    buffer = write_header(np.zeros(max(size, HEADER_BYTES), np.uint8), Header(Kind.PING))
    repeats = int(max(3, min(2000, seconds / (2 * ROUNDS) / (20e-6 + size / 1e9))))
    # The import initialises MPI.
    from hpcmarl.comm.mpi.collectives import bare_ping_pong

    bare, ours = [], []
    for _ in range(ROUNDS + 1):
        bare.append(bare_ping_pong(transport.comm, peer, buffer, repeats))
        ours.append(_ping_pong(transport, peer, buffer, repeats))
    # The first round warms up and does not count.
    alone, own = float(np.median(bare[1:])), float(np.median(ours[1:]))
    return {
        "bytes": buffer.nbytes,
        "hpcmarl_microseconds": 1e6 * own / 2,
        "bare_microseconds": 1e6 * alone / 2,
        "hpcmarl_megabytes_per_second": 2e-6 * buffer.nbytes / own,
        "bare_megabytes_per_second": 2e-6 * buffer.nbytes / alone,
        "bandwidth_ratio": alone / own,
    }


def _ping_pong(transport: Transport, peer: int, buffer: Buffer, repeats: int) -> float:
    handle = SendHandle()
    began = time.perf_counter()
    for _ in range(repeats):
        if transport.rank < peer:
            handle = transport.send(peer, buffer)
        receive_from(transport, Kind.PING, TIMEOUT).release()
        if transport.rank > peer:
            handle = transport.send(peer, buffer)
    while not handle.done():
        time.sleep(0)
    return (time.perf_counter() - began) / repeats
