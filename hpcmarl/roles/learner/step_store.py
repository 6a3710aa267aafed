"""Steps of the episodes in a replay, numbered for uniform draws of single steps.

The steps of all kept episodes are numbered from 0, oldest first. Each number is found in logarithmic time,
and the pieces of many steps are copied at once (rollouts/pieces.py).
"""

from __future__ import annotations

import numpy as np

from hpcmarl.comm.protocol import Buffer
from hpcmarl.rollouts.codec import OpenedMessage, RolloutCodec
from hpcmarl.rollouts.pieces import MESSAGE_PLACE, piece_lengths, read_pieces
from hpcmarl.rollouts.slabs import Slabs
from hpcmarl.types import Array, IntArray, Rollout

FIRST_CAPACITY = 1024
SLAB_BYTES = 64_000_000
LEAST_SLABS = 8  # of a full replay, so that little memory is unused
EVEN = -1  # the lengths of the pieces follow from the length of the episode
EPISODE = np.dtype(
    [
        ("end", "<i8"),  # steps of this episode and all episodes that were added before
        ("lengths", "<i8"),  # offset of the lengths of its pieces in the slab, or EVEN
        ("source", "<i4"),  # rank that sent it
        ("place", MESSAGE_PLACE),
    ]
)


class StepStore:
    """Copies of the messages of the kept episodes, and the numbers of their steps.

    Args:
        codec: Reads the messages, which have one slot.
        decisions: Decisions of an agent in a target before the next value.
        most_bytes: Largest size of the kept messages together.
    """

    def __init__(self, codec: RolloutCodec, decisions: int, most_bytes: float) -> None:
        self._codec, self._decisions = codec, decisions
        self._slabs = Slabs(int(min(SLAB_BYTES, most_bytes / LEAST_SLABS)))
        self._table: Array = np.zeros(FIRST_CAPACITY, EPISODE)
        self._oldest = self._next = 0  # range of the kept episodes in the table
        self._forgotten = 0  # steps of removed episodes

    @property
    def _kept(self) -> Array:
        return self._table[self._oldest : self._next]

    @property
    def total(self) -> int:
        """Number of steps in the kept episodes."""
        return 0 if self._oldest == self._next else int(self._table["end"][self._next - 1]) - self._forgotten

    def add(self, buffer: Buffer) -> OpenedMessage:
        """Copy the message of a whole episode, and append its steps.

        Returns:
            The copy.
        """
        if self._next == len(self._table):
            kept = self._kept
            self._table = np.concatenate([kept, np.zeros(max(len(kept), FIRST_CAPACITY), EPISODE)])
            self._oldest, self._next = 0, len(kept)
        lengths, size = piece_lengths(self._codec.open(buffer), self._decisions), buffer.nbytes
        if lengths is not None:
            buffer = np.concatenate([buffer, lengths.view(np.uint8)])
        slab, offset, copy = self._slabs.add(buffer)
        opened = self._codec.open(copy[:size])
        finals, steps = opened.finals.nbytes // opened.layout.final_dtype.itemsize, opened.layout.steps
        self._table[self._next] = (
            self._forgotten + self.total + steps,
            EVEN if lengths is None else offset + size,
            opened.source,
            (slab, offset, steps, finals, opened.actor, opened.version),
        )
        self._next += 1
        return opened

    def forget_oldest(self) -> None:
        """Remove the first episode."""
        self._forgotten = int(self._table["end"][self._oldest])
        self._oldest += 1
        if self._oldest < self._next:
            self._slabs.forget_before(int(self._table["place"]["slab"][self._oldest]))

    def newest(self, episodes: int) -> int:
        """Return the number of steps in the newest episodes.

        Args:
            episodes: How many episodes, at least 1; more than are kept: all.
        """
        before = self._next - episodes - 1
        if before < self._oldest:
            return self.total
        return int(self._table["end"][self._next - 1] - self._table["end"][before])

    def find(self, numbers: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Find steps.

        Args:
            numbers: Numbers of steps, shape [n].

        Returns:
            Index of the episode of each step, its place t in the episode, and the length of its piece
            (rollouts/pieces.py), shape [n] each.
        """
        kept, numbers = self._kept, numbers + self._forgotten
        episodes = np.searchsorted(kept["end"], numbers, side="right")
        rows = kept[episodes]
        left = rows["end"] - numbers
        first = rows["place"]["steps"] - left
        lengths = np.minimum(self._decisions, left)
        uneven = rows["lengths"] != EVEN
        if uneven.any():
            places = rows["lengths"][uneven] + lengths.itemsize * first[uneven]
            lengths[uneven] = self._slabs.gather(rows["place"]["slab"][uneven], places, lengths.dtype)
        return episodes, first, lengths

    def read(self, numbers: IntArray) -> tuple[list[Rollout], list[int], list[int]]:
        """Copy the pieces of steps.

        Args:
            numbers: Numbers of steps, shape [n].

        Returns:
            One rollout for each length of a piece, and the actor rank and the version of each step.
        """
        episodes, first, lengths = self.find(numbers)
        rows = self._kept[episodes]
        places = rows["place"]
        rollouts = read_pieces(self._codec, self._slabs, places, first, lengths)
        return rollouts, rows["source"].tolist(), places["version"].tolist()
