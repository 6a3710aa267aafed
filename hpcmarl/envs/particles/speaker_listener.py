"""simple_speaker_listener: one agent sees the goal and speaks, the other agent moves there."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World, beside, seen_from
from hpcmarl.types import DoubleArray, IntArray

COLOURS = np.array([[0.65, 0.15, 0.15], [0.15, 0.65, 0.15], [0.15, 0.15, 0.65]])


class SpeakerListener(World):
    """A speaker and a listener. Only the speaker observes the goal.

    The reward of both is minus the squared distance of the listener from the goal.
    """

    letters = 3
    drawn = ("goal",)

    def __init__(self, slots: int) -> None:
        speaker = Body("speaker_0", size=0.075, collides=False, moves=False, speaks=True)
        self.agents = [speaker, Body("listener_0", size=0.075, collides=False)]
        self.landmarks = [Body(f"landmark {number}", size=0.04, collides=False) for number in range(3)]
        self.goal = np.zeros(slots, np.int64)
        super().__init__(slots)

    def begin(self, rows: IntArray, generators: Generators) -> None:
        self.goal[rows] = [generator.integers(3) for generator in generators]
        self.scatter(rows, generators)

    def rewards(self) -> DoubleArray:
        return np.repeat(-np.square(self.places[:, 1:] - self.mark(self.goal)).sum(-1), 2, 1)

    def observations(self) -> list[DoubleArray]:
        listener = beside(self.velocity[:, 1:], seen_from(self.places[:, 1:], self.marks), self.word[:, 0])
        return [COLOURS[self.goal][:, None], listener]
