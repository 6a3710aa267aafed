"""simple_spread: agents cover landmarks without touching each other."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, World, beside, distances, seen_from
from hpcmarl.types import BoolArray, DoubleArray

CAPTURE = 0.1  # so near to a landmark an agent covers it


class Spread(World):
    """N agents are paid together for having one near each landmark, and pay for touching each other."""

    def __init__(self, slots: int, N: int = 3, local_ratio: float = 0.5, terminate_on_success: bool = False) -> None:
        self.agents = [Body(f"agent_{number}", size=0.15) for number in range(N)]
        self.landmarks = [Body(f"landmark {number}", collides=False) for number in range(N)]
        self.local_ratio, self.ends = local_ratio, terminate_on_success
        super().__init__(slots)
        self._others = self.others(range(N))
        self._silence = np.zeros((slots, N, 2 * (N - 1)))  # what others say, who never speak

    def rewards(self) -> DoubleArray:
        covered = -distances(self.marks, self.places).min(2).sum(1)
        touching = np.count_nonzero(distances(self.places, self.places) < 2 * self.agents[0].size, axis=2) - 1
        rewards: DoubleArray = covered[:, None] * (1 - self.local_ratio) - touching * self.local_ratio
        return rewards

    def observations(self) -> list[DoubleArray]:
        places = self.places
        return [beside(self.velocity, places, seen_from(places, self.marks), seen_from(places, places[:, self._others]), self._silence)]

    def over(self) -> BoolArray | None:
        if not self.ends:
            return None
        over: BoolArray = (distances(self.marks, self.places).min(2) < CAPTURE).all(1)
        return over
