"""A Gymnasium environment as it is or mirrored: the two workers of the Malenia experiment of arXiv
2509.24305. Needs gymnasium.

One worker sees (s, 0), the other (-s, 1); actions and rewards are the same. Built by resolve.py from `env.id:
hpcmarl.envs.games.mirrored:make`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from hpcmarl.types import Array


def make(id: str, mirrored: bool = False, **kwargs: Any) -> gymnasium.Env[Array, Any]:
    """Make the environment that is registered as `id`.

    Args:
        id: Of a single agent whose observations [D] are numbers, for example Reacher-v4.
        mirrored: Show (-s, 1) in place of (s, 0).
        kwargs: What else the environment takes.

    Returns:
        It, with observations [D + 1].
    """
    environment = gymnasium.make(id, **kwargs)
    sign, bit = (-1.0, 1.0) if mirrored else (1.0, 0.0)
    size = int(np.prod(environment.observation_space.shape or (1,)))
    space = gymnasium.spaces.Box(-np.inf, np.inf, (size + 1,))
    return gymnasium.wrappers.TransformObservation(
        environment, lambda seen: np.append(sign * np.asarray(seen, np.float32), np.float32(bit)), space
    )
