"""A family of games like simple_spread, with rewards and dynamics set by keyword arguments.

Observations and actions are those of simple_spread. Groups that play different members of the family are the
use case of Malenia (arXiv 2509.24305). No observation identifies the member, so one policy has to serve all
of them. `envs/games/particles.py` provides the PettingZoo environment and checks the arguments.

Reward of agent a:

    r_a = bonus - coverage · mean_l ( min_b |x_b - x_l - offset| - preferred_distance )²
                - collisions · (number of agents that touch a) - effort · [a pushes]

    x_a, x_b   positions of agents
    x_l        position of landmark l
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.envs.particles.spread import Walkers
from hpcmarl.envs.particles.world import ACCELERATION, DAMPING, DIRECTIONS, distances
from hpcmarl.types import BoolArray, DoubleArray


class Family(Walkers):
    """A member of the family.

    `parallel_env()` in `envs/games/particles.py` describes the arguments.
    """

    max_cycles = 15

    def __init__(
        self,
        slots: int,
        agents: int = 2,
        landmarks: int = 1,
        mass: float = 1.0,
        thrust: float = ACCELERATION,
        damping: float = DAMPING,
        max_speed: float | None = None,
        wind: Sequence[float] = (0.0, 0.0),
        coverage: float = 1.0,
        offset: Sequence[float] = (0.0, 0.0),
        preferred_distance: float = 0.0,
        collisions: float = 0.0,
        effort: float = 0.0,
        bonus: float = 0.0,
    ) -> None:
        super().__init__(slots, agents, landmarks)
        self.mass, self.damping = mass, damping
        self.pushes = np.repeat((DIRECTIONS * thrust)[None], agents, 0)
        self.limit_speed([max_speed] * agents)
        self._wind, self._offset = np.array(wind, np.float64), np.array(offset, np.float64)
        self._coverage, self._preferred, self._bonus = coverage, preferred_distance, bonus
        self._collisions, self._effort = collisions, effort
        # whether each agent pushed in the last step
        self.pushing: BoolArray = np.zeros((slots, agents), np.bool_)

    def step(self, pushes: DoubleArray, words: DoubleArray | None) -> None:
        self.pushing = (pushes != 0).any(-1)
        super().step(pushes + self._wind, words)

    def rewards(self) -> DoubleArray:
        nearest = distances(self.marks + self._offset, self.places).min(2)
        team = self._bonus - self._coverage * np.square(nearest - self._preferred).mean(1)
        rewards: DoubleArray = team[:, None] - self._effort * self.pushing
        return rewards - self._collisions * self.touching() if self._collisions else rewards
