"""Sums by MPI's AllReduce (rounds.reduce: mpi), and recognition of MPI errors that mean a dead process."""

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
    """Return whether an MPI error means that another process has died.

    For a list of requests MPI reports such a death as ERR_IN_STATUS.
    """
    return error.Get_error_class() in DEATHS


class MpiSum(Reduction):
    """Non-blocking AllReduce. After a death it never completes: the survivors regroup and start again.

    Args:
        request: MPI request of the sum; None if a death has broken it.
        received: Receives the sum, shape [P].
        sent: This rank's contribution, shape [P]. MPI reads it until the request is complete.
    """

    def __init__(self, request: Any | None, received: Array, sent: Array) -> None:
        self.request = request
        self.received = received
        self.sent = sent

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
    """Sums by Iallreduce on the members' communicator."""

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
        """Do nothing: MPI cancels the sums when the communicator is revoked."""

    def close(self) -> None:
        """Do nothing: MPI frees the communicator when it is finalised."""
