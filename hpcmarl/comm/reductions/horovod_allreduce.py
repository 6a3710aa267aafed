"""Sums by Horovod over the learners' communicator (rounds.reduce: horovod). The only file that imports it;
loaded by learners alone.

Horovod's own thread talks to MPI beside this one, every HOROVOD_CYCLE_TIME milliseconds whether there is a
sum or not. tools/install_horovod builds it.
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
    """horovod.torch; raises ImportError or OSError where it is missing or was built for another torch or
    MPI.
    """
    import horovod.torch

    return horovod.torch


class HorovodAllReduce(SumBackend):
    """Horovod keeps one state a process, so there is at most one of these at a time."""

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        try:
            horovod = load()
        except ModuleNotFoundError as error:
            return f"the module {error.name} is not installed; {REMEDY}"
        except (ImportError, OSError, RuntimeError) as error:
            return (
                f"Horovod does not load ({' '.join(str(error).split())[:200]}), it was built for another "
                f"torch or MPI; {REMEDY}"
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
        self._horovod.shutdown()  # MPI_Finalize before this aborts
