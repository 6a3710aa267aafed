"""The learners that sum together: their communicator, its backend, and going on with the survivors when one
of them dies.

Called by comm/mpi/mpi_transport.py; knows communicators and the interface of backends
(comm/reductions/base.py), not messages or roles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmarl.comm.reductions.base import SumBackend, find_backend
from hpcmarl.comm.reductions.mpi_allreduce import is_death
from hpcmarl.comm.transport import Reduction, Regrouping
from hpcmarl.errors import ConfigError, HpcmarlError, LaunchError
from hpcmarl.types import Array

TEXT_BYTES = 600  # of a problem that members tell each other


class MpiGroup:
    """The ranks that sum together: `members` are their ranks in `world`."""

    def __init__(self, world: Any, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        """Collective over `world`. `hosts`: of every rank of the world. The backend is loaded on the members
        alone.

        Raises, on all members, ConfigError where one of them cannot use the backend and LaunchError where
        they do not find together.
        """
        self._world = world
        self._hosts = tuple(hosts)
        self._name = backend
        color = 0 if world.Get_rank() in ranks else MPI.UNDEFINED
        self._comm = world.Split(color, world.Get_rank())
        self.members = tuple(sorted(ranks))
        self._sums: SumBackend | None = None
        if world.Get_rank() not in ranks:
            return
        self._kind = find_backend(backend)
        if problem := self._first_text(self._kind.problem(self._member_hosts())):
            raise ConfigError(f"rounds.reduce: {backend}: {problem}")
        if problem := self._first_text(self._form()):
            raise LaunchError(f"rounds.reduce: {backend}: the learners do not find together: {problem}")

    def start_sum(self, vector: Array) -> Reduction:
        """Collective among the members."""
        assert self._sums is not None
        return self._sums.start(vector)

    def close(self) -> None:
        """Collective among the members, when nobody sums any more; before MPI ends."""
        if self._sums is not None:
            self._sums.close()
            self._sums = None

    def regroup(self, progress: int, state: Callable[[], bytes]) -> bytes | None:
        """Leave out who has died. Collective among the survivors, also if more of them die meanwhile; waits
        for a frozen one.

        Raises HpcmarlError when the survivors cannot form the backend's group although all of them live.
        """
        while True:
            self._comm.Revoke()  # whoever still waits in the old group comes here as well
            if self._sums is not None:
                self._sums.abandon()
                self._sums = None
            self._comm = self._comm.Shrink()
            self._comm.Set_errhandler(MPI.ERRORS_RETURN)
            group = self._comm.Get_group()
            before, self.members = (
                self.members,
                tuple(
                    MPI.Group.Translate_ranks(group, list(range(group.Get_size())), self._world.Get_group())
                ),
            )
            try:
                newer = self._newest_state(progress, state)
                problem = self._form()
                if self._comm.Agree(0 if problem else 1):
                    return newer
            except MPI.Exception as error:
                if not is_death(error):
                    raise
                continue
            if before == self.members:  # the second try among the same
                why = problem or "see the other learners"
                raise HpcmarlError(
                    f"rounds.reduce: {self._name}: the surviving learners do not find together again: {why}"
                )

    def _form(self) -> str:
        """Make the backend's own group of the present members; what went wrong, or nothing. Collective."""
        try:
            self._sums = self._kind(self._comm, self._member_hosts())
        except RuntimeError as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    def _member_hosts(self) -> list[str]:
        return [self._hosts[rank] for rank in self.members]

    def _first_text(self, own: str) -> str:
        """The first member's text that is not empty, with its place, on every member. Texts travel only where
        there is one.
        """
        size, first = self._comm.Get_size(), np.empty(1, np.int64)
        self._comm.Allreduce(np.array([self._comm.Get_rank() if own else size], np.int64), first, MPI.MIN)
        if first[0] == size:
            return ""
        text = f"{own} (rank {self._world.Get_rank()} on {self._hosts[self._world.Get_rank()]})"
        data = np.frombuffer(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0"), np.uint8).copy()
        self._comm.Bcast([data, MPI.BYTE], int(first[0]))
        return data.tobytes().rstrip(b"\0").decode(errors="replace")

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


class MpiRegrouping(Regrouping):
    """Regroups in a thread, since MPI's Shrink waits for every survivor, also for one that is frozen.

    The rank itself goes on meanwhile. Otherwise it would be taken for frozen, and nobody would end the one
    that is.
    """

    def __init__(self, group: MpiGroup, progress: int, state: Callable[[], bytes]) -> None:
        self._group, self._progress, self._state = group, progress, state
        self._failure: Exception | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="regrouping", daemon=True).start()

    def done(self) -> bool:
        if not self._done.is_set():
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def _run(self) -> None:
        try:
            self.newer = self._group.regroup(self._progress, self._state)
        except (MPI.Exception, HpcmarlError) as error:
            self._failure = error
        self._done.set()
