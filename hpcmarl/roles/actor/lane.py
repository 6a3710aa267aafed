"""A lane: the slots of an actor that are always at the same step.

An actor that steps its environments itself has one lane. An actor with workers has one lane for each half of
each worker, so that a slow environment delays the slots of its worker only. In deterministic runs all slots
form one lane.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from hpcmarl.envs import BatchedEnvironment
from hpcmarl.roles.actor.episode_turns import EpisodeTurns
from hpcmarl.roles.actor.remote_environment import RemoteEnvironment
from hpcmarl.roles.actor.sender import ArenaRing
from hpcmarl.roles.timing import TrajectoryTimer
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.tracing.spans import Span, Tracer
from hpcmarl.types import Array, Decision, FloatArray, Frame, IntArray, Outcome


class Stage(Enum):
    """What a lane waits for."""

    IDLE = auto()  # the START of the run
    LOADING = auto()  # its environments begin or load a state
    READY = auto()  # actions
    STEPPING = auto()  # its environments step
    RESTARTING = auto()  # its environments begin episodes
    LOST = auto()  # nothing: its worker is gone


@dataclass
class Lane:
    """Slots that step together, with their environments, arenas, memory and episodes.

    Attributes:
        first: Number of its first slot among the actor's.
        environment: Its environments, as the algorithm sees them.
        ring: Its arenas.
        memory: Recurrent memory by policy, [n, N, H].
        turns: Episodes of the slots, if trajectories are whole episodes; None: unrolls.
        slot_numbers: Numbers of the slots in the run, [n].
        workers: Number of the worker of each slot, [n]; -1: the actor itself.
        remote: The environments that workers step; None: this process steps them.
        random_shares: Share of random actions of each slot (topology.workers), [n]; NaN: as the algorithm
            says. None: so in all slots.
        trajectory_delay: Seconds that the actor waits before every trajectory, for studies.
        timer: Durations of its trajectories.
        stage: What the lane waits for.
        row: Row of the arena that the coming step writes.
        version: Newest version that the lane has taken note of; -1: none.
        opened: Whether the lane has begun to play under any version.
        arena_version: Version at the first row of the arena.
        ready_at: Time of the next step after injected delays, in seconds of time.monotonic().
        ready_since: Time since when the lane waits for actions, in seconds of time.monotonic().
        trace: Recorder of the rank's spans; None: there is no trace.
    """

    first: int
    environment: BatchedEnvironment
    ring: ArenaRing
    memory: dict[str, FloatArray]
    turns: EpisodeTurns | None
    slot_numbers: IntArray
    workers: Array
    remote: RemoteEnvironment | None
    random_shares: FloatArray | None = None
    trajectory_delay: float = 0.0
    stage: Stage = Stage.IDLE
    row: int = 0
    version: int = -1
    opened: bool = False
    arena_version: int = -1
    ready_at: float = 0.0
    ready_since: float = 0.0
    trace: Tracer | None = None
    timer: TrajectoryTimer = field(init=False)

    def __post_init__(self) -> None:
        self.slots = self.environment.slots
        self.timer = TrajectoryTimer(self.slots)
        self._outcome: Outcome | None = None
        self._own_seconds = 0.0

    @property
    def arena(self) -> RolloutArena:
        """The arena that is being written."""
        return self.ring.present

    @property
    def frame(self) -> Frame:
        """Observations before the coming step."""
        return self.ring.present.frames[self.row]

    @property
    def active(self) -> int:
        """Number of slots that play."""
        return self.slots if self.turns is None else self.turns.active

    @property
    def may_act(self) -> bool:
        """Whether the lane waits for actions, and has a slot that plays."""
        return self.stage is Stage.READY and (self.turns is None or not self.turns.done)

    @property
    def in_flight(self) -> bool:
        """Whether its environments are at work."""
        return self.stage in (Stage.LOADING, Stage.STEPPING, Stage.RESTARTING)

    @property
    def environment_seconds(self) -> float:
        """Time spent in its environments."""
        return self._own_seconds if self.remote is None else self.remote.seconds

    def begin_step(self, decisions: Mapping[str, Decision]) -> None:
        """Take the decisions of the policies, and begin to step the environments."""
        arena, row = self.ring.present, self.row
        arena.decide(row, decisions, self.memory)
        self._outcome = outcome = arena.outcomes[row]
        actions = {policy: decision.action for policy, decision in decisions.items()}
        self.stage = Stage.STEPPING
        if self.remote is not None:
            self.remote.aim(self.ring.number, row)
        began = time.perf_counter()
        self.environment.step(actions, outcome, arena.frames[row + 1])
        ended = time.perf_counter()
        self._own_seconds += ended - began
        if self.trace is not None and self.remote is None:
            self.trace.add(Span.ENVIRONMENT, began, ended)

    def end_step(self) -> int:
        """Take note that the environments have stepped.

        Returns:
            Row that was written.
        """
        assert self._outcome is not None
        row = self.row
        self.ring.present.keep(row, self._outcome)
        self.row = row + 1
        if self.remote is not None:
            self.aim()
        return row

    def aim(self) -> None:
        """Direct restarts by workers at the row before the coming step."""
        if self.remote is not None:
            self.remote.aim(self.ring.number, self.row)

    def go_on_from(self, full: RolloutArena) -> None:
        """Continue at row 0 of the present arena with the last frame of a full one, which may be the same."""
        self.ring.present.begin_after(full)
        self.row = 0
        self.aim()

    def note_positions(self) -> None:
        """Write the position of each slot within its episode at the first step of the arena."""
        arrays = self.ring.present.arrays
        arrays["slots"][:] = self.slot_numbers
        arrays["workers"][:] = self.workers
        arrays["first_step"][:] = self.environment.episode_step
        arrays["episode"][:] = self.environment.episode_index
        for policy, memory in self.memory.items():
            arrays[policy + "/memory"][:] = memory

    def lose(self) -> None:
        """Take note that the lane's worker is gone."""
        self.stage = Stage.LOST
        if self.remote is not None:
            self.remote.lost = True
        if self.turns is not None:
            self.turns.leave_all()

    def revive(self) -> None:
        """Begin new episodes in all slots, because a new process replaces the lane's worker."""
        assert self.remote is not None
        self.row, self.version, self.opened = 0, -1, False
        self.aim()
        if self.turns is not None:
            self.turns.come_back()
        for memory in self.memory.values():
            memory[:] = 0.0
        self.remote.revive()


