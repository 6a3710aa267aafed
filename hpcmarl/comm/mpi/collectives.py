"""What all ranks of a communicator do together, asleep while they wait; and the bare exchange that benchmarks
compare with.

Called by comm/mpi/mpi_transport.py at the start and at the end of a run; knows no roles.
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
    """Wait for the collective whose request `begin` returns without burning a core, for `seconds` at most.
    Raises PeerFailure when a rank has died, before or meanwhile, PeerAborted when one gives up.
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
    except MPI.Exception as error:  # any of the three calls can be the one that finds it out
        if not is_death(error):
            raise
        raise PeerFailure(f"MPI reports to rank {comm.Get_rank()} that another rank has died") from None


def leave_together(comm: Any, seconds: float | None) -> None:
    """Wait until all ranks are about to leave; one that dies only now has done its part. Where another one
    gives up this process ends here: nobody would come to MPI_Finalize.
    """
    try:
        sleep_until(comm, comm.Ibarrier, seconds)
    except PeerAborted:
        sys.stdout.flush()
        os._exit(1)
    except PeerFailure:
        pass


def broadcast(comm: Any, payload: bytes | None) -> bytes:
    """Rank 0's payload, on every rank."""
    length = np.array([len(payload) if payload is not None else 0], np.int64)
    sleep_until(comm, lambda: comm.Ibcast(length, 0))
    data = (
        np.frombuffer(payload, np.uint8).copy() if payload is not None else np.empty(int(length[0]), np.uint8)
    )
    sleep_until(comm, lambda: comm.Ibcast([data, MPI.BYTE], 0))
    return data.tobytes()


def gather(comm: Any, payload: bytes) -> list[bytes]:
    """Every rank's payload, all of one length, on every rank."""
    own = np.frombuffer(payload, np.uint8).copy()
    everyone = np.empty((comm.Get_size(), own.size), np.uint8)
    sleep_until(comm, lambda: comm.Iallgather([own, MPI.BYTE], [everyone, MPI.BYTE]))
    return [row.tobytes() for row in everyone]


def gather_at_first(comm: Any, payload: bytes) -> list[bytes]:
    """Every rank's payload, all of one length, on rank 0; nothing elsewhere."""
    own = np.frombuffer(payload, np.uint8).copy()
    everyone = np.empty((comm.Get_size() if comm.Get_rank() == 0 else 0, own.size), np.uint8)
    sleep_until(comm, lambda: comm.Igather([own, MPI.BYTE], [everyone, MPI.BYTE], 0))
    return [row.tobytes() for row in everyone]


def bare_ping_pong(comm: Any, peer: int, sent: Buffer, repeats: int) -> float:
    """Seconds of a round trip by plain blocking calls. The lower rank begins."""
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
