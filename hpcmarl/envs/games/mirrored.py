"""A Gymnasium environment in its original or a mirrored form: `env.id: hpcmarl.envs.games.mirrored:make`.

The two forms are the two kinds of workers in the Malenia experiment. One worker observes (s, 0), the other
(-s, 1); actions and rewards are the same. Needs gymnasium.

Source:
    arXiv 2509.24305.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from hpcmarl.types import Array


def make(id: str, mirrored: bool = False, **kwargs: Any) -> gymnasium.Env[Array, Any]:
    """Make the environment that is registered as `id`.

    Args:
        id: Id of an environment with one agent and numeric observations [D], for example Reacher-v4.
        mirrored: Show (-s, 1) instead of (s, 0).
        **kwargs: Further arguments of the environment.

    Returns:
        The environment, with observations [D + 1].
    """
    environment = gymnasium.make(id, **kwargs)
    sign, bit = (-1.0, 1.0) if mirrored else (1.0, 0.0)
    size = int(np.prod(environment.observation_space.shape or (1,)))
    space = gymnasium.spaces.Box(-np.inf, np.inf, (size + 1,))
    return gymnasium.wrappers.TransformObservation(
        environment, lambda seen: np.append(sign * np.asarray(seen, np.float32), np.float32(bit)), space
    )
