"""Collective operations in which waiting ranks sleep, and the plain exchange that benchmarks compare with.

A run uses them at its start and end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.protocol import Buffer, Kind
from hpcmarl.comm.reductions.mpi_allreduce import is_death
from hpcmarl.comm.transport import Backoff, PeerAborted, PeerFailure


def sleep_until(comm: Any, begin: Callable[[], Any], seconds: float | None = None) -> None:
    """Wait for a collective operation with sleeps between the polls.

    Args:
        comm: Communicator of the operation.
        begin: Starts the operation and returns its request.
        seconds: Longest wait; None: no limit.

    Raises:
        PeerAborted: If another rank has announced that the job ends.
        PeerFailure: If another rank has died, before or during the wait, or the time is over.
    """
    backoff = Backoff()
    deadline = time.monotonic() + (seconds or float("inf"))
    try:
        request = begin()
        while not request.Test():
            if comm.Iprobe(MPI.ANY_SOURCE, int(Kind.ABORT)):
                raise PeerAborted(f"another rank has failed; rank {comm.Get_rank()} ends with it")
            if time.monotonic() > deadline:
                raise PeerFailure(f"rank {comm.Get_rank()} waited {seconds} s for the others")
            backoff.wait()
    except MPI.Exception as error:  # any of the three MPI calls can detect a death
        if not is_death(error):
            raise
        raise PeerFailure(f"MPI reports to rank {comm.Get_rank()} that another rank has died") from None


def leave_together(comm: Any, seconds: float | None) -> None:
    """Wait until all ranks are about to leave.

    The death of a rank is ignored here, since its work is complete. If another rank announces that the job
    ends, this process ends at once, because MPI_Finalize would wait for ranks that do not call it.

    Args:
        comm: Communicator of all ranks.
        seconds: Longest wait; None: no limit.
    """
    try:
        sleep_until(comm, comm.Ibarrier, seconds)
    except PeerAborted:
        sys.stdout.flush()
        os._exit(1)
    except PeerFailure:
        pass


def broadcast(comm: Any, payload: bytes | None) -> bytes:
    """Return rank 0's payload on every rank. Collective.

    Args:
        comm: Communicator of all ranks.
        payload: The payload on rank 0; None on the other ranks.
    """
    length = np.array([len(payload) if payload is not None else 0], np.int64)
    sleep_until(comm, lambda: comm.Ibcast(length, 0))
    data = (
        np.frombuffer(payload, np.uint8).copy() if payload is not None else np.empty(int(length[0]), np.uint8)
    )
    sleep_until(comm, lambda: comm.Ibcast([data, MPI.BYTE], 0))
    return data.tobytes()


def gather(comm: Any, payload: bytes) -> list[bytes]:
    """Return the payloads of all ranks, which have one length, on every rank. Collective."""
    own = np.frombuffer(payload, np.uint8).copy()
    everyone = np.empty((comm.Get_size(), own.size), np.uint8)
    sleep_until(comm, lambda: comm.Iallgather([own, MPI.BYTE], [everyone, MPI.BYTE]))
    return [row.tobytes() for row in everyone]


def gather_at_first(comm: Any, payload: bytes) -> list[bytes]:
    """Return the payloads of all ranks, which have one length, on rank 0. Collective.

    Returns:
        The payloads by rank; an empty list on other ranks than 0.
    """
    own = np.frombuffer(payload, np.uint8).copy()
    everyone = np.empty((comm.Get_size() if comm.Get_rank() == 0 else 0, own.size), np.uint8)
    sleep_until(comm, lambda: comm.Igather([own, MPI.BYTE], [everyone, MPI.BYTE], 0))
    return [row.tobytes() for row in everyone]


def bare_ping_pong(comm: Any, peer: int, sent: Buffer, repeats: int) -> float:
    """Measure round trips between two ranks by plain blocking MPI calls. The lower rank sends first.

    Args:
        comm: Communicator of both ranks.
        peer: The other rank.
        sent: Message to send.
        repeats: Number of round trips.

    Returns:
        Mean time of a round trip, seconds.
    """
    received = np.empty_like(sent)
    began = time.perf_counter()
    for _ in range(repeats):
        if comm.Get_rank() < peer:
            comm.Send([sent, MPI.BYTE], peer)
            comm.Recv([received, MPI.BYTE], peer)
        else:
            comm.Recv([received, MPI.BYTE], peer)
            comm.Send([sent, MPI.BYTE], peer)
    return (time.perf_counter() - began) / repeats
