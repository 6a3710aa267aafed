"""Conversion of observations and actions between Gymnasium spaces and the arrays of policies.

Observations become float32 of a fixed shape. A Box keeps its shape and scale; gymnasium flattens all other
spaces. Discrete and MultiDiscrete become one-hot, and Dict and Tuple keep the space's own order. An
`action_mask` in a Dict is not part of the observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from hpcmarl.errors import ConfigError
from hpcmarl.types import ActionSpace, Array

Convert = Callable[[Any], Array]


@dataclass(frozen=True)
class ObservationView:
    """Way in which an observation is read.

    Attributes:
        shape: Shape of the observation for the policy.
        convert: Conversion; None: the observation is already an array of that shape.
        has_mask: Whether the observation contains an action mask.
    """

    shape: tuple[int, ...]
    convert: Convert | None
    has_mask: bool


@dataclass(frozen=True)
class ActionView:
    """Way in which actions are written.

    Attributes:
        space: Description of the actions for the policy.
        prepare: Function from a batch of actions [E, N, *shape] to the environment's actions, [E][N].
        key: Agents with equal keys may share one conversion.
    """

    space: ActionSpace
    prepare: Callable[[Array], list[list[Any]]]
    key: tuple[Any, ...]


def view_observation(space: Any, agent: str) -> ObservationView:
    """Read an observation space.

    Args:
        space: Gymnasium space.
        agent: Name of the agent, for messages.

    Raises:
        ConfigError: If the space has no fixed size.
    """
    if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
        inner = {key: value for key, value in space.spaces.items() if key != "action_mask"}
        if tuple(inner) == ("observation",):
            view = view_observation(inner["observation"], agent)
            convert = view.convert
            if convert is None:
                return ObservationView(view.shape, _pick_observation, True)
            return ObservationView(view.shape, lambda observation: convert(observation["observation"]), True)
        rest = view_observation(spaces.Dict(inner), agent)
        return ObservationView(rest.shape, rest.convert, True)
    if isinstance(space, spaces.Box) and space.shape != ():
        return ObservationView(tuple(int(size) for size in space.shape), None, False)
    if not isinstance(space, spaces.Space) or not space.is_np_flattenable:
        raise ConfigError(
            f"agent {agent} has the observation space {space}; allowed: Box, Discrete, MultiDiscrete, "
            "MultiBinary, and Dict or Tuple of them; wrap the environment so that its observations have a "
            "fixed size"
        )
    size = int(utils.flatdim(space))

    def flatten(observation: Any) -> Array:
        return np.asarray(utils.flatten(space, observation), np.float32).reshape(size)

    return ObservationView((size,), flatten, False)


def _pick_observation(observation: Any) -> Array:
    return np.asarray(observation["observation"])


def view_action(space: Any, agent: str) -> ActionView:
    """Read an action space.

    Args:
        space: Gymnasium space.
        agent: Name of the agent, for messages.

    Raises:
        ConfigError: If the space is an unbounded Box or of an unsupported kind.
    """
    if isinstance(space, spaces.Discrete):
        return _view_discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim != 1:
            raise ConfigError(
                f"agent {agent} has the action space {space}; a MultiDiscrete space must have one dimension; "
                "wrap the environment"
            )
        return _view_multi_discrete(space)
    if isinstance(space, spaces.Box):
        return _view_box(space, agent)
    raise ConfigError(
        f"agent {agent} has the action space {space}; allowed: Discrete, MultiDiscrete or bounded Box; wrap "
        "the environment"
    )


def _view_discrete(count: int, start: int) -> ActionView:
    def prepare(actions: Array) -> list[list[Any]]:
        # Environments compute several times faster with plain integers than with numpy scalars.
        return (actions + start).tolist() if start else actions.tolist()  # type: ignore[no-any-return]

    return ActionView(ActionSpace("discrete", (count,)), prepare, ("discrete", count, start))


def _view_multi_discrete(space: Any) -> ActionView:
    sizes = tuple(int(size) for size in space.nvec)
    start = np.asarray(space.start, np.int64)

    def prepare(actions: Array) -> list[list[Any]]:
        return [list(row) for row in (actions + start).astype(space.dtype)]

    return ActionView(
        ActionSpace("multi_discrete", sizes), prepare, ("multi_discrete", sizes, tuple(start.tolist()))
    )


def _view_box(space: Any, agent: str) -> ActionView:
    if not (np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high))):
        raise ConfigError(
            f"agent {agent} has the unbounded action space {space}; allowed: finite bounds in every "
            "dimension; wrap the environment so that its actions are bounded"
        )
    low, high = space.low.ravel(), space.high.ravel()
    if low.size == 0:
        raise ConfigError(
            f"agent {agent} has the empty action space {space}; allowed: at least one dimension; wrap the "
            "environment"
        )
    shape, whole = space.shape, np.issubdtype(space.dtype, np.integer)

    def prepare(actions: Array) -> list[list[Any]]:
        # Make a new array, because environments may keep their actions.
        bounded = np.minimum(np.maximum(actions, low), high)
        bounded = (np.rint(bounded) if whole else bounded).astype(space.dtype, copy=False)
        return [list(row) for row in bounded.reshape(*actions.shape[:2], *shape)]

    bounds = tuple(map(float, low)), tuple(map(float, high))
    return ActionView(
        ActionSpace("continuous", (low.size,), *bounds),
        prepare,
        ("continuous", shape, str(space.dtype), *bounds),
    )
