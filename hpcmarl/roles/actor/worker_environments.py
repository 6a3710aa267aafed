"""The environments of an actor that workers step: shared memory, lanes and messages to the workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.shared_memory import SharedSegment
from hpcmarl.comm.transport import Message
from hpcmarl.envs.slot_states import merge_slot_states, split_slot_state
from hpcmarl.packing import unpack
from hpcmarl.roles.actor.environments import Environments
from hpcmarl.roles.actor.lane import Lane, Stage
from hpcmarl.roles.actor.remote_environment import RemoteEnvironment
from hpcmarl.roles.reports import SharedPlace, WorkerReport
from hpcmarl.roles.worker_plan import exchange_plan
from hpcmarl.rollouts.exchange import Exchange

if TYPE_CHECKING:
    from hpcmarl.roles.actor.actor import Actor


class WorkerEnvironments(Environments):
    """Environments that workers step: a lane for each half of each worker, or one for all halves."""

    remote = True

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        context = actor.context
        self.workers = context.topology.workers_of(context.rank)
        self.asks_for_states = context.config.deterministic
        plan = exchange_plan(context, context.rank)
        self._segment = SharedSegment.create(plan.size())
        self._exchange = Exchange(plan, self._segment.buffer)
        self._lost: set[int] = set()
        self._states: dict[int, Any] = {}
        self._requested = False
        lanes = []
        for number, (first, _) in enumerate(plan.lanes):
            remote = RemoteEnvironment(self._exchange, number)
            environment = remote if context.game is None else context.game(remote)
            lanes.append(self._lane(first, environment, self._exchange.lanes[number], remote))
        self.lanes: Sequence[Lane] = tuple(lanes)
        for worker in self.workers:
            self._share(worker)

    def _share(self, worker: int) -> None:
        """Tell a worker where the memory lies."""
        place = SharedPlace(dict(vars(self._segment.address)), self._context.transport.doorbell_token)
        self._actor.send(worker, Kind.SHARE, place)

    def _remotes(self) -> list[RemoteEnvironment]:
        return [lane.remote for lane in self.lanes if lane.remote is not None]

    def seconds_by_worker(self) -> list[float]:
        spent = [0.0] * len(self.workers)
        for half in self._exchange.halves:
            spent[half.plan.worker] += float(half.seconds[0])
        return spent

    def begin(self, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            sizes = [lane.slots for lane in self.lanes]
            for lane, part in zip(self.lanes, split_slot_state(state, sizes), strict=True):
                lane.environment.load_state_dict(part, lane.frame)
        else:
            for lane in self.lanes:
                lane.environment.reset(lane.frame)
        for lane in self.lanes:
            lane.stage = Stage.LOADING
        for worker in self.workers:
            self._start(worker)

    def _start(self, worker: int) -> None:
        """Send a worker the states of its environments."""
        number, parts = self.workers.index(worker), dict[str, Any]()
        for remote in self._remotes():
            parts |= remote.part_for(number)
        self._actor.send(worker, Kind.START, {"halves": parts}, addressee="worker")

    @property
    def lost(self) -> bool:
        return self._lost >= set(self.workers)

    def on_message(self, message: Message) -> None:
        """Process the measured speed or the state of a worker."""
        if message.kind is Kind.SHARED:
            report = WorkerReport.unpack(message.payload)
            if report.bare is not None:
                self.bare = report.bare
        elif message.kind is Kind.STATE:
            states = unpack(message.payload)["halves"]
            self._states |= {int(number): state for number, state in states.items()}
        else:
            super().on_message(message)

    def on_lost(self, rank: int) -> Collection[Lane]:
        if rank not in self.workers:
            return ()
        self._lost.add(rank)
        return self._lanes_of(rank)

    def on_replaced(self, rank: int) -> Collection[Lane]:
        self._lost.discard(rank)
        lanes = self._lanes_of(rank)
        for lane in lanes:
            lane.revive()
        self._share(rank)
        self._start(rank)
        return lanes

    def _lanes_of(self, rank: int) -> list[Lane]:
        number = self.workers.index(rank)
        return [
            lane
            for lane in self.lanes
            if lane.remote is not None and any(half.plan.worker == number for half in lane.remote.halves)
        ]

    # ---- states

    def have_states(self) -> bool:
        if not self._requested:
            self._requested = True
            for worker in self.workers:
                self._actor.send(worker, Kind.CHECKPOINT_REQUEST)
        return len(self._states) == len(self._exchange.halves)

    def forget_states(self) -> None:
        self._states, self._requested = {}, False

    def state_dict(self) -> dict[str, Any]:
        remotes = self._remotes()
        if self.asks_for_states and len(self._states) == len(self._exchange.halves):
            states = [remote.merge(self._states) for remote in remotes]
        else:
            states = [lane.environment.state_dict() for lane in self.lanes]
        return merge_slot_states(states, [lane.slots for lane in self.lanes])

    # ---- sleep

    def may_rest(self) -> bool:
        self._exchange.actor_sleeps(True)
        if any(lane.in_flight and lane.environment.poll() for lane in self.lanes):
            self._exchange.actor_sleeps(False)
            return False
        return True

    def on_rested(self) -> None:
        self._exchange.actor_sleeps(False)

    def stop(self) -> None:
        for worker in self.workers:
            self._actor.send(worker, Kind.STOP)

    def close(self) -> None:
        self._segment.close()
