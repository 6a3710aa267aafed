"""Assignment of episodes to the slots of an actor, and of slots to rest.

A gradient of whole episodes is unbiased only if the counted episodes are determined before they begin: the
first to finish are the short ones. The learner therefore allots to an actor a number of episodes that may
begin under a version. The actor numbers them in the order in which they begin.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from hpcmarl.comm.protocol import Buffer
from hpcmarl.envs import BatchedEnvironment
from hpcmarl.rollouts.assembler import EpisodeAssembler
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.tracing.spans import Span, Tracer
from hpcmarl.types import UNNUMBERED, BoolArray, FloatArray, Frame, Rollout

UNLIMITED = 2**62


class EpisodeNumbers:
    """Numbers of the episodes that an actor may begin under a version, and their slots.

    Slot s of E plays the episodes numbered s, s + E, s + 2E and so on. Every slot plays its k-th episode
    before any slot plays its k+1-th. The numbers of a quarantined or lost slot go to slots without further
    episodes. If the allotment is UNLIMITED, episodes have no numbers.

    Attributes:
        slots: Number of slots, E.
        allotment: Number of episodes that may begin.
        left: Slots that play no more, whose numbers others take.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.allotment = UNLIMITED
        self.left: set[int] = set()
        self._next = np.arange(slots)

    def begin(self, allotment: int) -> None:
        """Begin to count for a new version with this allotment."""
        self.allotment = allotment
        self._next = np.arange(self.slots)

    def take(self, slot: int) -> int | None:
        """Return the number of the slot's next episode, or of one left by a slot that plays no more.

        Returns:
            The number; UNNUMBERED for an unlimited allotment; None if no episode is left.
        """
        if self.allotment == UNLIMITED:
            return UNNUMBERED
        for owner in (slot, *sorted(self.left)):
            number = int(self._next[owner])
            if number < self.allotment:
                self._next[owner] += self.slots
                return number
        return None

    def leave(self, slot: int, unfinished: int) -> None:
        """Note that a slot plays no more.

        Args:
            slot: The slot.
            unfinished: Number of the episode that it has not finished; UNNUMBERED: none.
        """
        if unfinished != UNNUMBERED:
            self._next[slot] = unfinished
        self.left.add(slot)

    def exhausted(self, first: int, end: int) -> BoolArray:
        """Return for the slots from `first` to `end` whether no episode is left for them, shape [n]."""
        if any(self._next[slot] < self.allotment for slot in self.left):
            return np.zeros(end - first, np.bool_)
        return self._next[first:end] >= self.allotment


