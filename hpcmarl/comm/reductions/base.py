"""Interface of the backends by which a group of learners sums vectors, and their lookup by name.

This module imports no backend; `find_backend` imports one when it is needed.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from hpcmarl.comm import BACKENDS
from hpcmarl.comm.transport import Reduction
from hpcmarl.errors import HpcmarlError
from hpcmarl.types import Array

# Seconds after which a failed sum ends the run if no rank was found dead.
FAILURE_TIMEOUT = 20.0


class SumBackend(ABC):
    """Sums over the members of an MPI communicator.

    All members create it together. After a death they abandon it and create a new one.

    Attributes:
        device: Torch device of the tensors that `start` takes beside arrays; None: it takes arrays alone.
    """

    device: Any = None

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        """Check whether the backend can work on this rank. Not collective; may import the backend's library.

        Args:
            hosts: Host name of each member.

        Returns:
            One line with the problem and its remedy; empty if there is none.
        """
        return ""

    @abstractmethod
    def __init__(self, communicator: Any, hosts: Sequence[str]) -> None:
        """Connect the members. Collective.

        Args:
            communicator: mpi4py communicator of the members.
            hosts: Host name of each member, in the order of their ranks.

        Raises:
            RuntimeError: If the members cannot connect. The errors of mpi4py and torch are subclasses of it.
        """

    @abstractmethod
    def start(self, vector: Any) -> Reduction:
        """Start a sum over all members, which must start their sums in the same order.

        Args:
            vector: This member's contribution, shape [P]: an array, or a tensor on `device`. It must stay
                unchanged until the sum has arrived or was abandoned.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Give up the backend after a death without waiting for other members; may be called twice.

        Sums under way are void.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect the members. Collective; called after the last sum and before MPI is finalised."""


class LibrarySum(Reduction):
    """Sum by a library that reports failures as RuntimeError.

    The usual cause of a failure is the death of a member. MPI then reports it at once, the server informs all
    ranks, and the survivors sum again. If no rank is found dead within FAILURE_TIMEOUT, `result` raises an
    error with the library's message.

    Args:
        name: Name of the backend, for the error message.
        begin: Starts the sum. It returns a function that returns the sum, or None while it is incomplete.
    """

    def __init__(self, name: str, begin: Callable[[], Callable[[], Array | None]]) -> None:
        self._name = name
        self._poll: Callable[[], Array | None] | None = None
        self._failed_at = 0.0
        self._failure: RuntimeError | None = None
        try:
            self._poll = begin()
        except RuntimeError as error:
            self._fail(error)

    def result(self) -> Array | None:
        if self._poll is None:
            if time.monotonic() - self._failed_at > FAILURE_TIMEOUT:
                raise HpcmarlError(
                    f"rounds.reduce: {self._name}: a sum failed although all ranks are alive: {self._failure}"
                )
            return None
        try:
            return self._poll()
        except RuntimeError as error:
            self._fail(error)
            return None

    def _fail(self, error: RuntimeError) -> None:
        self._poll, self._failure, self._failed_at = None, error, time.monotonic()


def find_backend(name: str) -> type[SumBackend]:
    """Import and return the class of a backend.

    Args:
        name: Value of `rounds.reduce`, a key of comm.BACKENDS.
    """
    module, _, attribute = BACKENDS[name].partition(":")
    found: type[SumBackend] = getattr(importlib.import_module(module), attribute)
    return found
