"""simple_push: an agent moves to its goal, and an adversary pushes it away."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World, beside, distance, seen_from
from hpcmarl.types import DoubleArray, IntArray

LANDMARK_COLOURS = np.array([[0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
GOAL_COLOURS = np.array([[0.25, 0.75, 0.25], [0.25, 0.25, 0.75]])


class Push(World):
    """An agent and an adversary near a goal.

    The reward of the agent is minus its distance from the goal. The reward of the adversary is the agent's
    distance minus its own.
    """

    drawn = ("goal",)

    def __init__(self, slots: int) -> None:
        self.agents = [Body("adversary_0"), Body("agent_0")]
        self.landmarks = [Body(f"landmark {number}", collides=False) for number in range(2)]
        self.goal = np.zeros(slots, np.int64)
        super().__init__(slots)
        self._colours = np.broadcast_to(LANDMARK_COLOURS.reshape(-1), (slots, 6))

    def begin(self, rows: IntArray, generators: Generators) -> None:
        self.goal[rows] = [generator.integers(2) for generator in generators]
        self.scatter(rows, generators)

    def rewards(self) -> DoubleArray:
        away = distance(self.places, self.mark(self.goal))
        return np.stack([away[:, 1] - away[:, 0], -away[:, 1]], 1)

    def observations(self) -> list[DoubleArray]:
        marks, others = seen_from(self.places, self.marks), self.places[:, ::-1] - self.places
        good = slice(1, 2)
        target = seen_from(self.places[:, good], self.mark(self.goal))
        seen = beside(
            self.velocity[:, good],
            target,
            GOAL_COLOURS[self.goal],
            marks[:, good],
            self._colours,
            others[:, good],
        )
        return [beside(self.velocity[:, :1], marks[:, :1], others[:, :1]), seen]
