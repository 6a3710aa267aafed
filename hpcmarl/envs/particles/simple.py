"""simple: one agent moves to a landmark."""

from __future__ import annotations

import numpy as np

from hpcmarl.envs.particles.world import Body, World, beside, seen_from
from hpcmarl.types import DoubleArray


class Simple(World):
    """One agent and one landmark. The reward is minus their squared distance."""

    def __init__(self, slots: int) -> None:
        self.agents, self.landmarks = [Body("agent_0", collides=False)], [Body("landmark 0", collides=False)]
        super().__init__(slots)

    def rewards(self) -> DoubleArray:
        rewards: DoubleArray = -np.square(self.places - self.marks).sum(-1)
        return rewards

    def observations(self) -> list[DoubleArray]:
        return [beside(self.velocity, seen_from(self.places, self.marks))]
