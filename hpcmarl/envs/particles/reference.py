"""simple_reference: each of two agents knows the goal of the other and communicates it."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World, beside, distance, seen_from
from hpcmarl.types import DoubleArray, IntArray

COLOURS = np.array([[0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]])


class Reference(World):
    """Two agents that guide each other to their goals.

    Each agent earns minus the other agent's distance from the goal that it knows. Its reward is `local_ratio`
    times that plus (1 - `local_ratio`) times the mean over both agents.
    """

    letters = 10
    drawn = ("goals",)

    def __init__(self, slots: int, local_ratio: float = 0.5) -> None:
        self.agents = [Body(f"agent_{number}", collides=False, speaks=True) for number in range(2)]
        self.landmarks = [Body(f"landmark {number}", collides=False) for number in range(3)]
        # goal that each agent knows, for the other agent
        self.goals = np.zeros((slots, 2), np.int64)
        self.local_ratio = local_ratio
        super().__init__(slots)

    def begin(self, rows: IntArray, generators: Generators) -> None:
        for row, generator in zip(rows.tolist(), generators, strict=True):
            self.goals[row] = generator.integers(3), generator.integers(3)
        self.scatter(rows, generators)

    def rewards(self) -> DoubleArray:
        goals = np.take_along_axis(self.marks, self.goals[..., None], 1)
        own = -distance(self.places[:, ::-1], goals)
        rewards: DoubleArray = own.mean(1, keepdims=True) * (1 - self.local_ratio) + own * self.local_ratio
        return rewards

    def observations(self) -> list[DoubleArray]:
        return [
            beside(self.velocity, seen_from(self.places, self.marks), COLOURS[self.goals], self.word[:, ::-1])
        ]
