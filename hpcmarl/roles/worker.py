"""The worker: step the environments of an actor on the same host, in memory that both share.

    SHARE (where the memory lies) ──► map it ──► START (states) ──► begin episodes
        ──► step the half whose actions are there, then the other; sleep if neither is

It neither has networks nor sends rollouts.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.shared_memory import SegmentAddress, SharedSegment
from hpcmarl.comm.transport import Message
from hpcmarl.config import WorkerConfig
from hpcmarl.envs import BatchedEnvironment, Seeds, make_environment
from hpcmarl.errors import LaunchError
from hpcmarl.packing import unpack
from hpcmarl.roles.base import Context, Role
from hpcmarl.roles.efficiency import measure_bare
from hpcmarl.roles.reports import SharedPlace, WorkerReport
from hpcmarl.roles.worker_plan import exchange_plan
from hpcmarl.rollouts.exchange import (
    ARENA,
    COMMAND,
    COUNTERS,
    COUNTS,
    RESTS,
    ROW,
    Command,
    Exchange,
    HalfMemory,
    Turn,
)
from hpcmarl.tracing.spans import Span
from hpcmarl.types import Frame

logger = logging.getLogger(__name__)
# Longest time without a look at messages, while there is work and while there is none.
WORKING_SECONDS = 5e-3
SLEEPING_SECONDS = 20e-3
# Time to hear that the actor has ended or died, if its memory cannot be opened.
ATTACH_SECONDS = 10.0


class Worker(Role):
    """One worker: two halves of environment slots.

    Attributes:
        actor: Rank of its actor.
        number: Number of the worker among those of its actor.
        kind: Its kind (topology.workers).
        environments: Environments of each half, by number of the half.
        exchange: The shared memory; None before the actor's SHARE.
    """

    name = "worker"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config, topology = context.config, context.topology
        self.actor = topology.actor_of(context.rank)
        group, index = topology.group_of(context.rank), topology.actor_index(self.actor)
        self.number = topology.workers_of(self.actor).index(context.rank)
        kinds = config.topology.workers or (WorkerConfig(),)
        self.kind = kinds[config.topology.kind_of_worker(self.number)]
        self._delay = config.topology.group_list[group.index].delay.step + self.kind.delay.step
        self._plan = exchange_plan(context, self.actor)
        self._own = [
            (number, half) for number, half in enumerate(self._plan.halves) if half.worker == self.number
        ]
        first_of_all = self.number == 0
        self._bare = measure_bare(context, index, group.index) if first_of_all else None
        self.environments: dict[int, BatchedEnvironment] = {
            number: make_environment(
                context.group_env(group.index).changed(self.kind.env),
                config.policies,
                half.slots,
                Seeds(config.seed, index * self._plan.slots + half.first),
                spec=context.environment_spec,
                record=config.deterministic,
                with_state=self._plan.codec.with_state,
                skip_bad_numbers=config.faults.on_nan == "skip",
            )
            for number, half in self._own
        }
        self.exchange: Exchange | None = None
        self._place: SharedPlace | None = None  # of memory that is not mapped yet
        self._attach_until = 0.0
        self._segment: SharedSegment | None = None
        self._halves: list[HalfMemory] = []
        self._states: dict[int, Any] | None = None

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.SHARE:
            self._place = SharedPlace.unpack(message.payload)
            self._attach_until = time.monotonic() + ATTACH_SECONDS
        elif message.kind is Kind.START:
            halves = unpack(message.payload)["halves"]
            self._states = {int(number): state for number, state in halves.items()}
            self.waited = 0.0
        elif message.kind is Kind.CHECKPOINT_REQUEST:
            states = {str(number): own.state_dict() for number, own in self.environments.items()}
            self.send(self.actor, Kind.STATE, {"halves": states})
        elif message.kind is Kind.STOP:
            self.stopping = True
        message.release()

    def on_lost(self, rank: int, groups: Any) -> None:
        """Stop if the worker's actor is lost."""
        self.stopping = self.stopping or rank == self.actor

    def _attach(self, place: SharedPlace) -> None:
        """Map the memory of the actor.

        An actor that has ended or died has closed it. Then STOP or the news of the death is on its way, and
        failures are ignored for ATTACH_SECONDS.

        Raises:
            LaunchError: If the memory cannot be opened.
        """
        try:
            self._segment = SharedSegment.attach(SegmentAddress(**place.address))
        except LaunchError:
            if time.monotonic() > self._attach_until:
                raise
            return
        self._place = None
        self.transport.open_doorbell(place.doorbell, self.actor)
        self.exchange = Exchange(self._plan, self._segment.buffer)
        self._halves = [self.exchange.halves[number] for number, _ in self._own]
        for half in self._halves:
            self.environments[half.number].keep_numbers_in(
                half.episode_index, half.episode_step, half.rests_next
            )
        self.send(self.actor, Kind.SHARED, WorkerReport(self._bare))

    def work(self) -> bool:
        """Carry out the commands of the actor; sleep briefly if there is none."""
        if self.stopping:
            self._release()
            self.finished = True
            return False
        if self._place is not None:
            self._attach(self._place)
        exchange = self.exchange
        if exchange is None or self._states is None:
            return False
        end = time.perf_counter() + WORKING_SECONDS
        while True:
            heard = exchange.bell(self.number)
            served = False
            for half in self._halves:
                if exchange.turn(half.number) == Turn.WORKER:
                    self._serve(half)
                    served = True
            if not served:
                break
            if time.perf_counter() > end:
                return True
        if self.transport.shares_memory(self.actor):
            return False  # a virtual rank of the same process
        began = time.perf_counter()
        exchange.sleep(self.number, heard, SLEEPING_SECONDS)
        ended = time.perf_counter()
        self.waited += ended - began
        if self.trace is not None:
            self.trace.waited(began, ended)
        return True

    def _serve(self, half: HalfMemory) -> None:
        """Carry out the command for a half, and give the half back."""
        assert self.exchange is not None
        try:
            self._carry_out(half)
        except SystemExit as error:
            if self.transport.shares_memory(self.actor):
                raise
            # An environment that calls exit() ends the worker, not the run. MPI notices a death by a signal.
            logger.error("an environment has called exit(%s); this worker ends", error.code)
            logging.shutdown()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.exchange.pass_to_actor(half.number):
            self.transport.wake(self.actor)

    def _carry_out(self, half: HalfMemory) -> None:
        environment, numbers = self.environments[half.number], half.numbers
        command, arena, row = numbers[COMMAND], numbers[ARENA], numbers[ROW]
        if numbers[RESTS]:
            environment.rest_slots(half.rest.nonzero()[0].tolist())
        if command == Command.STEP:
            outcome, frame = half.outcome(arena, row), half.frame(arena, row + 1)
            began = time.perf_counter()
            environment.step(half.actions, outcome, frame)
            if self._delay:
                time.sleep(self._delay)
            ended, span = time.perf_counter(), Span.ENVIRONMENT
            half.seconds[0] += ended - began
            half.write_ends(outcome)
        else:
            began = time.perf_counter()
            self._begin_episodes(half, command, half.frame(arena, row))
            ended, span = time.perf_counter(), Span.EPISODES
            half.seconds[0] += ended - began
        if self.trace is not None:
            self.trace.add(span, began, ended)
        for place, name in enumerate(COUNTS, COUNTERS):
            numbers[place] = environment.counts[name]
        if environment.counts["quarantined"]:
            half.retired[list(environment.retired)] = True

    def _begin_episodes(self, half: HalfMemory, command: int, frame: Frame) -> None:
        """Restart slots of a half, or begin all with the states of START."""
        environment = self.environments[half.number]
        if command == Command.RESTART:
            environment.restart_slots(half.restart.nonzero()[0].tolist(), frame)
        elif command == Command.LOAD:
            state = (self._states or {}).get(half.number)
            if state:
                environment.load_state_dict(state, frame)
            else:
                environment.reset(frame)

    def close(self) -> None:
        for environment in self.environments.values():
            environment.close()
        self._release()

    def _release(self) -> None:
        """Unmap the memory of the actor."""
        self.exchange, self._place, self._halves = None, None, []
        if self._segment is not None:
            self._segment.close()
            self._segment = None
