"""Pictures of particle games, painted by the package's own environment, which is set to the state of a game
that is played here.

Made by batch.py when the first picture is asked for: pygame is imported then.
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
    """One environment of the package, which takes no steps."""

    def __init__(self, config: EnvConfig) -> None:
        """Raises ConfigError for tasks that the package does not have."""
        if not config.id.startswith("mpe2."):
            raise ConfigError(f"env.id {config.id} has no pictures; mpe2's tasks have")
        painted = config.model_copy(
            update={"batched": False, "kwargs": {**config.kwargs, "render_mode": "rgb_array"}}
        )
        self._environment: Any = resolve(painted)[1]

    def paint(
        self, seed: int, position: DoubleArray, velocity: DoubleArray, word: DoubleArray
    ) -> NDArray[np.uint8]:
        """Paint a game.

        Args:
            seed: Of its episode; goals and colours follow from it.
            position: Of agents and landmarks, [M, 2].
            velocity: Of agents, [A, 2].
            word: What agents have said, [A, C].

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
