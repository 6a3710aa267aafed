"""Environments that the workers of an actor step, as the actor sees them.

Operations return at once and are complete when `poll` returns True. Restarts are collected and given to the
workers together at the next `poll`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hpcmarl.envs import BatchedEnvironment, new_frame, new_outcome
from hpcmarl.envs.slot_states import merge_slot_states, split_slot_state
from hpcmarl.rollouts.exchange import (
    ARENA,
    COMMAND,
    COUNTS,
    RESTS,
    ROW,
    Command,
    Exchange,
    HalfMemory,
    Turn,
)
from hpcmarl.types import Array, Frame, Outcome, PolicyFrame, PolicyOutcome


class RemoteEnvironment(BatchedEnvironment):
    """Slots of a lane, which consists of one or more halves.

    Args:
        exchange: Shared memory of the actor and its workers.
        lane: Number of the lane.

    Attributes:
        lost: Whether a worker of these slots is gone, so that no operation completes any more.
    """

    def __init__(self, exchange: Exchange, lane: int) -> None:
        self._exchange = exchange
        self._halves = [half for half in exchange.halves if half.plan.lane == lane]
        self.spec = exchange.plan.whole
        self.slots = sum(half.plan.slots for half in self._halves)
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self._counts_before: Counter[str] = Counter()  # of former workers
        self.rests_next = np.zeros(self.slots, np.bool_)
        self._restart, self._rest = (np.zeros(self.slots, np.bool_) for _ in range(2))
        self._restarts = self._rests = False  # whether these arrays name slots
        self._own_counts: list[Sequence[int]] = []  # of each half, as last read
        alone = len(self._halves) == 1  # then the worker's arrays are read in place
        self.episode_index = self._halves[0].episode_index if alone else np.full(self.slots, -1, np.int64)
        self.episode_step = self._halves[0].episode_step if alone else np.zeros(self.slots, np.int64)
        self._hidden = self._halves[0].others() if alone else self._joined_others()
        self._retired: tuple[int, ...] = ()
        self._arena = self._row = 0
        self._at_work: list[HalfMemory] = []
        self._outcome: Outcome | None = None
        self._states: dict[int, Any] = {}
        self.lost = False

    @property
    def halves(self) -> Sequence[HalfMemory]:
        """Memory of the halves."""
        return self._halves

    @property
    def immediate(self) -> bool:
        return False

    @property
    def hidden(self) -> tuple[dict[str, PolicyFrame], dict[str, PolicyOutcome]] | None:
        return self._hidden

    def _joined_others(self) -> tuple[dict[str, PolicyFrame], dict[str, PolicyOutcome]]:
        """Return arrays for the policies that no arena holds, of all halves; `_collect` writes them."""
        names, _ = self._halves[0].others()
        spec = replace(self.spec, policies=tuple(self.spec.policy(name) for name in names))
        return new_frame(spec, self.slots).policies, new_outcome(spec, self.slots).policies

    @property
    def seconds(self) -> float:
        """Time that the workers have spent in these environments."""
        return sum(float(half.seconds[0]) for half in self._halves)

    @property
    def retired(self) -> Collection[int]:
        return self._retired

    def aim(self, arena: int, row: int) -> None:
        """Choose the row of the next operation.

        Args:
            arena: Number of the lane's arena.
            row: Row whose outcome a step writes; the observations go to the next row. Restarts write the
                observations of this row.
        """
        self._arena, self._row = arena, row

    def reset(self, frame: Frame) -> None:
        """Have the workers begin an episode in every slot; the caller sends them empty parts (`part_for`)."""
        self._states = {half.number: {} for half in self._halves}
        self._give(Command.LOAD, self._halves)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        self._restart[list(slots)] = self._restarts = True
        self._rest[list(slots)] = False

    def rest_slots(self, slots: Sequence[int]) -> None:
        self._rest[list(slots)] = self._rests = True

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        outcome.finals.clear()
        outcome.episodes.clear()
        self._outcome = outcome
        for half in self._halves:
            own = half.columns
            for name, place in half.actions.items():
                place[...] = actions[name][own]
        self._give(Command.STEP, self._halves)

    def _give(self, command: Command, halves: Sequence[HalfMemory]) -> None:
        """Give a command to the workers of some halves."""
        for half in halves:
            own, numbers = half.columns, half.numbers
            half.rests_next[:] = self.rests_next[own]
            numbers[RESTS] = self._rests
            if self._rests or self._restarts:
                half.rest[:], half.restart[:] = self._rest[own], self._restart[own]
                self._rest[own] = self._restart[own] = False
            numbers[COMMAND], numbers[ARENA], numbers[ROW] = command, self._arena, self._row
            self._exchange.pass_to_worker(half.number, half.plan.worker)
        self._at_work = list(halves)
        if self._rests or self._restarts:  # slots of other halves may be left
            self._rests, self._restarts = bool(self._rest.any()), bool(self._restart.any())

    def poll(self) -> bool:
        if self.lost:
            return False
        if self._at_work:
            for half in self._at_work:
                if self._exchange.turn(half.number) != Turn.ACTOR:
                    return False
            self._collect()
        if self._restarts:
            self._give(Command.RESTART, [half for half in self._halves if self._restart[half.columns].any()])
            return False
        return True

    def _collect(self) -> None:
        """Read the results of the halves that were at work."""
        outcome, self._outcome = self._outcome, None
        for half in self._at_work:
            if outcome is not None:
                half.read_ends(outcome, half.columns.start)
        if len(self._halves) > 1:
            for half in self._at_work:
                self._join(half)
        self._at_work = []
        counts = [half.counts() for half in self._halves]
        if counts == self._own_counts:
            return
        self._own_counts = counts
        own = Counter(dict(zip(COUNTS, map(sum, zip(*counts, strict=True)), strict=True)))
        for name in COUNTS:
            self.counts[name] = own[name] + self._counts_before[name]
        if own["quarantined"]:
            retired = np.concatenate([half.retired for half in self._halves])
            self._retired = tuple(np.flatnonzero(retired).tolist())

    def _join(self, half: HalfMemory) -> None:
        """Copy the results of a half that no arena holds into the arrays of the lane."""
        own = half.columns
        self.episode_index[own], self.episode_step[own] = half.episode_index, half.episode_step
        frames, outcomes = self._hidden
        other_frames, other_outcomes = half.others()
        for name, frame in other_frames.items():
            frames[name].obs[own], frames[name].alive[own] = frame.obs, frame.alive
            if (mask := frames[name].action_mask) is not None:
                mask[own] = frame.action_mask
        for name, outcome in other_outcomes.items():
            joined = outcomes[name]
            joined.reward[own] = outcome.reward
            joined.terminated[own], joined.truncated[own] = outcome.terminated, outcome.truncated

    def revive(self) -> None:
        """Have a new worker begin the episodes after the present ones; the caller sends it its part."""
        self.lost, self._at_work, self._outcome = False, [], None
        self._counts_before = self.counts.copy()
        self._retired = ()
        self._restart[:] = self._rest[:] = self._restarts = self._rests = False
        self._own_counts = []
        self.rests_next[:] = False
        for half in self._halves:
            half.retired[:] = False
            half.reset_counts()
        after = np.maximum(self.episode_index, 0)
        self.load_state_dict({"restarts": 0, "episode": after}, Frame({}, None, np.zeros(0, np.bool_)))

    # ---- states

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Have the workers load a state; the caller sends them their parts (`part_for`)."""
        sizes = [half.plan.slots for half in self._halves]
        numbers = [half.number for half in self._halves]
        self._states = dict(zip(numbers, split_slot_state(state, sizes), strict=True))
        self._give(Command.LOAD, self._halves)

    def part_for(self, worker: int) -> dict[str, Any]:
        """Return the states that a worker has to load, by number of the half."""
        return {
            str(half.number): self._states[half.number]
            for half in self._halves
            if half.plan.worker == worker and half.number in self._states
        }

    def merge(self, states: Mapping[int, Any]) -> dict[str, Any]:
        """Return the state of all slots from the states of the halves, by number of the half."""
        parts = [states[half.number] for half in self._halves]
        return merge_slot_states(parts, [half.plan.slots for half in self._halves])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of environments that are not recorded: restarts and episodes."""
        return {"restarts": self.counts["restarts"], "episode": self.episode_index.copy()}

    def close(self) -> None:
        """Do nothing: the workers close their environments."""
