"""Assignment of episodes to the slots of an actor, and of slots to rest.

A gradient of whole episodes is unbiased only if the counted episodes are determined before they begin: the
first to finish are the short ones. The learner therefore allots to an actor a number of episodes that may
begin under a version. The actor numbers them in the order in which they begin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.comm.protocol import Buffer
from hpcmarl.envs import BatchedEnvironment
from hpcmarl.rollouts.assembler import EpisodeAssembler
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import UNNUMBERED, BoolArray, FloatArray, Frame, Rollout

UNLIMITED = 2**62


class EpisodeTurns:
    """Begin, end and rest the episodes of one actor's slots.

    Slot s of E plays the episodes numbered s, s + E, s + 2E and so on. Every slot plays its k-th episode
    before any slot plays its k+1-th. The numbers of a quarantined slot go to slots without further episodes.
    If the allotment is UNLIMITED, episodes have no numbers.

    Args:
        environment: The actor's slots.
        assembler: Cuts finished episodes out of the arenas; holds the numbers of the episodes under way.
        memory: Recurrent memory by policy, [E, N, H]; set to zero where an episode begins.
    """

    def __init__(
        self, environment: BatchedEnvironment, assembler: EpisodeAssembler, memory: dict[str, FloatArray]
    ) -> None:
        self.environment, self.assembler, self.memory = environment, assembler, memory
        self.slots = environment.slots
        self.allotment = UNLIMITED
        self._next = np.arange(self.slots)
        self._retired: set[int] = set()

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

    def open(self, version: int, allotment: int, frame: Frame, row: int, *, abandon: bool) -> int:
        """Begin to count the episodes of a new version.

        Args:
            version: Version of the parameters.
            allotment: Number of episodes that may begin under them.
            frame: Observations before the coming step; written for slots that begin an episode.
            row: Row of the coming step in the arena.
            abandon: Whether episodes under way are abandoned. Otherwise they are finished but do not count.

        Returns:
            Steps of the abandoned episodes.
        """
        self.allotment = allotment
        self._next = np.arange(self.slots)
        self.assembler.numbers[:] = UNNUMBERED
        fresh = frame.episode_start | self.assembler.resting
        free = np.array(
            [slot for slot in np.flatnonzero(fresh | abandon).tolist() if slot not in self._retired], np.int64
        )
        lost = self.assembler.restart(np.flatnonzero(~fresh).tolist(), row, version) if abandon else 0
        self._assign(free.tolist(), version, frame, row, begun=frame.episode_start & ~self.assembler.resting)
        return lost

    def allot(self, version: int, allotment: int, frame: Frame, row: int) -> list[int]:
        """Change the allotment of the present version. Episodes under way continue.

        Args:
            version: Version of the parameters.
            allotment: Number of episodes that may begin under them.
            frame: Observations before the coming step; written for slots that begin an episode.
            row: Row of the coming step in the arena.

        Returns:
            The slots that rested until now and begin an episode.
        """
        idle = self._idle()
        if allotment == self.allotment:
            return []
        self.allotment = allotment
        self._assign(idle, version, frame, row)
        return [slot for slot in idle if not self.assembler.resting[slot]]

    def close(self, frame: Frame) -> None:
        """Begin no further episode of this version; slots at the first step of an episode have not begun it.

        Args:
            frame: Observations before the coming step; the agents of these slots are marked as not alive.
        """
        self.allotment = 0
        waiting = np.flatnonzero(frame.episode_start & ~self.assembler.resting)
        self._rest(waiting.tolist(), frame)
        self._mark()

    def after_step(self, arena: RolloutArena, row: int, version: int) -> list[tuple[Buffer, Rollout]]:
        """Collect the episodes that ended in a row, and assign new ones to their slots.

        Args:
            arena: The arena that was written.
            row: Row of the step.
            version: Version of the parameters.

        Returns:
            The finished episodes, each as a message and a Rollout of one slot.
        """
        ended = np.flatnonzero(arena.arrays["episode_end"][row]).tolist()
        complete = {episode.slot for episode in arena.episodes}
        finished = self.assembler.after_step(arena, row, version)
        if not ended:
            return finished
        frame, coming = arena.frames[row + 1], (row + 1) % arena.layout.steps
        # An environment that raised has reported no episode, so the same number is played again.
        again = [slot for slot in ended if slot not in complete and self.environment.rests_next[slot]]
        if again:
            self.environment.restart_slots(again, frame)
        self._assign(
            [slot for slot in ended if slot in complete],
            version,
            frame,
            coming,
            begun=~self.environment.rests_next,
        )
        return finished

    def _assign(
        self, slots: Sequence[int], version: int, frame: Frame, row: int, begun: BoolArray | None = None
    ) -> None:
        """Give each slot the next episode, or let it rest.

        Args:
            slots: The slots.
            version: Version of the parameters.
            frame: Observations before the coming step.
            row: Row of the coming step in the arena.
            begun: Slots whose environments already show the first step of an episode, [E]; None: none do.
        """
        begin, rest = [], []
        for slot in slots:
            number = self._take(slot)
            if number is None:
                rest.append(slot)
                continue
            self.assembler.numbers[slot] = number
            if begun is None or not begun[slot]:
                begin.append(slot)
            self.assembler.restart((slot,), row, version)
            self.assembler.resting[slot] = False
        if begin:
            self.environment.restart_slots(begin, frame)
            for memory in self.memory.values():
                memory[begin] = 0.0
        self._rest(rest, frame)
        if self._retire():
            self._assign(self._idle(), version, frame, row)
        self._mark()

    def _retire(self) -> bool:
        """Take back the numbers of newly quarantined slots; return whether there are any."""
        new = set(self.environment.retired) - self._retired
        for slot in new:
            if not self.assembler.resting[slot] and self.assembler.numbers[slot] != UNNUMBERED:
                self._next[slot] = self.assembler.numbers[slot]
            self.assembler.resting[slot] = True
        self._retired |= new
        return bool(new)

    def _idle(self) -> list[int]:
        """Return the slots that rest but can play."""
        return [slot for slot in np.flatnonzero(self.assembler.resting).tolist() if slot not in self._retired]

    def _take(self, slot: int) -> int | None:
        """Return the number of the slot's next episode, or of one left by a quarantined slot.

        Returns:
            The number; UNNUMBERED for an unlimited allotment; None if no episode is left.
        """
        if self.allotment == UNLIMITED:
            return UNNUMBERED
        for owner in (slot, *sorted(self._retired)):
            number = int(self._next[owner])
            if number < self.allotment:
                self._next[owner] += self.slots
                return number
        return None

    def _rest(self, slots: Sequence[int], frame: Frame) -> None:
        if not slots:
            return
        self.environment.rest_slots(slots)
        self.assembler.resting[list(slots)] = True
        for seen in frame.policies.values():
            seen.alive[list(slots)] = False

    def _mark(self) -> None:
        """Mark for the environment the slots that rest after their present episode."""
        spare = any(self._next[slot] < self.allotment for slot in self._retired)
        self.environment.rests_next[:] = (self._next >= self.allotment) & (not spare)
