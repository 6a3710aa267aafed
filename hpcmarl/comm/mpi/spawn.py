"""New processes in the place of dead ones, by MPI's Spawn and Merge, and how such a process leaves.

Called by comm/mpi/mpi_transport.py (the rank that starts one) and by the new process itself. Only those two
share a communicator: a collective Spawn of all survivors would wait for the slowest of them, and for ever for
a frozen one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.mpi.messages import Route
from hpcmarl.errors import LaunchError

FIRST, SECOND = 0, 1  # in the merged communicator: who started the other
LIMIT = 60.0  # seconds; it takes one or two, on a machine with much to do ten
PROGRAM = "hpcmarl.respawned_actor"


class Newcomer(NamedTuple):
    """A process that was started: the way to it, its number and when it was started."""

    way: Route
    process: tuple[int, int]


class Spawning:
    """Starts PROGRAM as `rank` in a thread, since that takes seconds. `result()`: None as long as it is under
    way.
    """

    def __init__(self, rank: int, payload: bytes) -> None:
        self._rank, self._payload = rank, payload
        self._deadline = time.monotonic() + LIMIT
        self._result: Newcomer | LaunchError | None = None
        threading.Thread(target=self._run, name=f"replacing rank {rank}", daemon=True).start()

    def result(self) -> Newcomer | LaunchError | None:
        """The new process, or why there is none."""
        if self._result is None and time.monotonic() > self._deadline:
            # it has died on the way: MPI waits for it for ever
            return LaunchError(
                f"no new process in the place of rank {self._rank} within {LIMIT:.0f} s (MPI_Comm_spawn)"
            )
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._spawn()
        except MPI.Exception as error:
            why = error.Get_error_string().strip()
            self._result = LaunchError(
                f"no new process in the place of rank {self._rank}: {why} (MPI_Comm_spawn)"
            )

    def _spawn(self) -> Newcomer:
        MPI.COMM_SELF.Set_errhandler(MPI.ERRORS_RETURN)
        # the launcher counts the dead one's place as taken
        information = MPI.Info.Create(
            {"wdir": os.getcwd(), "map_by": "slot:oversubscribe", "bind_to": "none"}
        )
        between = MPI.COMM_SELF.Spawn(sys.executable, ["-u", "-m", PROGRAM], 1, information)
        merged = _merge(between, second=False)
        merged.Send(np.array([self._rank, len(self._payload)], np.int64), SECOND)
        merged.Send([np.frombuffer(self._payload, np.uint8), MPI.BYTE], SECOND)
        process = np.empty(2, np.int64)
        merged.Recv(process, SECOND)
        return Newcomer(Route(merged, SECOND), (int(process[0]), int(process[1])))


def spawned(process: tuple[int, int]) -> tuple[Any, int, bytes]:
    """In the new process: the communicator with the rank that started it, its own rank, and the payload.
    LaunchError elsewhere.
    """
    between = MPI.Comm.Get_parent()
    if between == MPI.COMM_NULL:
        raise LaunchError(
            f"{PROGRAM} is started by a learner in the place of a dead actor (topology.respawn), not by hand"
        )
    merged = _merge(between, second=True)
    sizes = np.empty(2, np.int64)
    merged.Recv(sizes, FIRST)
    payload = np.empty(int(sizes[1]), np.uint8)
    merged.Recv([payload, MPI.BYTE], FIRST)
    merged.Send(np.array(process, np.int64), FIRST)
    return merged, int(sizes[0]), payload.tobytes()


def _merge(between: Any, *, second: bool) -> Any:
    between.Set_errhandler(MPI.ERRORS_RETURN)
    merged = between.Merge(second)
    merged.Set_errhandler(MPI.ERRORS_RETURN)
    return merged


def finalize_pmix() -> None:
    """Tell the launcher that this process ends in order. MPI_Finalize would wait for the rest of the world,
    which may be gone; without a word the launcher calls the whole job failed.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libpmix.so.2")
        while library.PMIx_Initialized():
            if library.PMIx_Finalize(None, ctypes.c_size_t(0)) != 0:
                break
