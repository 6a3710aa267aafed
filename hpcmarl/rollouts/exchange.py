"""Shared memory of an actor and its workers: observations, actions, results, and whose turn it is.

Each worker has two halves of its slots. While the actor chooses actions for one half, the worker steps the
other. A half belongs to one side at a time:

    actor: write actions and command, turn := WORKER, ring the worker
    worker: carry the command out, write the results, turn := ACTOR, ring the actor if it sleeps

Workers write observations, rewards and ends straight into the arenas, which are the messages that the actor
sends to its learner. An arena belongs to a lane: the slots that are always at the same step. A lane is a
half, or all halves in deterministic runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from hpcmarl.comm.shared_memory import Allocator, Futex, fence
from hpcmarl.rollouts.codec import RolloutCodec, read_episodes
from hpcmarl.rollouts.layout import RolloutArena, RolloutLayout, write_episodes, write_finals
from hpcmarl.types import (
    Array,
    EnvironmentSpec,
    FinalFrame,
    Frame,
    Outcome,
    PolicyFrame,
    PolicyOutcome,
)

HALVES = 2  # of each worker
LINE = 16  # int32 numbers in a cache line
COUNTS = ("restarts", "hangs", "bad_numbers", "quarantined")


class Turn(IntEnum):
    """Side to which a half belongs."""

    ACTOR = 0
    WORKER = 1


class Command(IntEnum):
    """Work that an actor gives to a worker."""

    NOTHING = 0
    STEP = 1
    RESTART = 2
    LOAD = 3  # the state comes in a message


# Numbers of a half's control record. RESTS: whether `rest` names slots. COUNTERS + i holds COUNTS[i].
COMMAND, ARENA, ROW, EPISODES, FINALS, RESTS, COUNTERS = 0, 1, 2, 3, 4, 5, 8
NUMBERS = 16


@dataclass(frozen=True)
class HalfPlan:
    """Slots that a worker steps together.

    Attributes:
        worker: Number of the worker among those of its actor.
        lane: Number of the lane.
        first: First slot of the half in its actor.
        slots: Number of slots.
    """

    worker: int
    lane: int
    first: int
    slots: int

    @property
    def end(self) -> int:
        """First slot of the actor after the half."""
        return self.first + self.slots


def plan_halves(slots: int, workers: int, *, together: bool) -> list[HalfPlan]:
    """Divide the slots of an actor among its workers, and those of each worker into halves.

    Args:
        slots: Slots of the actor, E.
        workers: Number of its workers. Workers beyond the number of slots get none.
        together: Whether all slots form one lane.
    """
    plans: list[HalfPlan] = []
    for worker in range(workers):
        begin, end = worker * slots // workers, (worker + 1) * slots // workers
        middle = begin + -(-(end - begin) // HALVES)
        for first, last in ((begin, middle), (middle, end)):
            if last > first:
                plans.append(HalfPlan(worker, 0 if together else len(plans), first, last - first))
    return plans


def plan_lanes(slots: int, workers: int, *, together: bool) -> list[tuple[int, int]]:
    """Return first slot and number of slots of each lane; arguments as of `plan_halves`."""
    if together and workers:
        return [(0, slots)]
    return [(half.first, half.slots) for half in plan_halves(slots, workers, together=together)]


def worker_of_slots(slots: int, workers: int) -> Array:
    """Return the number of the worker of each slot of an actor, [E]; -1 without workers."""
    numbers = np.full(slots, -1, np.int32)
    for plan in plan_halves(slots, workers, together=True) if workers else ():
        numbers[plan.first : plan.end] = plan.worker
    return numbers


@dataclass(frozen=True)
class ExchangePlan:
    """Everything that determines the places in the shared memory. Equal on the actor and its workers.

    Attributes:
        codec: Layouts of rollouts, of the policies that the algorithm sees.
        whole: Specification of the whole environment, which may have more policies.
        steps: Rows of an arena.
        slots: Slots of the actor, E.
        workers: Number of its workers.
        arenas: Arenas of each lane.
        together: Whether all slots form one lane.
    """

    codec: RolloutCodec
    whole: EnvironmentSpec
    steps: int
    slots: int
    workers: int
    arenas: int
    together: bool

    @property
    def halves(self) -> list[HalfPlan]:
        """The halves of all workers."""
        return plan_halves(self.slots, self.workers, together=self.together)

    @property
    def lanes(self) -> list[tuple[int, int]]:
        """First slot and number of slots of each lane."""
        return plan_lanes(self.slots, self.workers, together=self.together)

    def size(self) -> int:
        """Return the number of bytes that the shared memory needs."""
        return Exchange(self, None).size


class Exchange:
    """The shared memory of one actor, as seen by the actor or a worker.

    Attributes:
        plan: Places and sizes.
        size: Length in bytes.
        lanes: Arenas of each lane.
        halves: Memory of each half.
    """

    def __init__(self, plan: ExchangePlan, buffer: Array | None) -> None:
        """Lay out the arrays in a buffer; without one, only `size` is determined."""
        self.plan = plan
        halves, places = plan.halves, Allocator(buffer)
        # For each worker: a bell that the actor rings, and whether the worker sleeps. For each half: its
        # turn. Last: whether the actor sleeps.
        self._words = places.take(((2 * plan.workers + len(halves) + 1) * LINE,), np.int32)
        self.lanes: list[list[RolloutArena]] = []
        for _, slots in plan.lanes:
            layout = plan.codec.layout(plan.steps, slots)
            parts = [places.take((layout.capacity,), np.uint8) for _ in range(plan.arenas)]
            self.lanes.append([] if buffer is None else [RolloutArena(layout, part) for part in parts])
        self.halves = [
            HalfMemory(plan, self.lanes[half.lane], number, half, places, there=buffer is not None)
            for number, half in enumerate(halves)
        ]
        self.size = places.size
        if buffer is not None:
            self._values = memoryview(self._words)  # type: ignore[arg-type]
            self._futex = Futex(self._words)

    # ---- turns and bells

    def _turn_at(self, half: int) -> int:
        return (2 * self.plan.workers + half) * LINE

    @property
    def _actor_at(self) -> int:
        return (2 * self.plan.workers + len(self.halves)) * LINE

    def turn(self, half: int) -> int:
        """Return to which side a half belongs (`Turn`)."""
        return self._values[self._turn_at(half)]

    def pass_to_worker(self, half: int, worker: int) -> None:
        """Give a half to its worker, and wake the worker if it sleeps."""
        fence()
        self._values[self._turn_at(half)] = Turn.WORKER
        self.ring_worker(worker)

    def ring_worker(self, worker: int) -> None:
        """Make a worker look for work."""
        bell = 2 * worker * LINE
        self._values[bell] = (self._values[bell] + 1) & 0x3FFFFFFF
        fence()
        if self._values[bell + LINE]:
            self._futex.wake(bell)

    def pass_to_actor(self, half: int) -> bool:
        """Give a half to the actor.

        Returns:
            Whether the actor sleeps and has to be woken.
        """
        fence()
        self._values[self._turn_at(half)] = Turn.ACTOR
        fence()
        return bool(self._values[self._actor_at])

    def bell(self, worker: int) -> int:
        """Return the present value of a worker's bell, for `sleep`."""
        return self._values[2 * worker * LINE]

    def sleep(self, worker: int, heard: int, seconds: float) -> None:
        """Let a worker sleep until its bell rings.

        Args:
            worker: Number of the worker.
            heard: Value of the bell before the worker looked for work.
            seconds: Longest sleep, less than a second.
        """
        bell = 2 * worker * LINE
        self._values[bell + LINE] = 1
        fence()
        if self._values[bell] == heard:
            self._futex.wait(bell, heard, seconds)
        self._values[bell + LINE] = 0

    def actor_sleeps(self, sleeps: bool) -> None:
        """Note whether the actor is about to sleep, so that workers wake it."""
        self._values[self._actor_at] = int(sleeps)
        fence()


