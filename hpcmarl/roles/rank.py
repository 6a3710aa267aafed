"""One rank at work: builds the roles that the topology gives it, routes messages to them, steps them, sleeps when idle.

Called by run.train on every rank and, with virtual ranks, by tests. A failure on any rank ends the whole job from here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from typing import Any, NoReturn

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.topology import ROLE_NAMES
from hpcmarl.comm.transport import Backoff, Message, PeerFailure, Transport
from hpcmarl.errors import EXIT_SUCCESS
from hpcmarl.launch.signals import StopSignals
from hpcmarl.roles import ROLES
from hpcmarl.roles.base import Context, Role

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 4.0

TO_SERVER = (Kind.GRADIENT, Kind.REPORT, Kind.STATE, Kind.INTERRUPT)
RECEIVERS = {Kind.ROLLOUT: "learner", Kind.PARAMETERS: "learner", Kind.WEIGHTS: "actor", **dict.fromkeys(TO_SERVER, "server")}


class Rank:
    """The roles of one rank. `step` does one pass over messages and roles; `exit_code` is set when the server has said EXIT."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.transport = context.transport
        self.roles: dict[str, Role] = {}
        self.exit_code: int | None = None
        self.present = "building its roles"
        for name, role in ROLES.items():
            if name in context.topology.roles_of(context.rank):
                self.present = name
                self.roles[name] = role(context, self.roles)

    def step(self) -> bool:
        """Hand out what has arrived, step every role; False when there was nothing to do."""
        busy = False
        while (message := self.transport.receive()) is not None:
            busy = True
            if message.kind is Kind.EXIT:
                self.exit_code = int(message.header["count"])
                message.release()
                continue
            self.present = receiver(message)
            self.roles[self.present].on_message(message)
        for name, role in self.roles.items():
            self.present = name
            busy = role.step() or busy
        return busy

    def interrupt(self) -> None:
        """A signal has come: the server stops the run."""
        next(iter(self.roles.values())).tell(self.context.topology.server, Kind.INTERRUPT)

    def close(self) -> None:
        """Close every role, also after a failure of one of them."""
        for role in self.roles.values():
            try:
                role.close()
            except Exception:
                logger.exception("closing the %s failed", role.name)


def receiver(message: Message) -> str:
    """The role that a message is for."""
    if message.kind is Kind.START:
        return ROLE_NAMES[int(message.header["count"])]
    if message.kind in (Kind.SNAPSHOT, Kind.STOP):
        return "learner" if ROLE_NAMES[int(message.header["role"])] == "server" else "actor"
    return RECEIVERS[message.kind]


def serve(rank: Rank, signals: StopSignals) -> int:
    """Run a rank until the server says EXIT; returns the exit code."""
    backoff = Backoff()
    told = False
    while rank.exit_code is None:
        if signals.pending and not told:
            logger.info("signal %s: stopping at the next update", signals.name)
            rank.interrupt()
            told = True
        if rank.step():
            backoff.reset()
        else:
            backoff.wait()
    return rank.exit_code if rank.exit_code is not None else EXIT_SUCCESS


class AbortHook:
    """Ends the whole job when this rank fails, in whatever thread: role, rank, host and traceback first."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.rank: Rank | None = None
        self.doing = "starting"
        threading.excepthook = self._on_thread_failure

    def _on_thread_failure(self, failure: Any) -> None:
        self.fail(failure.exc_value, thread=failure.thread.name if failure.thread else "thread")

    def fail(self, error: BaseException | None, thread: str = "") -> None:
        """Tell what happened and abort the world; does not return under MPI. A rank that ends because of another one is silent."""
        if isinstance(error, PeerFailure):
            logger.error("%s", error)
            self._leave()
        role = self.rank.present if self.rank is not None else self.doing
        place = f"rank {self.transport.rank} of {self.transport.size} ({role}{', thread ' + thread if thread else ''}) on {self.transport.host}"
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        logger.error("%s failed: %s", place, error, exc_info=error)
        marked = "".join(f"[rank {self.transport.rank}] {line}\n" for line in text.splitlines())
        sys.stderr.write(f"{marked}error: {place} failed: {type(error).__name__}: {error}; the job ends\n")
        sys.stderr.flush()
        self._close_soon()
        self.transport.abort()

    def _close_soon(self) -> None:
        """Close files so that what is written stays readable, but wait for nothing that hangs."""
        guard = threading.Timer(CLOSING_SECONDS, os._exit, (1,))
        guard.daemon = True
        guard.start()
        if self.rank is not None:
            self.rank.close()

    def _leave(self) -> NoReturn:
        self._close_soon()
        os._exit(1)  # MPI_Finalize would wait for ranks that are gone
