"""Cuts whole episodes out of an actor's unrolls, for algorithms whose trajectory is an episode.

Called after every step by the actor; knows no transport. Pieces of an
unfinished episode are copied only when its arena is full.
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
    """Follows every slot's unfinished episode: its first row in the present arena and the pieces from earlier
    ones.

    numbers [E]: of the episodes under way (Rollout.number); resting [E]: slots without an episode. The caller
    writes both.
    """

    def __init__(self, codec: RolloutCodec, slots: int, actor: int, slot_numbers: IntArray) -> None:
        self.codec = codec
        self.actor = actor
        self.slot_numbers = slot_numbers
        self.begin = np.zeros(slots, np.int64)
        self.versions = np.zeros(slots, np.int64)
        self.numbers = np.full(slots, UNNUMBERED)
        self.resting = np.zeros(slots, np.bool_)
        self.pieces: list[list[dict[str, Array]]] = [[] for _ in range(slots)]

    def restart(self, slots: Iterable[int], row: int, version: int) -> int:
        """Forget the unfinished episodes of `slots`; new ones begin at `row`. Returns how many steps are
        lost.
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
        """The episodes that ended in `row`, each a message and a Rollout of E = 1; `version` is what new ones
        are sampled under.
        """
        finished = []
        ended = np.flatnonzero(arena.arrays["episode_end"][row])
        for slot in ended.tolist():
            if any(episode.slot == slot for episode in arena.episodes):  # else the environment crashed in it
                finished.append(self._assemble(arena, row, slot))
            self.restart((slot,), row + 1, version)
        arena.finals.clear()
        arena.episodes.clear()
        if row + 1 == arena.layout.steps:
            self._stash(arena)
        return finished

    def state_dict(self, arena: RolloutArena, row: int) -> dict[str, Any]:
        """The unfinished episodes, whose next row is `row`: for each slot, its version and its rows so far by
        array, or nothing.
        """
        unfinished = []
        for slot in range(len(self.begin)):
            pieces = [*self.pieces[slot], _columns(arena, slice(int(self.begin[slot]), row), slot)]
            unfinished.append({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
        return {"versions": self.versions.copy(), "rows": unfinished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with unfinished episodes, whose next row is the present arena's first; nothing in the state:
        begin new ones.
        """
        if not state:
            return
        self.versions[:] = state["versions"]
        self.pieces = [[rows] if len(rows["episode_end"]) else [] for rows in state["rows"]]

    def _stash(self, arena: RolloutArena) -> None:
        """Copy what is unfinished, since the arena is about to be written again from row 0."""
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
        for name in whole.layout.frame_names:  # the row after the last: what the slot shows now
            whole.arrays[name][length, 0] = arena.arrays[name][row + 1, slot]
        episode = next(episode for episode in arena.episodes if episode.slot == slot)
        whole.arrays["slots"][0] = self.slot_numbers[slot]
        whole.arrays["episode"][0] = episode.index
        for step, final in arena.finals:
            if step == row and final.slot == slot:
                final.slot = 0
                whole.finals.append((length - 1, final))
        episode.slot = 0
        whole.episodes.append(episode)
        return whole.finish(int(self.versions[slot]), self.actor, int(self.numbers[slot]))


def _columns(arena: RolloutArena, rows: slice, slot: int) -> dict[str, Array]:
    """Copies of one slot's rows of every array that has a row a step (not the memory, which is zero at an
    episode's start).
    """
    names = (*arena.layout.frame_names, *arena.layout.step_names)
    return {name: arena.arrays[name][rows, slot].copy() for name in names}
