"""Sums by Horovod over the learners' communicator (rounds.reduce: horovod).

Only this module imports Horovod, which tools/install_horovod builds. Horovod's background thread calls MPI
concurrently with the main thread. It does so every HOROVOD_CYCLE_TIME milliseconds, also without a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hpcmarl.comm.reductions.base import LibrarySum, SumBackend
from hpcmarl.types import Array

REMEDY = "run tools/install_horovod (docs/cluster.md), or choose rounds.reduce: mpi"


def load() -> Any:
    """Import and return horovod.torch.

    Raises:
        ImportError: If it is missing, or was built for another version of torch or MPI.
        OSError: If one of its libraries cannot be loaded, for the same reasons.
    """
    import horovod.torch

    return horovod.torch


class HorovodAllReduce(SumBackend):
    """Sums by Horovod. Its state is global, so a process can have only one such backend at a time."""

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        try:
            horovod = load()
        except ModuleNotFoundError as error:
            return f"the module {error.name} is not installed; {REMEDY}"
        except (ImportError, OSError, RuntimeError) as error:
            return (
                f"Horovod cannot be loaded ({' '.join(str(error).split())[:200]}), because it was built for "
                f"another torch or MPI; {REMEDY}"
            )
        return "" if horovod.mpi_built() else f"Horovod was built without MPI; {REMEDY}"

    def __init__(self, communicator: Any, hosts: Sequence[str]) -> None:
        self._horovod = load()
        self._horovod.init(comm=communicator)

    def start(self, vector: Array) -> LibrarySum:
        return LibrarySum("horovod", lambda: self._begin(vector))

    def _begin(self, vector: Array) -> Callable[[], Array | None]:
        handle = self._horovod.allreduce_async(torch.from_numpy(vector), op=self._horovod.Sum, name="round")

        def poll() -> Array | None:
            return (
                np.asarray(self._horovod.synchronize(handle).numpy()) if self._horovod.poll(handle) else None
            )

        return poll

    def abandon(self) -> None:
        self._horovod.shutdown()

    def close(self) -> None:
        self._horovod.shutdown()  # must precede MPI_Finalize, which aborts otherwise
