"""simple_world_comm: tag with food, forests that hide agents, and a leader that speaks."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from hpcmarl.envs.particles.world import Body, Generators, World, beside, distances, outside, seen_from
from hpcmarl.types import BoolArray, DoubleArray, IntArray


class WorldComm(World):
    """Like Tag, with food, forests and a leader.

    Good agents gain by reaching food. An agent observes another one only if both share a forest or neither
    is in a forest. The leader observes all agents, and all chasers observe its word.
    """

    least = MappingProxyType(
        {"num_good": 1, "num_adversaries": 1, "num_food": 1, "num_obstacles": 0, "num_forests": 0}
    )
    letters = 4

    def __init__(
        self,
        slots: int,
        num_good: int = 2,
        num_adversaries: int = 4,
        num_obstacles: int = 1,
        num_food: int = 2,
        num_forests: int = 2,
    ) -> None:
        names = ["leadadversary_0", *(f"adversary_{number}" for number in range(num_adversaries - 1))]
        chasers = [
            Body(name, size=0.075, acceleration=3.0, max_speed=1.0, speaks=name == names[0]) for name in names
        ]
        self.agents = [
            *chasers,
            *(
                Body(f"agent_{number}", size=0.045, acceleration=4.0, max_speed=1.3)
                for number in range(num_good)
            ),
        ]
        obstacles = [Body(f"landmark {number}", size=0.2, reach=0.9) for number in range(num_obstacles)]
        food = [Body(f"food {number}", size=0.03, reach=0.9, collides=False) for number in range(num_food)]
        forests = [
            Body(f"forest {number}", size=0.3, reach=0.9, collides=False) for number in range(num_forests)
        ]
        self.landmarks = [*obstacles, *food, *forests]
        self.chasers, self.food, self.forests = num_adversaries, num_obstacles, num_obstacles + num_food
        super().__init__(slots)
        good = range(num_adversaries, len(self.agents))
        self._sizes = np.array([body.size for body in self.agents])
        self._others = self.others(range(len(self.agents)))
        self._prey, self._fellows = np.arange(num_adversaries, len(self.agents)), self.others(good, good)

    def begin(self, rows: IntArray, generators: Generators) -> None:
        self.scatter(rows, generators)
        # The package draws these positions a second time.
        self.scatter(rows, generators, len(self.agents) + self.food)

    def rewards(self) -> DoubleArray:
        chasers, good = self.places[:, : self.chasers], self.places[:, self.chasers :]
        apart, food = distances(good, chasers), distances(good, self.marks[:, self.food : self.forests])
        caught = np.count_nonzero(apart < 0.045 + 0.075, axis=2)
        chase = 5.0 * caught.sum(1, keepdims=True) - 0.1 * apart.min(1)
        eaten = np.count_nonzero(food < 0.045 + 0.03, axis=2)
        return np.concatenate(
            [chase, -5.0 * caught - 2.0 * outside(good) + 2.0 * eaten - 0.05 * food.min(2)], 1
        )

    def observations(self) -> list[DoubleArray]:
        places, first, games = self.places, self.chasers, self.slots
        # whether each agent is in each forest, [E, A, forests]
        hidden = distances(places, self.marks[:, self.forests :]) < (self._sizes[:, None] + 0.3)
        anywhere: BoolArray = np.asarray(hidden.any(2))
        # whether two agents are in the same forest, [E, A, A]
        together: BoolArray = np.asarray((hidden[:, :, None] & hidden[:, None]).any(3))
        sees = together | ~(anywhere[:, :, None] | anywhere[:, None])
        sees[:, 0] = True
        shown = np.take_along_axis(sees, np.broadcast_to(self._others, (games, *self._others.shape)), 2)[
            ..., None
        ]
        others = ((places[:, self._others] - places[:, :, None]) * shown).reshape(games, len(self.agents), -1)
        inside = np.where(hidden, 1.0, -1.0)
        seen = beside(self.velocity, places, seen_from(places, self.marks), others)
        prey = (self.velocity[:, None, self._prey] * sees[:, :first, self._prey, None]).reshape(
            games, first, -1
        )
        visible = np.take_along_axis(
            sees[:, first:], np.broadcast_to(self._fellows, (games, *self._fellows.shape)), 2
        )[..., None]
        fellows = (self.velocity[:, self._fellows] * visible).reshape(games, len(self._prey), -1)
        chasing = beside(seen[:, :first], prey, inside[:, :first], self.word[:, 0])
        return [chasing, beside(seen[:, first:], inside[:, first:], fellows)]
