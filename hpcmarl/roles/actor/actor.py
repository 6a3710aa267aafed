"""The actor: choose actions with the newest weights, and send rollouts to the learner.

    weights of a version ──► act ──► environments step, here or on workers ──► a row of the lane's arena
        ──► when the arena is full or an episode is over: send it, continue in the next free arena

If no arena is free, the learner is behind. The rollout is then dropped and counted or, with
rounds.backpressure, the actor waits.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Flags, Kind, vector_of
from hpcmarl.comm.transport import Message
from hpcmarl.nets.inference import Inference
from hpcmarl.packing import unpack
from hpcmarl.roles.actor.environments import Environments, OwnEnvironments
from hpcmarl.roles.actor.episode_turns import UNLIMITED, EpisodeNumbers
from hpcmarl.roles.actor.follower import VersionFollower
from hpcmarl.roles.actor.inference import BatchDecider
from hpcmarl.roles.actor.lane import Lane, Stage
from hpcmarl.roles.actor.sender import RolloutSender
from hpcmarl.roles.actor.trajectories import trajectory_writer
from hpcmarl.roles.actor.worker_environments import WorkerEnvironments
from hpcmarl.roles.base import REPORTS_PER_SECOND, Context, Interval, Role, generator_for
from hpcmarl.roles.deterministic_quota import actor_quota
from hpcmarl.roles.reports import ActorReport
from hpcmarl.tracing.spans import Span
from hpcmarl.types import FloatArray, Rollout


class Actor(Role):
    """One actor with E slots, which it steps itself or has its workers step.

    Attributes:
        index: Number of the actor in the run. Its slots are index·E to index·E + E - 1 of the run.
        slots: Number of slots, E.
        environments: The environments and their lanes.
        lanes: Slots that step together.
        numbers: Numbers of the episodes that may begin under the present version.
        version: Version of the newest weights; -1 before the first.
        at_boundary: Whether the actor has delivered its share of a deterministic round.
        early_weights: Weights that arrived before START, as arguments of `_adopt`.
        closed: Newest version reported to the learner as closed.
        closing: Newest version of which the learner requests no further episodes; -1: none.
        pause_requested: Whether the learner is behind and requests a pause.
        held_since: Start of the present pause, in seconds of time.perf_counter(); None: no pause.
        requested_states: Version and flags of states that wait until the workers have sent theirs.
    """

    name = "actor"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        self.group = context.topology.group_of(context.rank)
        self.index = context.topology.actor_index(context.rank)
        self.backpressure = config.backpressure
        self.slots = config.topology.environments_per_actor
        has_workers = bool(context.topology.workers_of(context.rank)) and not context.replaces
        self.algorithm = context.acting_model(
            drawn=False, inference=Inference.of_actor(config, has_workers=has_workers)
        )
        self.codec = context.codec(self.algorithm)
        self.generator = generator_for(config.seed, "actor", self.index)
        self.numbers = EpisodeNumbers(self.slots)
        kind = WorkerEnvironments if has_workers else OwnEnvironments
        self.environments: Environments = kind(self)
        self.lanes: Sequence[Lane] = self.environments.lanes
        self.decider = BatchDecider(self)
        self.follower = VersionFollower(self)
        self.writer = trajectory_writer(context, self.index, with_state=self.algorithm.needs_state)
        self.sender = RolloutSender(context, self.index)
        self.version = -1
        self.started = self.has_weights = self.at_boundary = False
        self.early_weights: tuple[int, FloatArray, int, int] | None = None
        self.closed = -1
        self.closing = -1
        self.pause_requested = False
        self.held_since: float | None = None
        self.requested_states: list[tuple[int, Flags]] = []
        self.counters: dict[str, float] = {
            "cancelled_steps": 0,
            "environment_seconds": 0.0,
            "acting_seconds": 0.0,
            "sending_seconds": 0.0,
            "recording_seconds": 0.0,
            "held_seconds": 0.0,
        }
        self._state: dict[str, Any] = {}
        self.report = Interval(max(config.logging.every_seconds, context.topology.size / REPORTS_PER_SECOND))

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.WEIGHTS:
            self._on_weights(message)
        elif message.kind is Kind.CLOSE:
            self._close(message.header.version)
        elif message.kind is Kind.START:
            self._start(unpack(message.payload))
        elif message.kind is Kind.CHECKPOINT_REQUEST:
            self._request_state(message.header.version, Flags.NONE)
        elif message.kind is Kind.STOP:
            self.stopping = True
        else:
            self.environments.on_message(message)
        message.release()

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Continue without a lost worker; stop if the actor's own group is lost."""
        self.stopping = self.stopping or self.group.index in groups  # a lost group cannot use rollouts
        lost = [lane for lane in self.environments.on_lost(rank) if lane.stage is not Stage.LOST]
        for lane in lost:
            lane.lose()
        if lost:
            self.follower.take_up()

    def on_replaced(self, rank: int) -> None:
        """Have the lanes of a replaced worker begin new episodes."""
        for lane in self.environments.on_replaced(rank):
            lane.stage = Stage.LOADING

    def _held(self) -> bool:
        """Return whether to pause (rounds.backpressure), and count the time of pauses.

        The actor pauses while its learner is behind or has not yet received enough of the sent rollouts.
        Durations of trajectories do not include pauses.
        """
        held = self.pause_requested or (
            self.backpressure and not any(self.sender.has_room(lane.ring, lane.row) for lane in self.lanes)
        )
        if held or self.held_since is not None:
            now = time.perf_counter()
            if self.held_since is not None:
                self.counters["held_seconds"] += now - self.held_since
                for lane in self.lanes:
                    lane.timer.skip(now - self.held_since)
            self.held_since = now if held else None
        return held

    def _on_weights(self, message: Message) -> None:
        """Load new weights and follow the learner's requests to pause and its allotment."""
        header = message.header
        self.pause_requested = bool(header.flags & Flags.WAIT)
        allotment = header.trajectories if header.flags & Flags.ALLOTTED else UNLIMITED
        vector = vector_of(message.buffer, self.algorithm.size)
        self._adopt(header.version, vector, header.env_steps, allotment)

    def _adopt(self, version: int, vector: FloatArray | None, env_steps: int, allotment: int) -> None:
        """Load new weights at once. With late: cancel, abandon on-policy work under older ones.

        Args:
            version: Version of the weights.
            vector: Parameters, shape [P]; None: the message is ignored.
            env_steps: Environment steps of the whole run so far.
            allotment: Episodes that may begin under this version.
        """
        if vector is None or version < self.version:
            return
        if not self.started:  # START comes from the server and weights from the learner, in any order
            self.early_weights = (version, vector.copy(), env_steps, allotment)
            return
        if version == self.version and self.has_weights:
            if version > self.closing:
                self.numbers.allotment = allotment
        else:
            self.algorithm.load_parameters(vector)
            self.algorithm.on_progress(env_steps)
            self.has_weights = True
            self.version, self.sender.sent = version, 0
            self.numbers.begin(0 if version <= self.closing else allotment)
        for lane in self.lanes:
            if lane.stage is Stage.READY:
                self.follower.settle(lane)

    def _close(self, version: int) -> None:
        """Begin no further episode of this version, because its round has enough trajectories."""
        self.closing, self.pause_requested = version, False
        if self.version == version:
            self.numbers.allotment = 0
            for lane in self.lanes:
                if lane.stage is Stage.READY:
                    self.follower.settle(lane)

    def _closed(self) -> bool:
        """Report to the learner that no episode of the closing version is under way.

        Returns:
            Whether the report was sent.
        """
        if self.version == self.closing and not all(
            lane.stage is Stage.LOST or (lane.stage is Stage.READY and not lane.may_act)
            for lane in self.lanes
        ):
            return False
        self.closed = self.closing
        sent = self.sender.sent if self.version == self.closing else 0
        self.send(self.group.learner, Kind.CLOSED, version=self.closing, trajectories=sent)
        return True

    def _start(self, state: dict[str, Any]) -> None:
        """Begin to act, from the state of a resumed run if there is one."""
        self.waited = 0.0
        self._state = state
        if self.writer is not None:
            self.writer.rollouts = int(state.get("first_rollout", 0))
        played: Mapping[str, Any] | None = None
        if "generator" in state:
            self.load_state_dict(state)
            played = state["environment"]
        elif "first_episode" in state:
            # A replacement, or a run resumed with other actors, uses new random numbers and episodes.
            self.generator = generator_for(
                self.context.config.seed, "actor", self.index, int(state["version"])
            )
            played = {"restarts": 0, "episode": np.array([int(state["first_episode"])])}
        self.environments.begin(played)
        self.started = True
        self._collect()
        if self.early_weights is not None:
            self._adopt(*self.early_weights)

    # ---- work

    def work(self) -> bool:
        """Take note of what the environments have done, and choose actions for lanes that wait for them."""
        if self.stopping:
            return self._stop()
        worked = self.environments.remote and self._collect()
        if self.closing > self.closed and self._closed():
            return True
        self.wake_at = math.inf
        if self.requested_states and not self._send_states():
            return worked  # the states are those between two steps
        if not self.has_weights or self._held():
            return worked
        if self.at_boundary and not self._leave_boundary():
            return worked
        ready = self._ready()
        if not ready:
            return worked
        self._one_step(ready)
        if self.report.due():
            self._report()
        return True

    def _ready(self) -> list[Lane]:
        """Return the lanes to infer for now; none while a batch is incomplete. Sets `wake_at`."""
        ready = [lane for lane in self.lanes if lane.may_act]
        if len(self.lanes) > 1 and self.backpressure:
            ready = [lane for lane in ready if self.sender.has_room(lane.ring, lane.row)]
        if self.environments.delayed:
            now = time.monotonic()
            delayed = [lane.ready_at for lane in ready if lane.ready_at > now]
            self.wake_at = min(delayed, default=math.inf)
            ready = [lane for lane in ready if lane.ready_at <= now]
        if self.decider.waits and ready and (due := self.decider.due_at(ready)) > 0.0:
            self.wake_at = min(self.wake_at, due)
            return []
        return ready

    def _one_step(self, lanes: Sequence[Lane]) -> None:
        """Choose actions for some lanes in one batch, and begin to step their environments."""
        for lane in lanes:
            if lane.row == 0:
                lane.arena_version = self.version
                if lane.turns is None:
                    lane.note_positions()
        began = time.perf_counter()
        lanes[0].environment.prepare([lane.environment for lane in lanes])
        decisions = self.decider.decide(lanes)
        ended = time.perf_counter()
        self.counters["acting_seconds"] += ended - began
        if self.trace is not None:
            self.trace.add(Span.INFERENCE, began, ended, self.version)
        for lane, decision in zip(lanes, decisions, strict=True):
            lane.begin_step(decision)
            if lane.environment.poll():
                self._stepped(lane)

    def _collect(self) -> bool:
        """Take note of the environments that have finished their work; return whether there were any."""
        found = False
        for lane in self.lanes:
            if lane.in_flight and lane.environment.poll():
                found = True
                if lane.stage is Stage.STEPPING:
                    self._stepped(lane)
                elif lane.stage is Stage.LOADING:
                    self._loaded(lane)
                else:
                    self.follower.settle(lane)
        return found

    def _loaded(self, lane: Lane) -> None:
        """Follow the episodes that a lane's environments have begun."""
        lane.arena.begin()
        if lane.turns is not None:
            deterministic = self.context.config.deterministic and self.algorithm.on_policy
            lane.turns.start(self.version, between=deterministic and "generator" in self._state)
            lane.turns.assembler.load_state_dict(self._state.get("unfinished", {}))
        lane.note_positions()
        self.follower.begin_trajectory(lane)
        self.follower.settle(lane)

    def _stepped(self, lane: Lane) -> None:
        """Send what a lane's step has completed."""
        self.sender.env_steps += lane.active
        row = lane.end_step()
        if self.environments.step_delay:
            lane.ready_at = time.monotonic() + self.environments.step_delay
        if lane.turns is not None:
            self._hand_on_episodes(lane, row)
        elif lane.row == lane.arena.layout.steps:
            self._hand_on_unroll(lane)
        self.follower.settle(lane)

    def _hand_on_episodes(self, lane: Lane, row: int) -> None:
        """Record and send the episodes that ended in `row`."""
        assert lane.turns is not None
        behind = self.algorithm.on_policy and lane.version != self.version
        version = lane.version if behind else self.version
        episodes = lane.turns.after_step(lane.arena, row, version, behind=behind)
        for index, (buffer, rollout) in enumerate(episodes):
            self._record(rollout)
            began = time.perf_counter()
            self.sender.post_episode(buffer, rollout, more=index + 1 < len(episodes))
            self.counters["sending_seconds"] += time.perf_counter() - began
        if episodes:
            lane.timer.finished(
                [int(rollout.slots[0]) - int(lane.slot_numbers[0]) for _, rollout in episodes]
            )
            self.follower.begin_trajectory(lane)
            self.at_boundary = self._quota_done()

    def _hand_on_unroll(self, lane: Lane) -> None:
        """Record and send the full arena."""
        full = lane.arena
        began = time.perf_counter()
        rollout = self.sender.post_arena(lane.ring, lane.arena_version)
        self.counters["sending_seconds"] += time.perf_counter() - began
        self._record(rollout)
        lane.go_on_from(full)
        lane.timer.finished(range(lane.slots))
        self.follower.begin_trajectory(lane)
        self.at_boundary = self._quota_done()

    def _record(self, rollout: Rollout) -> None:
        if self.writer is None:
            return
        began = time.perf_counter()
        self.writer.append(rollout)
        ended = time.perf_counter()
        self.counters["recording_seconds"] += ended - began
        if self.trace is not None:
            self.trace.add(Span.TRAJECTORIES, began, ended, rollout.version)

    # ---- bookkeeping

    def _quota_done(self) -> bool:
        """Return whether the actor of a deterministic run has delivered its share of the round."""
        if not self.context.config.deterministic or self.context.in_order:
            return False
        return self.sender.sent >= actor_quota(self.context, self.group.index, self.version)

    def _leave_boundary(self) -> bool:
        """Leave the boundary of a deterministic round; return False while the next version has not come."""
        if self._quota_done():
            return False
        self.at_boundary = False
        for lane in self.lanes:
            lane.timer.begin()
        return True

    def may_rest(self) -> bool:
        """Ask the workers to wake this rank; return False if one of them has just finished."""
        return self.environments.may_rest()

    def on_rested(self) -> None:
        """Tell the workers that this rank is awake."""
        self.environments.on_rested()

    def _report(self) -> None:
        """Send the counters to the server."""
        counters: dict[str, Any] = {**self.counters, "waiting_seconds": self.waited}
        counters["environment_seconds"] = sum(lane.environment_seconds for lane in self.lanes)
        counts: Counter[str] = sum((Counter(lane.environment.counts) for lane in self.lanes), Counter())
        counters |= {name: counts[name] for name in self.lanes[0].environment.counts}
        counters["dropped_steps"] = self.sender.dropped_steps
        if self.writer is not None:
            counters |= {f"trajectory_{name}": value for name, value in self.writer.statistics.items()}
        times = [sum(parts) for parts in zip(*(lane.timer.sums for lane in self.lanes), strict=True)]
        environments = self.environments
        stepping = environments.seconds_by_worker()
        report = ActorReport(self.index, counters, times, stepping, environments.bare)
        self.send(self.context.topology.server, Kind.REPORT, report)

    def _stop(self) -> bool:
        """Close the open shard, send the last counters and state, and finish.

        Returns:
            Whether the actor has done anything in this call.
        """
        if self.finished:
            return False
        if self.environments.asks_for_states and not self.environments.lost:
            if not any(flags & Flags.FINAL for _, flags in self.requested_states):
                self._request_state(self.version, Flags.FINAL)
            worked = self._collect()
            if not self._send_states():
                return worked
        else:
            self._send_state(self.version, Flags.FINAL)
        if self.writer is not None:
            self.writer.close()
        self._report()
        self.environments.stop()
        self.finished = True
        return True

    def _request_state(self, version: int, flags: Flags) -> None:
        """Send the state, at once or when the workers have sent theirs."""
        if self.environments.asks_for_states:
            self.requested_states.append((version, flags))
        else:
            self._send_state(version, flags)

    def _send_states(self) -> bool:
        """Send the requested states, if the workers have sent theirs; return whether they were sent."""
        if not self.requested_states:
            return True
        if any(lane.in_flight for lane in self.lanes) or not self.environments.have_states():
            return False
        for version, flags in self.requested_states:
            self._send_state(version, flags)
        self.requested_states.clear()
        self.environments.forget_states()
        return True

    def _send_state(self, version: int, flags: Flags) -> None:
        state = self.state_dict()
        self.send(self.context.topology.server, Kind.STATE, state, version=version, flags=flags)

    def state_dict(self) -> dict[str, Any]:
        """Return the random numbers, the recurrent memory and the state of the environments."""
        memories = [lane.memory for lane in self.lanes]
        first = self.lanes[0]
        kept = first.turns is not None and self.context.config.deterministic and not self.algorithm.on_policy
        return {
            "generator": self.generator.bit_generator.state,
            "environment": self.environments.state_dict(),
            "memory": {name: np.concatenate([memory[name] for memory in memories]) for name in memories[0]},
            "slots": self.slots,
            "version": self.version,
            "rollouts": 0 if self.writer is None else self.writer.rollouts,
            "unfinished": first.turns.assembler.state_dict(first.arena, first.row)
            if kept and first.turns is not None
            else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`.

        In deterministic runs the environments continue where they were. In others they begin new episodes.
        """
        self.generator.bit_generator.state = state["generator"]
        self.version = int(state["version"])
        for lane in self.lanes:
            lane.version = self.version
            if self.context.config.deterministic:
                lane.memory.update({policy: np.array(memory) for policy, memory in state["memory"].items()})

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.environments.close()
