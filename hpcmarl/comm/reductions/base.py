"""How a group of learners sums vectors among itself: what every backend is, and how one is found by its name
(comm.BACKENDS).

Called by comm/mpi/group.py on the learners alone and by the doctor. Imports no backend: each is loaded when
it is asked for.
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

FAILURE_TIMEOUT = 20.0  # seconds until a sum that failed while nobody was found dead ends the run


class SumBackend(ABC):
    """Sums over the members of an MPI communicator. Made by all members together; after a death it is
    abandoned and another one made.
    """

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        """Why it cannot work on this rank in a group whose members are on `hosts`: one line with the remedy;
        empty where it can.

        Not collective; may import what the backend needs.
        """
        return ""

    @abstractmethod
    def __init__(self, communicator: Any, hosts: Sequence[str]) -> None:
        """Collective. `communicator`: the members' mpi4py communicator; `hosts`: the host of each, in the
        order of their ranks.

        Raises RuntimeError when the members cannot be brought together (mpi4py's and torch's errors are
        ones).
        """

    @abstractmethod
    def start(self, vector: Array) -> Reduction:
        """Start the sum of `vector` [P] over all members, who call this in the same order.

        The vector must stay unchanged until the sum has arrived or was abandoned.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Let go of it after a death, waiting for nobody; sums under way are void. May be called twice."""

    @abstractmethod
    def close(self) -> None:
        """Leave in order, when no member sums any more and before MPI ends. Collective."""


class LibrarySum(Reduction):
    """A sum whose library tells a failure by a RuntimeError. `poll` gives the sum when it is complete, else
    None.

    Mostly a member has died: MPI says so at once, the server tells everyone, and the survivors sum again.
    Where nobody is found dead within FAILURE_TIMEOUT, `result` raises what the library said.
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
                    f"rounds.reduce: {self._name}: a sum failed while all ranks live: {self._failure}"
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
    """The class behind `rounds.reduce: name`; imports its module."""
    module, _, attribute = BACKENDS[name].partition(":")
    found: type[SumBackend] = getattr(importlib.import_module(module), attribute)
    return found
