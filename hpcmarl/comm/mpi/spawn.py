"""Start of processes that replace dead ones, by MPI's Spawn and Merge, and the end of such a process.

Only the new process and the rank that started it share a communicator. A collective Spawn by all survivors
would wait for the slowest of them, and forever for a frozen one.
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

# Ranks in the merged communicator: the parent, and the process that it started.
FIRST, SECOND = 0, 1
# Seconds until a start counts as failed. A start takes one or two seconds, and ten on a busy machine.
LIMIT = 60.0
PROGRAM = "hpcmarl.respawned_actor"


class RespawnedProcess(NamedTuple):
    """A process that was started.

    Attributes:
        way: Route to the process.
        process: Its process number and start time (launch/processes.py).
    """

    way: Route
    process: tuple[int, int]


class Spawning:
    """Start of PROGRAM in a thread, because it takes seconds.

    Args:
        rank: Rank that the new process replaces.
        payload: Data for the new process.
    """

    def __init__(self, rank: int, payload: bytes) -> None:
        self._rank, self._payload = rank, payload
        self._deadline = time.monotonic() + LIMIT
        self._result: RespawnedProcess | LaunchError | None = None
        threading.Thread(target=self._run, name=f"replacing rank {rank}", daemon=True).start()

    def result(self) -> RespawnedProcess | LaunchError | None:
        """Return the new process, or the reason for a failure, or None while the start is under way."""
        if self._result is None and time.monotonic() > self._deadline:
            # The process has died during the start, and MPI waits for it forever.
            return LaunchError(f"rank {self._rank} was not replaced within {LIMIT:.0f} s (MPI_Comm_spawn)")
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._spawn()
        except MPI.Exception as error:
            why = error.Get_error_string().strip()
            self._result = LaunchError(f"rank {self._rank} cannot be replaced: {why} (MPI_Comm_spawn)")

    def _spawn(self) -> RespawnedProcess:
        MPI.COMM_SELF.Set_errhandler(MPI.ERRORS_RETURN)
        # The launcher still counts the slot of the dead process as occupied, hence "oversubscribe".
        information = MPI.Info.Create(
            {"wdir": os.getcwd(), "map_by": "slot:oversubscribe", "bind_to": "none"}
        )
        between = MPI.COMM_SELF.Spawn(sys.executable, ["-u", "-m", PROGRAM], 1, information)
        merged = _merge(between, second=False)
        merged.Send(np.array([self._rank, len(self._payload)], np.int64), SECOND)
        merged.Send([np.frombuffer(self._payload, np.uint8), MPI.BYTE], SECOND)
        process = np.empty(2, np.int64)
        merged.Recv(process, SECOND)
        return RespawnedProcess(Route(merged, SECOND), (int(process[0]), int(process[1])))


def spawned(process: tuple[int, int]) -> tuple[Any, int, bytes]:
    """Connect a new process with the rank that started it.

    Args:
        process: Process number and start time of this process, to be sent to the parent.

    Returns:
        The communicator with the parent, the rank that this process replaces, and the payload.

    Raises:
        LaunchError: If MPI did not spawn this process.
    """
    between = MPI.Comm.Get_parent()
    if between == MPI.COMM_NULL:
        raise LaunchError(
            f"{PROGRAM} can only be started by a learner, to replace a dead actor (topology.respawn)"
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
    """Report a regular end of this process to the launcher.

    MPI_Finalize would wait for the other ranks, which may have ended. Without a report the launcher would
    regard the whole job as failed.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libpmix.so.2")
        while library.PMIx_Initialized():
            if library.PMIx_Finalize(None, ctypes.c_size_t(0)) != 0:
                break
