"""Assembly of whole episodes from an actor's unrolls, for algorithms whose trajectory is an episode.

The steps of an unfinished episode are copied only when its arena is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Buffer
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import UNNUMBERED, Array, IntArray, Rollout


class EpisodeAssembler:
    """Unfinished episodes of an actor's slots, and their assembly when they end.

    A row is the data of one step of one slot.

    Args:
        codec: Provides the layouts of the episodes' messages.
        slots: Number of slots, E.
        actor: Number of the actor.
        slot_numbers: Numbers of the slots on their rank, shape [E].
        workers: Number of the worker of each slot, shape [E]; None: the actor itself steps them.

    Attributes:
        begin: First row of each slot's unfinished episode in the present arena, shape [E].
        versions: Version under which each unfinished episode is sampled, shape [E].
        numbers: Rollout.number of each unfinished episode, shape [E]. Written by the caller.
        resting: Slots without an episode, shape [E]. Written by the caller.
        pieces: For each slot, copied rows of the unfinished episode from earlier unrolls, by array.
    """

    def __init__(
        self,
        codec: RolloutCodec,
        slots: int,
        actor: int,
        slot_numbers: IntArray,
        workers: Array | None = None,
    ) -> None:
        self.codec = codec
        self.actor = actor
        self.slot_numbers = slot_numbers
        self.workers = np.full(slots, -1) if workers is None else workers
        self.begin = np.zeros(slots, np.int64)
        self.versions = np.zeros(slots, np.int64)
        self.numbers = np.full(slots, UNNUMBERED)
        self.resting = np.zeros(slots, np.bool_)
        self.pieces: list[list[dict[str, Array]]] = [[] for _ in range(slots)]

    def restart(self, slots: Iterable[int], row: int, version: int) -> int:
        """Discard unfinished episodes and begin new ones.

        Args:
            slots: Slots with the episodes.
            row: First row of the new episodes in the present arena.
            version: Version under which they are sampled.

        Returns:
            Number of discarded steps.
        """
        lost = 0
        for slot in slots:
            if not self.resting[slot]:
                lost += (
                    row
                    - int(self.begin[slot])
                    + sum(len(piece["episode_end"]) for piece in self.pieces[slot])
                )
            self.pieces[slot].clear()
            self.begin[slot] = row
            self.versions[slot] = version
        return lost

    def after_step(self, arena: RolloutArena, row: int, version: int) -> list[tuple[Buffer, Rollout]]:
        """Assemble the episodes that ended in a step.

        Args:
            arena: Present arena of the actor.
            row: Row of the step.
            version: Version under which the next episodes are sampled.

        Returns:
            A message and its Rollout with E = 1 for each episode. The header of the message is not yet
            filled.
        """
        finished = []
        ended = np.flatnonzero(arena.arrays["episode_end"][row])
        for slot in ended.tolist():
            # Without a record of the episode, its environment has crashed; its steps are dropped.
            if any(episode.slot == slot for episode in arena.episodes):
                finished.append(self._assemble(arena, row, slot))
            self.restart((slot,), row + 1, version)
        arena.finals.clear()
        arena.episodes.clear()
        if row + 1 == arena.layout.steps:
            self._stash(arena)
        return finished

    def state_dict(self, arena: RolloutArena, row: int) -> dict[str, Any]:
        """Return the unfinished episodes.

        Args:
            arena: Present arena of the actor.
            row: Next row in the arena.

        Returns:
            versions: Version of each slot's episode, shape [E]. rows: for each slot, its rows so far by name
            of array, possibly none.
        """
        unfinished = []
        for slot in range(len(self.begin)):
            pieces = [*self.pieces[slot], _columns(arena, slice(int(self.begin[slot]), row), slot)]
            unfinished.append({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
        return {"versions": self.versions.copy(), "rows": unfinished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore unfinished episodes. Their next row is the first row of the present arena.

        Args:
            state: Result of `state_dict`; empty: keep new episodes in all slots.
        """
        if not state:
            return
        self.versions[:] = state["versions"]
        self.pieces = [[rows] if len(rows["episode_end"]) else [] for rows in state["rows"]]

    def _stash(self, arena: RolloutArena) -> None:
        """Copy the rows of unfinished episodes, because the arena will be overwritten from row 0."""
        steps = arena.layout.steps
        for slot in range(len(self.begin)):
            first = int(self.begin[slot])
            if first < steps and not self.resting[slot]:
                self.pieces[slot].append(_columns(arena, slice(first, steps), slot))
            self.begin[slot] = 0

    def _assemble(self, arena: RolloutArena, row: int, slot: int) -> tuple[Buffer, Rollout]:
        pieces = [*self.pieces[slot], _columns(arena, slice(int(self.begin[slot]), row + 1), slot)]
        length = sum(len(piece["episode_end"]) for piece in pieces)
        whole = RolloutArena(self.codec.layout(length, 1))
        position = 0
        for piece in pieces:
            size = len(piece["episode_end"])
            for name, array in piece.items():
                whole.arrays[name][position : position + size, 0] = array
            position += size
        # The row after the last step holds the present frame of the slot.
        for name in whole.layout.frame_names:
            whole.arrays[name][length, 0] = arena.arrays[name][row + 1, slot]
        episode = next(episode for episode in arena.episodes if episode.slot == slot)
        whole.arrays["slots"][0] = self.slot_numbers[slot]
        whole.arrays["workers"][0] = self.workers[slot]
        whole.arrays["episode"][0] = episode.index
        for step, final in arena.finals:
            if step == row and final.slot == slot:
                final.slot = 0
                whole.finals.append((length - 1, final))
        episode.slot = 0
        whole.episodes.append(episode)
        return whole.finish(int(self.versions[slot]), self.actor, int(self.numbers[slot]))


def _columns(arena: RolloutArena, rows: slice, slot: int) -> dict[str, Array]:
    """Copy rows of one slot from every array with one row per step.

    The recurrent memory is not copied: it is zero at the start of an episode.

    Args:
        arena: Arena to copy from.
        rows: Rows to copy.
        slot: Slot to copy.

    Returns:
        Name of the array -> its rows.
    """
    names = (*arena.layout.frame_names, *arena.layout.step_names)
    return {name: arena.arrays[name][rows, slot].copy() for name in names}
