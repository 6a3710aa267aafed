"""Pictures of particle games, painted by the package's own environment.

A Painter sets that environment to the state of a game in this process. pygame is imported when the first
Painter is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.config import EnvConfig
from hpcmarl.envs.resolve import resolve
from hpcmarl.errors import ConfigError
from hpcmarl.types import DoubleArray


class Painter:
    """An environment of the package that takes no steps and paints pictures."""

    def __init__(self, config: EnvConfig) -> None:
        """Build the environment. Raises ConfigError if the package does not have the task."""
        if not config.id.startswith("mpe2."):
            raise ConfigError(f"env.id {config.id} has no pictures; allowed: the tasks of mpe2")
        painted = config.model_copy(
            update={"batched": False, "kwargs": {**config.kwargs, "render_mode": "rgb_array"}}
        )
        self._environment: Any = resolve(painted)[1]

    def paint(
        self, seed: int, position: DoubleArray, velocity: DoubleArray, word: DoubleArray
    ) -> NDArray[np.uint8]:
        """Paint a game.

        Args:
            seed: Seed of its episode; it determines goals and colours.
            position: Positions of agents and landmarks, [M, 2].
            velocity: Velocities of agents, [A, 2].
            word: Last words of agents, [A, C].

        Returns:
            Red, green and blue of each pixel, [height, width, 3].
        """
        self._environment.reset(seed=seed)
        world = self._environment.unwrapped.world
        for entity, place in zip(world.entities, position, strict=True):
            entity.state.p_pos = place.copy()
        for agent, speed, said in zip(world.agents, velocity, word, strict=True):
            agent.state.p_vel, agent.state.c = speed.copy(), said.copy()
        picture: NDArray[np.uint8] = self._environment.render()
        return picture

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
