"""Sums over some of the ranks by MPI's AllReduce, and going on with the survivors when one of them dies.

Called by comm/mpi.py; knows communicators, not messages or roles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.transport import Reduction
from hpcmarl.types import Array

DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED, MPI.ERR_IN_STATUS)


def is_death(error: MPI.Exception) -> bool:
    """Whether MPI says by this error that another process has died (a list of requests tells it as an error in a status)."""
    return error.Get_error_class() in DEATHS


class MpiSum(Reduction):
    """A non-blocking AllReduce. After a death it never completes: the survivors regroup and start again."""

    def __init__(self, request: Any | None, received: Array, sent: Array) -> None:
        self.request = request  # None: broken
        self.received = received
        self.sent = sent  # MPI reads it until the request is complete

    def result(self) -> Array | None:
        if self.request is None:
            return None
        try:
            return self.received if self.request.Test() else None
        except MPI.Exception as error:
            if not is_death(error):
                raise
            self.request = None
            return None


class MpiGroup:
    """The ranks that sum together: `members` are their ranks in `world`."""

    def __init__(self, world: Any, ranks: Sequence[int]) -> None:
        self._world = world
        color = 0 if world.Get_rank() in ranks else MPI.UNDEFINED
        self._comm = world.Split(color, world.Get_rank())
        self.members = tuple(sorted(ranks))

    def start_sum(self, vector: Array) -> MpiSum:
        """Collective among the members."""
        sent = np.ascontiguousarray(vector)
        received = np.empty_like(sent)
        try:
            request: Any = self._comm.Iallreduce(sent, received, MPI.SUM)
        except MPI.Exception as error:
            if not is_death(error):
                raise
            request = None
        return MpiSum(request, received, sent)

    def regroup(self, progress: int, state: Callable[[], bytes]) -> bytes | None:
        """Leave out who has died; see Transport.regroup. Collective among the survivors, also if more of them die meanwhile."""
        while True:
            self._comm.Revoke()  # whoever still waits in the old group comes here as well
            self._comm = self._comm.Shrink()
            self._comm.Set_errhandler(MPI.ERRORS_RETURN)
            group = self._comm.Get_group()
            self.members = tuple(MPI.Group.Translate_ranks(group, list(range(group.Get_size())), self._world.Get_group()))
            try:
                return self._newest_state(progress, state)
            except MPI.Exception as error:
                if not is_death(error):
                    raise

    def _newest_state(self, progress: int, state: Callable[[], bytes]) -> bytes | None:
        """What the member that is furthest has, for those behind it; None for whoever is not behind."""
        everyone = np.empty(self._comm.Get_size(), np.int64)
        self._comm.Allgather(np.array([progress], np.int64), everyone)
        newest = int(np.argmax(everyone))
        if everyone.min() == everyone.max():
            return None
        own = self._comm.Get_rank() == newest
        data = np.frombuffer(state(), np.uint8).copy() if own else np.empty(0, np.uint8)
        length = np.array([data.size], np.int64)
        self._comm.Bcast(length, newest)
        data = data if own else np.empty(int(length[0]), np.uint8)
        self._comm.Bcast([data, MPI.BYTE], newest)
        return None if progress == everyone.max() else data.tobytes()
