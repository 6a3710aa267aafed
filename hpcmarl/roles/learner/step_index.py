"""Numbers of the steps in the kept episodes of a replay, for uniform draws of single steps.

The steps of all kept episodes are numbered from 0, oldest first. Each number is found in logarithmic time.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from hpcmarl.rollouts.pieces import piece_lengths
from hpcmarl.types import IntArray, Rollout

FIRST_CAPACITY = 1024


class StepIndex:
    """The steps of the kept episodes.

    Args:
        decisions: Decisions of an agent in a target before the next value.
    """

    def __init__(self, decisions: int) -> None:
        self._decisions = decisions
        self._ends: IntArray = np.zeros(FIRST_CAPACITY, np.int64)  # of episodes, in steps added so far
        self._oldest = self._next = 0  # range of the kept episodes among them
        self._forgotten = 0  # steps of removed episodes
        self._lengths: deque[IntArray | None] = deque()

    @property
    def total(self) -> int:
        """Number of steps in the kept episodes."""
        return 0 if self._oldest == self._next else int(self._ends[self._next - 1]) - self._forgotten

    def add(self, rollout: Rollout) -> None:
        """Append the steps of a whole episode."""
        if self._next == len(self._ends):
            kept = self._ends[self._oldest : self._next]
            self._ends = np.concatenate([kept, np.zeros(max(len(kept), FIRST_CAPACITY), np.int64)])
            self._oldest, self._next = 0, len(kept)
        self._ends[self._next] = self._forgotten + self.total + rollout.steps
        self._next += 1
        self._lengths.append(piece_lengths(rollout, self._decisions))

    def forget_oldest(self) -> None:
        """Remove the steps of the first episode."""
        self._forgotten = int(self._ends[self._oldest])
        self._oldest += 1
        self._lengths.popleft()

    def newest(self, episodes: int) -> int:
        """Return the number of steps in the newest episodes.

        Args:
            episodes: How many episodes, at least 1; more than are kept: all.
        """
        before = self._next - episodes - 1
        return self.total if before < self._oldest else int(self._ends[self._next - 1] - self._ends[before])

    def find(self, numbers: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Find steps.

        Args:
            numbers: Numbers of steps, shape [n].

        Returns:
            Index of the episode of each step, its place t in the episode, and the length of its piece
            (rollouts/pieces.py), shape [n] each.
        """
        ends, places = self._ends[self._oldest : self._next], numbers + self._forgotten
        episodes = np.searchsorted(ends, places, side="right")
        starts = np.concatenate([[self._forgotten], ends[:-1]])[episodes]
        first = places - starts
        lengths = np.minimum(self._decisions, ends[episodes] - places)
        for index, episode in enumerate(episodes.tolist()):
            if (known := self._lengths[episode]) is not None:
                lengths[index] = known[first[index]]
        return episodes, first, lengths