class HalfMemory:
    """Memory of one half: commands, actions, results, and its columns of the arenas.

    Attributes:
        plan: The slots.
        number: Number of the half.
        numbers: The control record.
        seconds: Time spent in the environments so far, one number.
        actions: Actions of each policy of the whole environment, [n, N, *action.shape].
        rests_next: Slots that rest after their present episode, [n].
        rest: Slots to exclude before the command, [n].
        restart: Slots that a RESTART restarts, [n].
        retired: Slots in quarantine, [n].
        episode_index: Present episode of each slot, [n].
        episode_step: Next step in that episode, [n].
    """

    def __init__(
        self,
        exchange: ExchangePlan,
        arenas: Sequence[RolloutArena],
        number: int,
        plan: HalfPlan,
        places: Allocator,
        *,
        there: bool,
    ) -> None:
        """Lay out the arrays.

        Args:
            exchange: Places of the whole memory.
            arenas: Arenas of the half's lane.
            number: Number of the half.
            plan: The slots.
            places: Where the arrays are.
            there: Whether there is memory. Otherwise only the size is determined.
        """
        self.plan, self.number, self._exchange, self._arenas = plan, number, exchange, arenas
        spec, slots = exchange.whole, plan.slots
        self._control = places.take((NUMBERS,), np.int64)
        self.seconds = places.take((1,), np.float64)
        self.actions = {
            policy.name: places.take((slots, len(policy.agents), *policy.action.shape), policy.action.dtype)
            for policy in spec.policies
        }
        self.rests_next, self.rest, self.restart, self.retired = (
            places.take((slots,), np.bool_) for _ in range(4)
        )
        self.episode_index, self.episode_step = (places.take((slots,), np.int64) for _ in range(2))
        # policies that the algorithm does not see, one step of them
        seen = {policy.name for policy in exchange.codec.spec.policies}
        self._other_frames, self._other_outcomes = {}, {}
        for policy in spec.policies:
            if policy.name not in seen:
                shape = (slots, len(policy.agents))
                self._other_frames[policy.name] = PolicyFrame(
                    places.take((*shape, *policy.observation_shape), policy.observation_dtype),
                    places.take(shape, np.bool_),
                    places.take((*shape, policy.action.mask_size), np.bool_) if policy.has_mask else None,
                )
                self._other_outcomes[policy.name] = PolicyOutcome(
                    places.take(shape, np.float32), places.take(shape, np.bool_), places.take(shape, np.bool_)
                )
        self._records = RolloutLayout(spec, 1, slots, with_state=exchange.codec.with_state)
        self._finals = places.take((slots,), self._records.final_dtype)
        self._episodes = places.take((slots,), self._records.episode_dtype)
        if there:
            self.numbers = memoryview(self._control)  # type: ignore[arg-type]
            first = exchange.lanes[plan.lane][0]
            self._columns = slice(plan.first - first, plan.end - first)
            self._frames: dict[tuple[int, int], Frame] = {}
            self._outcomes: dict[tuple[int, int], Outcome] = {}

    @property
    def columns(self) -> slice:
        """Columns of the half in the arenas of its lane."""
        return self._columns

    def frame(self, arena: int, row: int) -> Frame:
        """Return the half's part of a row of observations, with all policies of the whole environment."""
        found = self._frames.get((arena, row))
        if found is None:
            frame, own = self._arenas[arena].frames[row], self._columns
            policies = {
                name: PolicyFrame(
                    part.obs[own],
                    part.alive[own],
                    None if part.action_mask is None else part.action_mask[own],
                )
                for name, part in frame.policies.items()
            }
            state = None if frame.state is None else frame.state[own]
            ordered = self._in_order({**self._other_frames, **policies})
            found = self._frames[arena, row] = Frame(ordered, state, frame.episode_start[own])
        return found

    def outcome(self, arena: int, row: int) -> Outcome:
        """Return the half's part of a row of outcomes, with all policies of the whole environment."""
        found = self._outcomes.get((arena, row))
        if found is None:
            outcome, own = self._arenas[arena].outcomes[row], self._columns
            policies = {
                name: PolicyOutcome(part.reward[own], part.terminated[own], part.truncated[own])
                for name, part in outcome.policies.items()
            }
            ordered = self._in_order({**self._other_outcomes, **policies})
            found = self._outcomes[arena, row] = Outcome(ordered, outcome.episode_end[own])
        return found

    def _in_order(self, policies: dict[str, Any]) -> dict[str, Any]:
        return {policy.name: policies[policy.name] for policy in self._exchange.whole.policies}

    def others(self) -> tuple[dict[str, PolicyFrame], dict[str, PolicyOutcome]]:
        """Return the observations and outcomes of the policies that the algorithm does not see."""
        return self._other_frames, self._other_outcomes

    def write_ends(self, outcome: Outcome) -> None:
        """Write the final frames and the episodes of a step. Done by the worker."""
        self.numbers[FINALS], self.numbers[EPISODES] = len(outcome.finals), len(outcome.episodes)
        if outcome.finals:
            records = self._finals[: len(outcome.finals)]
            write_finals(records, outcome.finals, with_state=self._records.with_state)
        if outcome.episodes:
            spec = self._exchange.whole
            write_episodes(self._episodes[: len(outcome.episodes)], outcome.episodes, spec)

    def read_ends(self, outcome: Outcome, first: int) -> None:
        """Add the final frames and the episodes of a step to an outcome. Done by the actor.

        Args:
            outcome: Outcome of the lane.
            first: First column of the half in it.
        """
        finals, episodes = self.numbers[FINALS], self.numbers[EPISODES]
        for record in self._finals[:finals]:
            observations = {name: record[name].copy() for name in self.actions}
            state = record["/state"].copy() if self._records.with_state else None
            outcome.finals.append(FinalFrame(first + int(record["slot"]), observations, state))
        if episodes:
            for episode in read_episodes(self._episodes[:episodes], self._exchange.whole):
                episode.slot += first
                outcome.episodes.append(episode)

    def reset_counts(self) -> None:
        """Set the counters to zero."""
        self._control[COUNTERS : COUNTERS + len(COUNTS)] = 0

    def counts(self) -> Sequence[int]:
        """Return the counters of the half's environments, in the order of COUNTS."""
        return self.numbers[COUNTERS : COUNTERS + len(COUNTS)].tolist()
