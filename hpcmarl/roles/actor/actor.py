"""The actor: step environments with the newest weights and send rollouts to the learner.

    weights of a version ──► act ──► step the environments ──► write a row of the arena
        ──► when the arena is full or an episode is over: send it, continue in the next free arena

If no arena is free, the learner is behind. The rollout is then dropped and counted or, with
rounds.backpressure, the actor waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Flags, Kind, vector_of
from hpcmarl.comm.transport import Message
from hpcmarl.envs import Seeds, make_environment
from hpcmarl.packing import unpack
from hpcmarl.roles.actor.episode_turns import UNLIMITED, EpisodeTurns
from hpcmarl.roles.actor.sender import RolloutSender
from hpcmarl.roles.actor.trajectories import trajectory_writer
from hpcmarl.roles.base import REPORTS_PER_SECOND, Context, Interval, Role, generator_for
from hpcmarl.roles.deterministic_quota import actor_quota
from hpcmarl.roles.efficiency import measure_bare
from hpcmarl.roles.reports import ActorReport
from hpcmarl.roles.timing import TrajectoryTimer
from hpcmarl.rollouts.assembler import EpisodeAssembler
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import FloatArray, Rollout


class Actor(Role):
    """One actor with E slots.

    Attributes:
        index: Number of the actor in the run. Its slots are index·E to index·E + E - 1 of the run.
        slots: Number of slots, E.
        row: Row of the arena that the coming step writes.
        turns: Episodes of the slots, if trajectories are whole episodes; None: unrolls.
        version: Version of the newest weights; -1 before the first.
        arena_version: Version at the first row of the arena.
        at_boundary: Whether the actor has delivered its share of a deterministic round.
        early_weights: Weights that arrived before START, as arguments of `_adopt`.
        closed: Newest version reported to the learner as closed.
        closing: Newest version of which the learner requests no further episodes; -1: none.
        ready_at: Time of the next step after injected delays, in seconds of time.monotonic().
        pause_requested: Whether the learner is behind and requests a pause.
        held_since: Start of the present pause, in seconds of time.perf_counter(); None: no pause.
    """

    name = "actor"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        self.group = context.topology.group_of(context.rank)
        self.index = context.topology.actor_index(context.rank)
        self.delay = config.topology.group_list[self.group.index].delay
        self.backpressure = config.backpressure
        self.slots = config.topology.environments_per_actor
        self.algorithm = context.acting_model(drawn=False)
        self.codec = context.codec(self.algorithm)
        self.generator = generator_for(config.seed, "actor", self.index)
        self.bare = measure_bare(context, self.index, self.group.index)
        environment = make_environment(
            context.group_env(self.group.index),
            config.policies,
            self.slots,
            Seeds(config.seed, self.index * self.slots),
            spec=context.environment_spec,
            record=config.deterministic,
            with_state=self.algorithm.needs_state,
            skip_bad_numbers=config.faults.on_nan == "skip",
        )
        self.environment = environment if context.game is None else context.game(environment)
        self.writer = trajectory_writer(context, self.index, with_state=self.algorithm.needs_state)
        self.slot_numbers = np.arange(self.index * self.slots, (self.index + 1) * self.slots, dtype=np.int64)
        layout = self.codec.layout(context.arena_steps, self.slots)
        self.sender = RolloutSender(context, layout, self.index)
        self.row = 0
        self.memory = self.algorithm.initial_memory(self.slots)
        assembler = (
            EpisodeAssembler(self.codec, self.slots, self.index, self.slot_numbers)
            if context.whole_episodes
            else None
        )
        self.turns = None if assembler is None else EpisodeTurns(self.environment, assembler, self.memory)
        self.version, self.arena_version = -1, -1
        self.started = self.has_weights = self.at_boundary = False
        self.early_weights: tuple[int, FloatArray, int, int] | None = None
        self.closed = -1
        self.closing = -1
        self.ready_at = 0.0
        self.pause_requested = False
        self.held_since: float | None = None
        self.timer = TrajectoryTimer(self.slots)
        self.counters: dict[str, float] = {
            "cancelled_steps": 0,
            "environment_seconds": 0.0,
            "acting_seconds": 0.0,
            "held_seconds": 0.0,
        }
        self.report = Interval(max(config.logging.every_seconds, context.topology.size / REPORTS_PER_SECOND))

    @property
    def arena(self) -> RolloutArena:
        """The arena that is being written."""
        return self.sender.arena

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.WEIGHTS:
            self._on_weights(message)
        elif message.kind is Kind.CLOSE:
            self._close(message.header.version)
        elif message.kind is Kind.START:
            self._start(unpack(message.payload))
        elif message.kind is Kind.CHECKPOINT_REQUEST:
            self.send(
                self.context.topology.server,
                Kind.STATE,
                self.state_dict(),
                version=message.header.version,
            )
        elif message.kind is Kind.STOP:
            self.stopping = True
        message.release()

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Stop if the actor's own group is lost."""
        self.stopping = self.stopping or self.group.index in groups  # a lost group cannot use rollouts

    def _held(self) -> bool:
        """Return whether to pause (rounds.backpressure), and count the time of pauses.

        The actor pauses while its learner is behind or has not yet received enough of the sent rollouts.
        Durations of trajectories do not include pauses.
        """
        held = self.pause_requested or (self.backpressure and not self.sender.has_room(self.row))
        if held or self.held_since is not None:
            now = time.perf_counter()
            if self.held_since is not None:
                self.counters["held_seconds"] += now - self.held_since
                self.timer.skip(now - self.held_since)
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
        if version <= self.closing:
            allotment = 0
        if version == self.version and self.has_weights:
            if self.turns is not None and self.algorithm.on_policy and version > self.closing:
                self.timer.begin(self.turns.allot(version, allotment, self.arena.frames[self.row], self.row))
            return
        self.algorithm.load_parameters(vector)
        self.algorithm.on_progress(env_steps)
        self.has_weights = True
        stale, self.version, self.sender.sent = self.version, version, 0
        if stale < 0:
            self.timer.begin()  # do not count the time before the first weights
        if self.turns is not None and self.algorithm.on_policy:
            self._begin_version(allotment, abandon=stale < 0 or self.context.config.rounds.late == "cancel")
        elif self.turns is not None and stale < 0:
            self.turns.assembler.versions[:] = version

    def _begin_version(self, allotment: int, *, abandon: bool) -> None:
        """Begin the episodes of a new version.

        Args:
            allotment: Episodes that may begin under it.
            abandon: Whether to abandon the episodes under way.
        """
        assert self.turns is not None
        self.timer.begin(np.flatnonzero(self.turns.assembler.resting).tolist())
        lost = self.turns.open(
            self.version, allotment, self.arena.frames[self.row], self.row, abandon=abandon
        )
        self.counters["cancelled_steps"] += lost
        if abandon:
            self.timer.begin()
            self._begin_trajectory()

    def _close(self, version: int) -> None:
        """Begin no further episode of this version, because its round has enough trajectories."""
        self.closing, self.pause_requested = version, False
        if self.turns is not None and self.version == version:
            self.turns.close(self.arena.frames[self.row])

    def _closed(self) -> bool:
        """Report to the learner, once, that no episode of the closing version is under way.

        Returns:
            Whether the report was sent.
        """
        if self.closing < 0 or self.closing <= self.closed:
            return False
        assert self.turns is not None
        if self.version == self.closing and not self.turns.done:
            return False
        self.closed = self.closing
        sent = self.sender.sent if self.version == self.closing else 0
        self.send(self.group.learner, Kind.CLOSED, version=self.closing, trajectories=sent)
        return True

    def _start(self, state: dict[str, Any]) -> None:
        """Begin to act, from the state of a resumed run if there is one."""
        self.waited = 0.0
        self.arena.begin()
        frame = self.arena.frames[0]
        if self.writer is not None:
            self.writer.rollouts = int(state.get("first_rollout", 0))
        if "generator" in state:
            self.load_state_dict(state)
        else:
            # A replacement, or a run resumed with other actors, uses new random numbers and episodes.
            if "first_episode" in state:
                self.generator = generator_for(
                    self.context.config.seed, "actor", self.index, int(state["version"])
                )
                played = {"restarts": 0, "episode": np.array([int(state["first_episode"])])}
                self.environment.load_state_dict(played, frame)
            else:
                self.environment.reset(frame)
        if self.turns is not None:
            deterministic = self.context.config.deterministic and self.algorithm.on_policy
            self.turns.start(self.version, between=deterministic and "generator" in state)
            self.turns.assembler.load_state_dict(state.get("unfinished", {}))
        self._note_positions()
        self._begin_trajectory()
        self.started = True
        if self.early_weights is not None:
            self._adopt(*self.early_weights)

    # ---- work

    def work(self) -> bool:
        """Take one step of all slots, unless the actor has to wait."""
        if self.stopping:
            return self._stop()
        if self._closed():
            return True
        self.wake_at = math.inf
        if not self.has_weights or self._held():
            return False
        if time.monotonic() < self.ready_at:
            self.wake_at = self.ready_at
            return False
        if self.at_boundary and not self._leave_boundary():
            return False
        if self.turns is not None and self.turns.done:
            return False
        if self.row == 0:
            self.arena_version = self.version
            if self.turns is None:
                self._note_positions()
        self._one_step()
        if self.report.due():
            self._report()
        return True

    def _one_step(self) -> None:
        """Act, step the environments, and send completed trajectories."""
        arena, row = self.arena, self.row
        frame = arena.frames[row]
        began = time.perf_counter()
        decisions = self.algorithm.act(frame, self.memory, self.generator)
        arena.decide(row, decisions, self.memory)
        acted = time.perf_counter()
        outcome = arena.outcomes[row]
        self.environment.step(
            {policy: decision.action for policy, decision in decisions.items()},
            outcome,
            arena.frames[row + 1],
        )
        arena.keep(row, outcome)
        self.counters["acting_seconds"] += acted - began
        self.counters["environment_seconds"] += time.perf_counter() - acted
        self.sender.env_steps += self.slots if self.turns is None else self.turns.active
        self.row += 1
        if self.delay.step:
            self.ready_at = time.monotonic() + self.delay.step
        if self.turns is not None:
            self._hand_on_episodes(row)
        elif self.row == arena.layout.steps:
            self._hand_on_unroll()

    def _hand_on_episodes(self, row: int) -> None:
        """Record and send the episodes that ended in `row`."""
        assert self.turns is not None
        episodes = self.turns.after_step(self.arena, row, self.version)
        for index, (buffer, rollout) in enumerate(episodes):
            self._record(rollout)
            self.sender.post_episode(buffer, rollout, more=index + 1 < len(episodes))
        if self.row == self.arena.layout.steps:
            self.sender.go_on_from(self.arena)
            self.row = 0
        if episodes:
            self.timer.finished(
                [int(rollout.slots[0]) - int(self.slot_numbers[0]) for _, rollout in episodes]
            )
            self._begin_trajectory()
            self.at_boundary = self._quota_done()

    def _hand_on_unroll(self) -> None:
        """Record and send the full arena."""
        full = self.arena
        self._record(self.sender.post_arena(self.arena_version))
        self.sender.go_on_from(full)
        self.row = 0
        self.timer.finished(range(self.slots))
        self._begin_trajectory()
        self.at_boundary = self._quota_done()

    def _record(self, rollout: Rollout) -> None:
        if self.writer is not None:
            self.writer.append(rollout)

    # ---- bookkeeping

    def _begin_trajectory(self) -> None:
        """Apply the injected delay per trajectory."""
        if self.delay.trajectory:
            self.ready_at = time.monotonic() + self.delay.trajectory

    def _note_positions(self) -> None:
        """Write the position of each slot within its episode at the first step of the arena."""
        self.arena.arrays["slots"][:] = self.slot_numbers
        self.arena.arrays["first_step"][:] = self.environment.episode_step
        self.arena.arrays["episode"][:] = self.environment.episode_index
        for policy, memory in self.memory.items():
            self.arena.arrays[policy + "/memory"][:] = memory

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
        self.timer.begin()
        return True

    def _report(self) -> None:
        """Send the counters to the server."""
        counters: dict[str, Any] = {**self.counters, "waiting_seconds": self.waited}
        counters |= {**self.environment.counts, "dropped_steps": self.sender.dropped_steps}
        if self.writer is not None:
            counters |= {f"trajectory_{name}": value for name, value in self.writer.statistics.items()}
        report = ActorReport(self.index, counters, self.timer.sums, self.bare)
        self.send(self.context.topology.server, Kind.REPORT, report)

    def _stop(self) -> bool:
        """Close the open shard, send the last counters and state, and finish.

        Returns:
            Whether the actor has stopped in this call.
        """
        if self.finished:
            return False
        if self.writer is not None:
            self.writer.close()
        self._report()
        self.send(
            self.context.topology.server,
            Kind.STATE,
            self.state_dict(),
            version=self.version,
            flags=Flags.FINAL,
        )
        self.finished = True
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the random numbers, the recurrent memory and the state of the environments."""
        memory = {policy: memory.copy() for policy, memory in self.memory.items()}
        kept = self.turns is not None and self.context.config.deterministic and not self.algorithm.on_policy
        return {
            "generator": self.generator.bit_generator.state,
            "environment": self.environment.state_dict(),
            "memory": memory,
            "slots": self.slots,
            "version": self.version,
            "rollouts": 0 if self.writer is None else self.writer.rollouts,
            "unfinished": self.turns.assembler.state_dict(self.arena, self.row)
            if kept and self.turns is not None
            else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`.

        In deterministic runs the environments continue where they were. In others they begin new episodes.
        """
        self.generator.bit_generator.state = state["generator"]
        self.version = int(state["version"])
        self.environment.load_state_dict(state["environment"], self.arena.frames[0])
        if self.context.config.deterministic:
            self.memory.update({policy: np.array(memory) for policy, memory in state["memory"].items()})

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.environment.close()
