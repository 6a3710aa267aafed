"""Sums by MPI's AllReduce (rounds.reduce: mpi), and how MPI says that somebody has died.

Called by comm/mpi/group.py and the other MPI files of comm/; knows communicators, not messages or roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.reductions.base import SumBackend
from hpcmarl.comm.transport import Reduction
from hpcmarl.types import Array

DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED, MPI.ERR_IN_STATUS)


def is_death(error: MPI.Exception) -> bool:
    """Whether MPI says by this error that another process has died (a list of requests tells it as an error
    in a status).
    """
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


class MpiAllReduce(SumBackend):
    """Needs nothing but the communicator."""

    def __init__(self, communicator: Any, hosts: Sequence[str]) -> None:
        self._communicator = communicator

    def start(self, vector: Array) -> MpiSum:
        sent = np.ascontiguousarray(vector)
        received = np.empty_like(sent)
        try:
            request: Any = self._communicator.Iallreduce(sent, received, MPI.SUM)
        except MPI.Exception as error:
            if not is_death(error):
                raise
            request = None
        return MpiSum(request, received, sent)

    def abandon(self) -> None:
        """MPI voids the sums when the communicator is revoked."""

    def close(self) -> None:
        """MPI frees the communicator at its end."""
