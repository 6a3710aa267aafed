"""Conversion of observations and actions between Gymnasium spaces and the arrays of policies.

A Box keeps its shape, and its type if that is bool, an integer of up to 32 bits, float16 or float32. Other
types become float32. A MultiBinary keeps its shape and is int8. Discrete and MultiDiscrete become one-hot
float32. Dict and Tuple become records with one field for each of their leaves, in the space's own order; each
leaf is converted by the same rules. An `action_mask` in a Dict is not part of the observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from hpcmarl.envs.observations import Leaf, ObservationView, fitted, one_hot
from hpcmarl.errors import ConfigError
from hpcmarl.types import ActionSpace, Array

KEPT_TYPES = ("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32")


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
        ConfigError: If the space has no fixed size, or an entry that no field of a record can hold.
    """
    if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
        inner = {key: value for key, value in space.spaces.items() if key != "action_mask"}
        if tuple(inner) == ("observation",):
            view = view_observation(inner["observation"], agent)
            if view.has_mask or view.inside is not None:
                raise ConfigError(_problem(agent, space, "two action masks"))
            return replace(view, has_mask=True, inside="observation")
        return ObservationView(tuple(_leaves(inner, agent, space)), has_mask=True)
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return ObservationView(tuple(_leaves(_entries(space), agent, space)))
    return ObservationView((_leaf(space, (), agent, space),))


def _entries(space: Any) -> dict[Any, Any]:
    """Return the entries of a Dict or Tuple space in its own order."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else dict(enumerate(space.spaces))


def _leaves(entries: dict[Any, Any], agent: str, whole: Any, path: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """Yield the leaves of a Dict or Tuple space.

    Args:
        entries: Entries of the space.
        agent: Name of the agent, for messages.
        whole: The whole observation space, for messages.
        path: Keys and places that lead to the space.
    """
    if not entries:
        where = f" at key {'/'.join(map(str, path))}" if path else ""
        raise ConfigError(_problem(agent, whole, f"no entries{where}"))
    for key, space in entries.items():
        if str(key) in ("", ".", "..") or "/" in str(key) or "\0" in str(key):
            raise ConfigError(
                _problem(agent, whole, f"the key {key!r}; a key may not be empty, a dot, or contain /")
            )
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            yield from _leaves(_entries(space), agent, whole, (*path, key))
            continue
        leaf = _leaf(space, (*path, key), agent, whole)
        if 0 in leaf.shape:
            raise ConfigError(
                _problem(agent, whole, f"the shape {leaf.shape} at key {leaf.key}; no size may be 0")
            )
        yield leaf


def _leaf(space: Any, path: tuple[Any, ...], agent: str, whole: Any) -> Leaf:
    if isinstance(space, spaces.Box) and space.dtype.kind in "biuf":
        dtype = np.dtype(space.dtype.name if space.dtype.name in KEPT_TYPES else "float32")
        if space.shape == ():
            return Leaf(path, (1,), dtype, lambda value: fitted(np.reshape(value, -1), (1,), dtype))
        return Leaf(path, tuple(int(size) for size in space.shape), dtype)
    if isinstance(space, spaces.MultiBinary):
        return Leaf(path, tuple(int(size) for size in space.shape), np.dtype(np.int8))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        given = (space.n,) if isinstance(space, spaces.Discrete) else space.nvec
        sizes = np.asarray(given, np.int64).reshape(-1)
        starts = np.asarray(space.start, np.int64).reshape(-1)
        return Leaf(
            path, (int(sizes.sum()),), np.dtype(np.float32), lambda value: one_hot(value, sizes, starts)
        )
    where = f"{space} at key {'/'.join(map(str, path))}" if path else str(whole)
    raise ConfigError(
        f"agent {agent} has the observation space {where}; allowed: Box of numbers, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict or Tuple of them; wrap the environment so that its observations have a fixed "
        "size"
    )


def _problem(agent: str, space: Any, what: str) -> str:
    return f"agent {agent} has an observation space with {what}: {space}; wrap the environment"


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
