"""simple_spread: agents cover landmarks without touching each other."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from hpcmarl.envs.particles.world import Body, World, beside, distances, seen_from
from hpcmarl.types import BoolArray, DoubleArray, IntArray

# size of an agent
SIZE = 0.15
# An agent covers a landmark within this distance.
CAPTURE = 0.1


class Walkers(World):
    """Agents of equal size among landmarks that they can stand on.

    Each agent observes all positions and the words of the others, which are always silent.
    """

    def __init__(self, slots: int, agents: int, landmarks: int) -> None:
        self.agents = [Body(f"agent_{number}", size=SIZE) for number in range(agents)]
        self.landmarks = [Body(f"landmark {number}", collides=False) for number in range(landmarks)]
        super().__init__(slots)
        self._others = self.others(range(agents))
        self._silence = np.zeros((slots, agents, 2 * (agents - 1)))

    def touching(self) -> IntArray:
        """Return the number of other agents that each agent touches, [E, A]."""
        count: IntArray = np.count_nonzero(distances(self.places, self.places) < 2 * SIZE, axis=2) - 1
        return count

    def observations(self) -> list[DoubleArray]:
        places = self.places
        return [
            beside(
                self.velocity,
                places,
                seen_from(places, self.marks),
                seen_from(places, places[:, self._others]),
                self._silence,
            )
        ]


class Spread(Walkers):
    """N agents that cover N landmarks.

    The shared part of the reward is minus the sum over landmarks of the distance of the nearest agent. The
    part of each agent is minus the number of agents that it touches. `local_ratio` is the weight of the
    second part.
    """

    least = MappingProxyType({"N": 1})

    def __init__(
        self, slots: int, N: int = 3, local_ratio: float = 0.5, terminate_on_success: bool = False
    ) -> None:
        self.local_ratio, self.ends = local_ratio, terminate_on_success
        super().__init__(slots, N, N)

    def rewards(self) -> DoubleArray:
        covered = -distances(self.marks, self.places).min(2).sum(1)
        rewards: DoubleArray = covered[:, None] * (1 - self.local_ratio) - self.touching() * self.local_ratio
        return rewards

    def over(self) -> BoolArray | None:
        if not self.ends:
            return None
        over: BoolArray = (distances(self.marks, self.places).min(2) < CAPTURE).all(1)
        return over