def join_frames(frames: Sequence[Frame]) -> Frame:
    """Return the observations of several lanes side by side, copied."""
    policies = {}
    for name, first in frames[0].policies.items():
        parts = [frame.policies[name] for frame in frames]
        masks = [part.action_mask for part in parts if part.action_mask is not None]
        policies[name] = type(first)(
            np.concatenate([part.obs for part in parts]),
            np.concatenate([part.alive for part in parts]),
            np.concatenate(masks) if masks else None,
        )
    return Frame(policies, None, np.concatenate([frame.episode_start for frame in frames]))


def join_memories(memories: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """Return the memories of several lanes side by side, copied."""
    return {name: np.concatenate([memory[name] for memory in memories]) for name in memories[0]}


def join_shares(lanes: Sequence[Lane]) -> FloatArray | None:
    """Return the shares of random actions of several lanes side by side."""
    shares = [lane.random_shares for lane in lanes if lane.random_shares is not None]
    return np.concatenate(shares) if shares else None


def part_of(decisions: Mapping[str, Decision], slots: slice) -> dict[str, Decision]:
    """Return the decisions for some of the slots, as views."""
    return {
        name: Decision(
            decision.action[slots],
            None if decision.logp is None else decision.logp[slots],
            None if decision.memory is None else decision.memory[slots],
        )
        for name, decision in decisions.items()
    }
