"""Main loop of a rank: build its roles, route messages to them, step them, and sleep when they are idle."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hpcmarl.comm import REPAIRABLE
from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import Backoff, Message, PeerFailure
from hpcmarl.errors import EXIT_SUCCESS, HpcmarlError
from hpcmarl.launch.processes import kill_process
from hpcmarl.launch.signals import StopSignals
from hpcmarl.roles import ROLES, load_role
from hpcmarl.roles.base import Context, Role
from hpcmarl.runtime.heartbeat import Liveness, RunLost, ServerLost
from hpcmarl.runtime.payloads import LostRank, ReplacedRank
from hpcmarl.runtime.respawn import RespawnManager
from hpcmarl.tracing.spans import NO_NUMBER, NO_PEER, Span, Tracer

logger = logging.getLogger(__name__)

MESSAGES_A_STEP = 256

FOR_THE_RANK = (Kind.EXIT, Kind.LOST, Kind.ALIVE, Kind.REPLACED)
TO_SERVER = (Kind.GRADIENT, Kind.REPORT, Kind.STATE, Kind.INTERRUPT)
# role of the sender -> role of the receiver, for requests that pass from the server down
DOWN = {"server": "learner", "learner": "actor", "actor": "worker"}
RECEIVERS = {
    Kind.ROLLOUT: "learner",
    Kind.PARAMETERS: "learner",
    Kind.LATE: "learner",
    Kind.WEIGHTS: "actor",
    Kind.SHARE: "worker",
    Kind.SHARED: "actor",
    **dict.fromkeys(TO_SERVER, "server"),
}


class Rank:
    """Roles of one rank, and the messages that concern the rank as a whole.

    Attributes:
        context: Context of the run.
        transport: Transport of this rank.
        roles: Roles by name, in the order in which they are stepped.
        exit_code: Exit code from the server's EXIT message; None until it arrives.
        liveness: Heartbeats.
        lost: Ranks that the run continues without; kept on the server's rank.
        dead: Ranks that this rank's transport has reported as dead.
        processes: Rank -> process number and start time, as far as known.
        replacements: Replacement of dead actors and workers.
        present: Role at work, for error messages.
    """

    kinds_of_roles: ClassVar[Mapping[str, str]] = ROLES

    def __init__(self, context: Context) -> None:
        self.context = context
        self.transport = context.transport
        self.trace = context.trace
        self.roles: dict[str, Role] = {}
        self.exit_code: int | None = None
        self.liveness = Liveness(context)
        self.lost: set[int] = set()
        self.dead: set[int] = set()
        self.processes = dict(context.processes)
        self.replacements = RespawnManager(context)
        self.present = "building its roles"
        for name, place in self.kinds_of_roles.items():
            if name in self.names_of_roles():
                self.present = name
                self.roles[name] = load_role(place)(context, self.roles)

    def names_of_roles(self) -> Collection[str]:
        """Return the names of the roles of this rank."""
        return self.context.topology.roles_of(self.context.rank)

    def step(self) -> bool:
        """Pass the arrived messages to the roles, then step every role.

        Returns:
            Whether there was a message or a role had work.
        """
        busy = False
        for _ in range(MESSAGES_A_STEP):  # bounded, so that many messages cannot keep the roles from working
            message = self.transport.receive()
            if message is None:
                break
            busy = True
            self.liveness.heard(message.source)
            if self.trace is None:
                self._take(message)
            else:
                self._take_traced(message, self.trace)
        if self.exit_code is None:
            self._check_peers()
        for name, role in self.roles.items():
            self.present = name
            busy = role.step() or busy
        if self.trace is not None:
            self.trace.tick()
        return busy

    def rest(self, backoff: Backoff) -> None:
        """Sleep after an idle step, at most until a role has work; add the time to each role's `waited`."""
        if not self.may_rest():
            return
        began = time.perf_counter()
        backoff.wait(self.wake_at)
        ended = time.perf_counter()
        if self.trace is not None:
            self.trace.waited(began, ended)
        self.on_rested(ended - began)

    def may_rest(self) -> bool:
        """Prepare every role for a sleep; return False if one of them has work after all."""
        return all(role.may_rest() for role in self.roles.values())

    def on_rested(self, seconds: float) -> None:
        """Tell the roles that the rank has slept for some seconds."""
        for role in self.roles.values():
            role.waited += seconds
            role.on_rested()

    @property
    def wake_at(self) -> float:
        """Time at which a role has work even without a message, in seconds of time.monotonic()."""
        return min(role.wake_at for role in self.roles.values())

    def _take_traced(self, message: Message, trace: Tracer) -> None:
        """Do the same as `_take`, and record the time that it takes."""
        number, trace.number = trace.number, NO_NUMBER
        # A team numbers its ranks anew and its messages not at all.
        peer = NO_PEER if number == NO_NUMBER else min(message.source, NO_PEER)
        kind, began = int(message.kind), time.perf_counter()
        self._take(message)
        trace.add(Span.RECEIVE, began, time.perf_counter(), number, peer, kind)

    def _take(self, message: Message) -> None:
        """Pass a message to its role, or handle it here if it concerns the rank as a whole."""
        if message.kind not in FOR_THE_RANK:
            self.present = receiver(message)
            self.roles[self.present].on_message(message)
            return
        if message.kind is Kind.EXIT:
            self.exit_code = message.header.exit_code
        elif message.kind is Kind.LOST:
            self._continue_without(LostRank.unpack(message.payload))
        elif message.kind is Kind.REPLACED:
            self._on_replaced(ReplacedRank.unpack(message.payload))
        message.release()

    def _check_peers(self) -> None:
        """Check for dead and silent ranks, and for completed replacements.

        The server's rank reports losses to all ranks including itself, so that all handle them in the same
        order.
        """
        server = self.context.topology.server
        for rank, process in self.replacements.poll():
            if process is not None:
                self._parent_role(rank).on_replaced(rank)
            self._report_replaced(rank, process)
        dead = self.transport.lost()
        self.dead.update(dead)
        if self.context.rank != server:
            if server in dead:
                raise ServerLost(f"rank {server} (server) has died")
            try:
                self.liveness.beat()
            except ServerLost:
                self._end_frozen(server, [self.processes[server]] if server in self.processes else [])
                raise
            # Only the rank that started a replacement can detect its death.
            for rank in self.replacements.started.intersection(dead):
                self._report_replaced(rank, None)
            return
        for rank in dead:
            self._report_lost(rank, "has died", frozen=False)
        for rank in self.liveness.silent():
            self._report_lost(
                rank,
                f"was not heard for {self.liveness.limit:g} s (topology.heartbeat_timeout_seconds)",
                frozen=True,
            )

    def _report_lost(self, rank: int, why: str, *, frozen: bool) -> None:
        topology = self.context.topology
        if rank in self.lost:
            return
        if not self.transport.survives:
            place = f"rank {rank} ({'+'.join(topology.roles_of(rank))}) on {topology.hosts[rank]}"
            raise HpcmarlError(
                f"{place} {why}, and with this MPI library the job cannot continue without it; resume from "
                "the last checkpoint"
            )
        self.lost.add(rank)
        self.liveness.forget(rank)
        processes = [list(self.processes[rank])] if frozen and rank in self.processes else []
        groups = topology.groups_lost(self.lost - self.replacements.expected(self.lost))
        note = LostRank(rank, why, groups, processes)
        message = control(Kind.LOST, note.pack(), source=self.context.rank)
        for other in range(topology.size):
            # A frozen rank also gets the message, which it reads when it wakes.
            if other not in self.lost or (frozen and other == rank):
                self.transport.send(other, message)

    def _continue_without(self, lost: LostRank) -> None:
        """Continue without a lost rank.

        Raises:
            PeerFailure: If the lost rank is this rank itself.
            RunLost: If the learners cannot continue their sums without it.
        """
        context, topology = self.context, self.context.topology
        rank, why = lost.rank, lost.why
        if rank == context.rank:
            raise PeerFailure(f"the run continues without rank {rank}: it {why}")
        self._end_frozen(rank, lost.processes)
        reduce = context.config.rounds.reduce
        if (
            context.config.rounds.collective
            and reduce not in REPAIRABLE
            and rank in [group.learner for group in topology.groups]
        ):
            place = f"rank {rank} ({'+'.join(topology.roles_of(rank))}) on {topology.hosts[rank]}"
            raise RunLost(
                f"{place} {why}, and with rounds.reduce: {reduce} the other learners cannot continue; resume "
                "from the last checkpoint"
            )
        logger.warning(
            "rank %d (%s) on %s %s; continuing without it",
            rank,
            "+".join(topology.roles_of(rank)),
            topology.hosts[rank],
            why,
        )
        self.transport.mark_failed(rank)
        for role in self.roles.values():
            role.on_lost(rank, lost.groups)
        if self.replacements.is_for(rank) and not self._parent_role(rank).stopping:
            self.replacements.begin(rank)

    def _parent_role(self, rank: int) -> Role:
        """Return the role of this rank that works with a replaced rank."""
        return self.roles["actor" if self.context.topology.roles_of(rank) == ("worker",) else "learner"]

    def _report_replaced(self, rank: int, process: tuple[int, int] | None) -> None:
        replaced = ReplacedRank(rank, None if process is None else list(process), self.context.rank)
        self.transport.send(
            self.context.topology.server,
            control(Kind.REPLACED, replaced.pack(), source=self.context.rank),
        )

    def _on_replaced(self, replaced: ReplacedRank) -> None:
        """Accept the new process of a dead rank, or declare the rank lost if there is none.

        Called on the server's rank.
        """
        rank, process = replaced.rank, replaced.process
        if process is None:
            if rank in self.lost:
                self.replacements.given_up.add(rank)
                self.lost.discard(rank)
            self._report_lost(
                rank,
                "has died" if rank not in self.replacements.given_up else "could not be replaced",
                frozen=False,
            )
            return
        self.lost.discard(rank)
        self.processes[rank] = (process[0], process[1])
        self.replacements.replaced.add(rank)
        self.transport.reach_through(rank, replaced.relay)
        logger.warning(
            "rank %d (%s) on %s is replaced by process %d",
            rank,
            "+".join(self.context.topology.roles_of(rank)),
            self.context.topology.hosts[rank],
            process[0],
        )
        self.roles["server"].on_replaced(rank)

    def _end_frozen(self, rank: int, processes: Sequence[Sequence[int]]) -> None:
        """Kill a frozen rank's process if it is on this host; the launcher would wait for it otherwise."""
        hosts = self.context.topology.hosts
        for pid, start in processes:
            if hosts[rank] == hosts[self.context.rank]:
                kill_process(pid, start)

    def interrupt(self) -> None:
        """Ask the server to stop the run, because this rank has received a signal."""
        next(iter(self.roles.values())).send(self.context.topology.server, Kind.INTERRUPT)

    def close(self) -> None:
        """Close every role, even if closing another one fails, and release the run's lock."""
        for role in self.roles.values():
            try:
                role.close()
            except Exception:
                logger.exception("closing the %s failed", role.name)
        if self.trace is not None:
            self.trace.close()
        if self.context.lock is not None:
            self.context.lock.release()


def receiver(message: Message) -> str:
    """Return the name of the role that receives a message."""
    if message.kind is Kind.START:
        return message.header.addressee
    if message.kind is Kind.CLOSED:
        return "server" if message.header.role == "learner" else "learner"
    if message.kind in (Kind.CHECKPOINT_REQUEST, Kind.STOP, Kind.CLOSE):
        return DOWN[message.header.role]
    if message.kind is Kind.STATE and message.header.role == "worker":
        return "actor"
    return RECEIVERS[message.kind]


def serve(rank: Rank, signals: StopSignals) -> int:
    """Run a rank until the server sends EXIT.

    Args:
        rank: The rank.
        signals: A received signal is forwarded to the server once.

    Returns:
        Exit code from the server.
    """
    backoff = Backoff(transport=rank.transport)
    has_forwarded = False
    while rank.exit_code is None:
        if signals.pending and not has_forwarded:
            logger.info("signal %s: stopping at the next update", signals.name)
            rank.interrupt()
            has_forwarded = True
        if rank.step():
            backoff.reset()
        else:
            rank.rest(backoff)
    return rank.exit_code if rank.exit_code is not None else EXIT_SUCCESS
