"""simple_adversary: agents that know the goal mislead an adversary that does not."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World, beside, distance, seen_from
from hpcmarl.types import DoubleArray, IntArray


class Adversary(World):
    """N good agents and one adversary near a goal.

    The reward of each good agent is the adversary's distance from the goal minus the distance of the nearest
    good agent. The reward of the adversary is minus its own distance.
    """

    least = MappingProxyType({"N": 1})
    drawn = ("goal",)

    def __init__(self, slots: int, N: int = 2) -> None:
        names = ["adversary_0", *(f"agent_{number}" for number in range(N))]
        self.agents = [Body(name, size=0.15, collides=False) for name in names]
        self.landmarks = [Body(f"landmark {number}", size=0.08, collides=False) for number in range(N)]
        self.goal = np.zeros(slots, np.int64)
        super().__init__(slots)
        self._others = self.others(range(N + 1))

    def begin(self, rows: IntArray, generators: Generators) -> None:
        self.goal[rows] = [generator.integers(len(self.landmarks)) for generator in generators]
        self.scatter(rows, generators)

    def rewards(self) -> DoubleArray:
        away = distance(self.places, self.mark(self.goal))
        adversary = away[:, :1]
        good = adversary - away[:, 1:].min(1, keepdims=True)
        return np.concatenate([-adversary, np.repeat(good, len(self.agents) - 1, 1)], 1)

    def observations(self) -> list[DoubleArray]:
        places = self.places
        seen = beside(seen_from(places, self.marks), seen_from(places, places[:, self._others]))
        return [seen[:, :1], beside(seen_from(places[:, 1:], self.mark(self.goal)), seen[:, 1:])]
