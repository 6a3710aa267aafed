"""Decide which slot of an actor plays which episode of a version, and which slots rest.

A gradient of whole episodes is unbiased only if what it counts was decided before the episodes began: the
first to finish are the short ones. So the learner says how many episodes an actor may begin under a version,
and the actor numbers them in the order in which they begin.
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

    Slot s of E plays the episodes numbered s, s + E, s + 2E and so on: every slot its k-th before any slot
    its k+1-th. The numbers of a slot that was given up go to slots that have nothing else to play. Where any
    number of episodes may begin they have no numbers.

    Args:
        environment: The actor's slots.
        assembler: What cuts finished episodes out of the arenas; it holds the numbers of the episodes under
            way.
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
        """Slots that play."""
        return self.slots - int(np.count_nonzero(self.assembler.resting))

    @property
    def done(self) -> bool:
        """Whether all that may begin under this version is over."""
        return self.active == 0

    def start(self, version: int, *, between: bool) -> None:
        """Follow the episodes that the environments have just begun; between: they stand between two versions
        and show none.
        """
        self.assembler.restart(range(self.slots), 0, version)
        self.assembler.resting[:] = between

    def open(self, version: int, allotment: int, frame: Frame, row: int, *, abandon: bool) -> int:
        """Begin to count the episodes of a new version.

        Args:
            version: Of the parameters.
            allotment: How many episodes may begin under them.
            frame: What the environments show before the coming step, written where episodes begin.
            row: The coming step's row in the arena.
            abandon: Whether episodes under way are given up. If not, they are finished, and do not count.

        Returns:
            Steps of the episodes that were given up.
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
        """Change how many episodes may begin under the present version; what is under way goes on. Returns
        the slots that rested until now.
        """
        idle = self._idle()
        if allotment == self.allotment:
            return []
        self.allotment = allotment
        self._assign(idle, version, frame, row)
        return [slot for slot in idle if not self.assembler.resting[slot]]

    def close(self, frame: Frame) -> None:
        """Begin no further episode of this version; slots at the first step of one have not begun it."""
        self.allotment = 0
        waiting = np.flatnonzero(frame.episode_start & ~self.assembler.resting)
        self._rest(waiting.tolist(), frame)
        self._mark()

    def after_step(self, arena: RolloutArena, row: int, version: int) -> list[tuple[Buffer, Rollout]]:
        """Return the episodes that ended in `row`, each as a message and a Rollout of one slot; go on in
        their slots.
        """
        ended = np.flatnonzero(arena.arrays["episode_end"][row]).tolist()
        complete = {episode.slot for episode in arena.episodes}
        finished = self.assembler.after_step(arena, row, version)
        if not ended:
            return finished
        frame, coming = arena.frames[row + 1], (row + 1) % arena.layout.steps
        # an environment that raised has told of no episode: the same number is played again
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
        """Give each of these slots the next episode, or let it rest. begun [E]: its environment shows the
        first step of one already.
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
        """Take back the numbers of slots that were given up; whether there are new ones."""
        new = set(self.environment.retired) - self._retired
        for slot in new:
            if not self.assembler.resting[slot] and self.assembler.numbers[slot] != UNNUMBERED:
                self._next[slot] = self.assembler.numbers[slot]
            self.assembler.resting[slot] = True
        self._retired |= new
        return bool(new)

    def _idle(self) -> list[int]:
        """Slots that rest and could play."""
        return [slot for slot in np.flatnonzero(self.assembler.resting).tolist() if slot not in self._retired]

    def _take(self, slot: int) -> int | None:
        """The number of the slot's next episode, or one of a slot that was given up; None: there is nothing
        to play.
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
        """Tell the environment which slots rest after their present episode."""
        spare = any(self._next[slot] < self.allotment for slot in self._retired)
        self.environment.rests_next[:] = (self._next >= self.allotment) & (not spare)
