"""Group of learners that sum vectors: its communicator, its backend, and its repair after a death."""

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

TEXT_BYTES = 600  # length of a problem's description in messages between members


class MpiGroup:
    """Ranks that sum vectors together.

    Attributes:
        members: Ranks of the members in the world.
    """

    def __init__(self, world: Any, ranks: Sequence[int], hosts: Sequence[str], backend: str) -> None:
        """Form the group. Collective over the world; only members import the backend.

        Args:
            world: Communicator of all ranks.
            ranks: Members of the group.
            hosts: Host name of every rank of the world.
            backend: Name of a backend (comm.BACKENDS).

        Raises:
            ConfigError: If a member cannot use the backend; raised on all members.
            LaunchError: If the members cannot connect; raised on all members.
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
            raise LaunchError(f"rounds.reduce: {backend}: the learners cannot connect: {problem}")

    @property
    def device(self) -> Any:
        """Torch device of this member's sums; None: arrays alone are summed."""
        return None if self._sums is None else self._sums.device

    def start_sum(self, vector: Any) -> Reduction:
        """Start a sum. Collective over the members."""
        assert self._sums is not None
        return self._sums.start(vector)

    def close(self) -> None:
        """Disconnect the members. Collective over them; after the last sum and before MPI is finalised."""
        if self._sums is not None:
            self._sums.close()
            self._sums = None

    def regroup(self, progress: int, state: Callable[[], bytes]) -> bytes | None:
        """Remove the dead members from the group and connect the survivors again.

        Collective over the survivors. Further deaths meanwhile are handled, too. A frozen survivor delays all
        others.

        Args:
            progress: Number of sums that have arrived on this rank.
            state: Returns the state after these sums.

        Returns:
            State of the member with the highest progress; None if this rank is not behind it.

        Raises:
            HpcmarlError: If the survivors cannot connect although all of them are alive.
        """
        while True:
            self._comm.Revoke()  # a member that still waits in the old group is interrupted and comes here
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
            if before == self.members:  # the second attempt of the same members
                why = problem or "see the other learners"
                raise HpcmarlError(
                    f"rounds.reduce: {self._name}: the surviving learners cannot connect again: {why}"
                )

    def _form(self) -> str:
        """Connect the present members by the backend. Collective.

        Returns:
            Description of a failure; empty on success.
        """
        try:
            self._sums = self._kind(self._comm, self._member_hosts())
        except RuntimeError as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    def _member_hosts(self) -> list[str]:
        return [self._hosts[rank] for rank in self.members]

    def _first_text(self, own: str) -> str:
        """Return the first non-empty text, with its rank and host, on every member. Collective.

        Texts are exchanged only if at least one is not empty.

        Args:
            own: Text of this member.
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
        """Return the state of the member with the highest progress; None if this rank is not behind it."""
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
    """Regrouping in a thread, because MPI's Shrink waits for every survivor, even for a frozen one.

    The rank continues meanwhile. If it waited, it would itself count as frozen, and the frozen rank would not
    be ended.
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
