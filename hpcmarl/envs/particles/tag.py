"""simple_tag: adversaries chase faster agents among obstacles."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from hpcmarl.envs.particles.world import Body, World, beside, distances, outside, seen_from
from hpcmarl.types import BoolArray, DoubleArray, IntArray


class Tag(World):
    """Adversaries gain by touching good agents. Good agents lose by a touch and by leaving the arena."""

    least = MappingProxyType({"num_good": 1, "num_adversaries": 1, "num_obstacles": 0})

    def __init__(
        self,
        slots: int,
        num_good: int = 1,
        num_adversaries: int = 3,
        num_obstacles: int = 2,
        terminate_on_success: bool = False,
    ) -> None:
        chasers = [
            Body(f"adversary_{number}", size=0.075, acceleration=3.0, max_speed=1.0)
            for number in range(num_adversaries)
        ]
        self.agents = [
            *chasers,
            *(Body(f"agent_{number}", acceleration=4.0, max_speed=1.3) for number in range(num_good)),
        ]
        self.landmarks = [Body(f"landmark {number}", size=0.2, reach=0.9) for number in range(num_obstacles)]
        self.chasers, self.ends = num_adversaries, terminate_on_success
        super().__init__(slots)
        good = range(num_adversaries, len(self.agents))
        self._others = self.others(range(len(self.agents)))
        self._prey, self._fellows = np.arange(num_adversaries, len(self.agents)), self.others(good, good)

    def _caught(self) -> IntArray:
        """Return the number of adversaries that touch each good agent, [E, good]."""
        apart = distances(self.places[:, self.chasers :], self.places[:, : self.chasers])
        caught: IntArray = np.count_nonzero(apart < 0.075 + 0.05, axis=2)
        return caught

    def rewards(self) -> DoubleArray:
        caught = self._caught()
        chase = np.repeat(10.0 * caught.sum(1, keepdims=True), self.chasers, 1)
        return np.concatenate([chase, -10.0 * caught - outside(self.places[:, self.chasers :])], 1)

    def observations(self) -> list[DoubleArray]:
        places, first, games = self.places, self.chasers, self.slots
        seen = beside(
            self.velocity, places, seen_from(places, self.marks), seen_from(places, places[:, self._others])
        )
        prey = self.velocity[:, self._prey].reshape(games, -1)
        fellows = self.velocity[:, self._fellows].reshape(games, len(self._prey), -1)
        return [beside(seen[:, :first], prey), beside(seen[:, first:], fellows)]

    def over(self) -> BoolArray | None:
        if not self.ends:
            return None
        over: BoolArray = np.asarray((self._caught() > 0).all(1))
        return over