class EpisodeTurns:
    """Begin, end and rest the episodes of slots that step together.

    The environment may carry out restarts later (BatchedEnvironment.poll). Then call `settle` when they are
    complete.

    Args:
        environment: The slots.
        assembler: Cuts finished episodes out of the arenas; holds the numbers of the episodes under way.
        memory: Recurrent memory by policy, [n, N, H]; set to zero where an episode begins.
        numbers: Numbers of the actor's episodes.
        first: Number of the first of these slots among the actor's.

    Attributes:
        trace: Recorder of the begin of episodes; None: it is not recorded.
    """

    def __init__(
        self,
        environment: BatchedEnvironment,
        assembler: EpisodeAssembler,
        memory: dict[str, FloatArray],
        numbers: EpisodeNumbers,
        first: int = 0,
    ) -> None:
        self.environment, self.assembler, self.memory = environment, assembler, memory
        self.numbers, self.first = numbers, first
        self.slots = environment.slots
        self._seen_allotment = UNLIMITED
        self._retired: set[int] = set()
        self.trace: Tracer | None = None

    @property
    def active(self) -> int:
        """Number of slots that play."""
        return self.slots - int(np.count_nonzero(self.assembler.resting))

    @property
    def done(self) -> bool:
        """Whether every episode that may begin under this version is over."""
        return self.active == 0

    def start(self, version: int, *, between: bool) -> None:
        """Follow the episodes that the environments have just begun.

        Args:
            version: Version of the parameters.
            between: Whether the environments are between two versions and show no episode.
        """
        self.assembler.restart(range(self.slots), 0, version)
        self.assembler.resting[:] = between

    def open(self, version: int, frame: Frame, row: int, *, abandon: bool) -> int:
        """Begin to count the episodes of a new version, to which `numbers` belongs already.

        Args:
            version: Version of the parameters.
            frame: Observations before the coming step; written for slots that begin an episode.
            row: Row of the coming step in the arena.
            abandon: Whether episodes under way are abandoned. Otherwise they are finished but do not count.

        Returns:
            Steps of the abandoned episodes.
        """
        self._seen_allotment = self.numbers.allotment
        self.assembler.numbers[:] = UNNUMBERED
        fresh = frame.episode_start | self.assembler.resting
        free = np.array(
            [slot for slot in np.flatnonzero(fresh | abandon).tolist() if slot not in self._retired], np.int64
        )
        lost = self.assembler.restart(np.flatnonzero(~fresh).tolist(), row, version) if abandon else 0
        self._assign(free.tolist(), version, frame, row, begun=frame.episode_start & ~self.assembler.resting)
        return lost

    def allot(self, version: int, frame: Frame, row: int) -> list[int]:
        """Follow a changed allotment of the present version. Episodes under way continue.

        Args:
            version: Version of the parameters.
            frame: Observations before the coming step; written for slots that begin an episode.
            row: Row of the coming step in the arena.

        Returns:
            The slots that rested until now and begin an episode.
        """
        if self.numbers.allotment == self._seen_allotment:
            return []
        self._seen_allotment = self.numbers.allotment
        return self.take_up(version, frame, row)

    def take_up(self, version: int, frame: Frame, row: int) -> list[int]:
        """Give resting slots the episodes that are left; arguments and result as of `allot`."""
        idle = self._idle()
        self._assign(idle, version, frame, row)
        return [slot for slot in idle if not self.assembler.resting[slot]]

    def close(self, frame: Frame) -> None:
        """Begin no further episode of this version; slots at the first step of an episode have not begun it.

        Args:
            frame: Observations before the coming step; the agents of these slots are marked as not alive.
        """
        self.numbers.allotment = self._seen_allotment = 0
        waiting = np.flatnonzero(frame.episode_start & ~self.assembler.resting)
        self._rest(waiting.tolist(), frame)
        self._mark()

    def after_step(
        self, arena: RolloutArena, row: int, version: int, *, behind: bool = False
    ) -> list[tuple[Buffer, Rollout]]:
        """Collect the episodes that ended in a row, and assign new ones to their slots.

        Args:
            arena: The arena that was written.
            row: Row of the step.
            version: Version of the parameters.
            behind: Whether `open` follows at once, because the version has changed during the step.

        Returns:
            The finished episodes, each as a message and a Rollout of one slot.
        """
        ended = np.flatnonzero(arena.arrays["episode_end"][row]).tolist()
        complete = {episode.slot for episode in arena.episodes}
        finished = self.assembler.after_step(arena, row, version)
        if not ended:
            return finished
        if behind:
            self.assembler.resting[ended] = self.environment.rests_next[ended]
            return finished
        frame, coming = arena.frames[row + 1], (row + 1) % arena.layout.steps
        # An environment that raised has reported no episode, so the same number is played again.
        again = [slot for slot in ended if slot not in complete and self.environment.rests_next[slot]]
        if again:
            self._restart(again, frame)
        self._assign(
            [slot for slot in ended if slot in complete],
            version,
            frame,
            coming,
            begun=~self.environment.rests_next,
        )
        return finished

    def settle(self, version: int, frame: Frame, row: int) -> bool:
        """Follow the quarantine of slots, after the environment has carried out restarts.

        Args:
            version: Version of the parameters.
            frame: Observations before the coming step; written for slots that begin an episode.
            row: Row of the coming step in the arena.

        Returns:
            Whether slots were quarantined, whose episodes are left to others.
        """
        if not self._retire():
            return False
        self._assign(self._idle(), version, frame, row)
        return True

    def _assign(
        self, slots: Sequence[int], version: int, frame: Frame, row: int, begun: BoolArray | None = None
    ) -> None:
        """Give each slot the next episode, or let it rest.

        Args:
            slots: The slots.
            version: Version of the parameters.
            frame: Observations before the coming step.
            row: Row of the coming step in the arena.
            begun: Slots whose environments already show the first step of an episode, [n]; None: none do.
        """
        begin, rest = [], []
        for slot in slots:
            number = self.numbers.take(self.first + slot)
            if number is None:
                rest.append(slot)
                continue
            self.assembler.numbers[slot] = number
            if begun is None or not begun[slot]:
                begin.append(slot)
            self.assembler.restart((slot,), row, version)
            self.assembler.resting[slot] = False
        if begin:
            self._restart(begin, frame)
            for memory in self.memory.values():
                memory[begin] = 0.0
        self._rest(rest, frame)
        self._mark()

    def _restart(self, slots: Sequence[int], frame: Frame) -> None:
        began = time.perf_counter()
        self.environment.restart_slots(slots, frame)
        if self.trace is not None:
            self.trace.add(Span.EPISODES, began, time.perf_counter())

    def _retire(self) -> bool:
        """Leave the numbers of newly quarantined slots to others; return whether there are any."""
        new = set(self.environment.retired) - self._retired
        for slot in new:
            self._leave(slot)
        self._retired |= new
        return bool(new)

    def leave_all(self) -> None:
        """Leave the numbers of all slots to others, because their environments are lost."""
        for slot in set(range(self.slots)) - self._retired:
            self._leave(slot)
        self._retired = set(range(self.slots))

    def come_back(self) -> None:
        """Let all slots play again, because new environments replace them."""
        self.numbers.left -= {self.first + slot for slot in range(self.slots)}
        self._retired = set()

    def _leave(self, slot: int) -> None:
        unfinished = UNNUMBERED if self.assembler.resting[slot] else int(self.assembler.numbers[slot])
        self.numbers.leave(self.first + slot, unfinished)
        self.assembler.resting[slot] = True

    def _idle(self) -> list[int]:
        """Return the slots that rest but can play."""
        return [slot for slot in np.flatnonzero(self.assembler.resting).tolist() if slot not in self._retired]

    def _rest(self, slots: Sequence[int], frame: Frame) -> None:
        if not slots:
            return
        self.environment.rest_slots(slots)
        self.assembler.resting[list(slots)] = True
        for seen in frame.policies.values():
            seen.alive[list(slots)] = False

    def _mark(self) -> None:
        """Mark for the environment the slots that rest after their present episode."""
        self.environment.rests_next[:] = self.numbers.exhausted(self.first, self.first + self.slots)
