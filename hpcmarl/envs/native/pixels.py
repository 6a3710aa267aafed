"""Agents that gather fruits on a grid and see pictures: `env.id: pixels:gather` and `pixels:gather_dict`.

N agents and N fruits begin on different squares of a square grid. An agent moves to a neighbouring square or
stays. A fruit is gathered when an agent stands on it, and then all agents get 1 / N. The episode terminates
with the last fruit, and is truncated after `steps` steps.

With the default `steps`, no square is out of reach for any agent, so the best return is 1 in every episode.

`env.kwargs`: `agents`; `size`, squares along an edge; `cell`, pixels along the edge of a square; `steps`.

An observation is an image, uint8 [size * cell, size * cell, 3]. The first channel shows the fruits, the
second one the agent itself, and the third one the other agents: 255 on their squares, else 0. Row 0 of
the grid is at the top. With `pixels:gather_dict` an observation has the keys `image`, `place` (row and
column of the agent, from 0 to 1, float32 [2]) and `time` (the share of the steps that are left, float32 [1]).

The state holds the rows and columns of all agents, then of all fruits, from 0 to 1, then 1 for each fruit
that is left, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds, episode_seed
from hpcmarl.envs.drawing import Scene, Shape
from hpcmarl.envs.grouping import AgentView, group_agents, teams_of
from hpcmarl.envs.native.base import OneShapeBatch, random_steps
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

PACKAGE = "pixels"  # ids begin with it
GAMES = ("gather", "gather_dict")
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # stay, up, down, left, right
FRUITS, SELF, OTHERS = 0, 1, 2  # channels of an image
# least and greatest value of each argument
LIMITS = {"agents": (2, 16), "size": (2, 64), "cell": (1, 64), "steps": (1, 100_000)}


@dataclass(frozen=True)
class Rules:
    """Arguments of a game, as in the module's docstring.

    Attributes:
        agents: Number N of agents and of fruits.
        size: Squares along an edge of the grid.
        cell: Pixels along an edge of a square.
        steps: Steps after which an episode is truncated.
        keyed: Whether observations are dictionaries.
    """

    agents: int
    size: int
    cell: int
    steps: int
    keyed: bool

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the agents."""
        return tuple(f"agent_{number}" for number in range(self.agents))

    @property
    def state_size(self) -> int:
        """Number of elements of the state."""
        return 5 * self.agents


def find_rules(config: EnvConfig) -> Rules:
    """Return the rules that `env.id` and `env.kwargs` define.

    Raises:
        ConfigError: If the game is unknown or an argument does not fit.
    """
    name = config.id.partition(":")[2]
    if name not in GAMES:
        listed = ", ".join(f"{PACKAGE}:{game}" for game in GAMES)
        raise ConfigError(f"env.id {config.id}: there is no game {name or '(no name)'}; allowed: {listed}")
    if config.kind == "aec":
        raise ConfigError(f"env.kind aec: {config.id} is not turn-based; use parallel or auto")
    given: dict[str, int] = {"agents": 2, "size": 5, "cell": 8}
    for key, value in config.kwargs.items():
        if key not in LIMITS:
            raise ConfigError(f"env.kwargs.{key} does not fit {config.id}; allowed: {', '.join(LIMITS)}")
        least, most = LIMITS[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError(
                f"env.kwargs.{key}: {value!r}; allowed for {config.id}: a whole number from {least} to {most}"
            )
        given[key] = value
    if given["size"] ** 2 < 2 * given["agents"]:
        raise ConfigError(
            f"env.kwargs.size: {given['size']} gives {given['size'] ** 2} squares; allowed: at least 2 for "
            f"each of the {given['agents']} agents"
        )
    given.setdefault("steps", 2 * (given["size"] - 1))
    return Rules(**given, keyed=name == "gather_dict")


def takes(config: EnvConfig) -> bool:
    """Return True: every id that begins with `pixels:` belongs to this module."""
    return True


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a game.

    Args:
        config: The environment.
        policies: Agents of each policy.

    Raises:
        ConfigError: If `env` or `policies` does not fit the game.
    """
    rules = find_rules(config)
    edge = rules.size * rules.cell
    seen: Any = spaces.Box(0, 255, (edge, edge, 3), np.uint8)
    if rules.keyed:
        place, time = (spaces.Box(0.0, 1.0, (size,), np.float32) for size in (2, 1))
        seen = spaces.Dict({"image": seen, "place": place, "time": time})
    acted = spaces.Discrete(len(MOVES))
    agents = [
        AgentView(name, seen, acted, view_observation(seen, name), view_action(acted, name), False)
        for name in rules.players
    ]
    groups = group_agents(agents, policies)
    teams = teams_of(groups, config.common_reward is not False)
    return EnvironmentSpec(config.id, groups, rules.state_size, turn_based=False, teams=teams)


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> GatherBatch:
    """Make `slots` games. Raises ConfigError if an argument does not fit."""
    return GatherBatch(config, spec, slots, seeds, record=record, with_state=with_state)


def prepare(config: EnvConfig, slots: int) -> None:
    """Check the arguments; nothing else is needed in advance. Raises ConfigError."""
    find_rules(config)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of `slots` games with random actions.

    It is the baseline for training speed.
    """
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


class GatherBatch(OneShapeBatch):
    """E games; see the module's docstring."""

    def __init__(
        self,
        config: EnvConfig,
        spec: EnvironmentSpec,
        slots: int,
        seeds: Seeds,
        *,
        record: bool,
        with_state: bool,
    ) -> None:
        self._rules = rules = find_rules(config)
        super().__init__(config, spec, rules.players, slots, seeds, record=record)
        self._limit = min(rules.steps, config.max_steps or rules.steps)
        self._with_state = with_state
        self._dtype = spec.policies[0].observation_dtype
        # rows and columns
        self._places = np.zeros((slots, rules.agents, 2), np.int64)
        self._fruits = np.zeros((slots, rules.agents, 2), np.int64)
        self._left = np.zeros((slots, rules.agents), np.bool_)

    def _begin_games(self, rows: IntArray) -> None:
        size, agents = self._rules.size, self._rules.agents
        seeds = np.array(
            [
                episode_seed(self._seeds.seed, self._seeds.first_slot + row, index)
                for row, index in zip(rows.tolist(), self.episode_index[rows].tolist(), strict=True)
            ]
        )
        squares = size * size
        drawn = uniform(np.repeat(seeds, squares), np.tile(np.arange(squares), len(rows)))
        # the squares in a random order
        order = drawn.reshape(len(rows), squares).argsort(1, kind="stable")
        places = np.stack([order // size, order % size], -1)
        self._places[rows], self._fruits[rows] = places[:, :agents], places[:, agents : 2 * agents]
        self._left[rows] = True

    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        places = np.clip(self._places[rows] + MOVES[actions], 0, self._rules.size - 1)
        there = (places[:, :, None] == self._fruits[rows][:, None]).all(-1).any(1)
        left = self._left[rows]
        gathered = (left & there).sum(1)
        left &= ~there
        self._places[rows], self._left[rows] = places, left
        reward = np.repeat((gathered / self._rules.agents)[:, None], self._rules.agents, 1)
        return reward, np.logical_not(left.any(1))

    def _seen(self, rows: IntArray) -> Array:
        images = self._images(rows)
        if not self._rules.keyed:
            return images
        seen: Array = np.empty(images.shape[:2], self._dtype)
        seen["image"] = images
        seen["place"] = self._places[rows] / (self._rules.size - 1)
        seen["time"] = (1.0 - self.episode_step[rows] / self._rules.steps)[:, None, None]
        return seen

    def _images(self, rows: IntArray) -> NDArray[np.uint8]:
        """Return the images of all agents, [n, N, edge, edge, 3]."""
        size, agents, cell = self._rules.size, self._rules.agents, self._rules.cell
        squares = np.zeros((len(rows), agents, size, size, 3), np.uint8)
        game, viewer = np.arange(len(rows))[:, None], np.arange(agents)
        fruit, left = self._fruits[rows], self._left[rows]
        place = self._places[rows]
        for number in range(agents):
            row, column = fruit[:, number].T
            squares[game[:, 0], :, row, column, FRUITS] |= np.where(left[:, number], 255, 0).astype(np.uint8)[
                :, None
            ]
            row, column = place[:, number].T
            squares[game, viewer[viewer != number], row[:, None], column[:, None], OTHERS] = 255
            squares[game[:, 0], number, row, column, SELF] = 255
        return squares.repeat(cell, 2).repeat(cell, 3)

    def _state_of(self, rows: IntArray) -> FloatArray | None:
        if not self._with_state:
            return None
        last = self._rules.size - 1
        parts = [self._places[rows] / last, self._fruits[rows] / last, self._left[rows]]
        return np.concatenate([part.reshape(len(rows), -1) for part in parts], 1).astype(np.float32)

    def _acting(self, rows: IntArray) -> BoolArray:
        return np.ones((len(rows), self._rules.agents), np.bool_)

    def _allowed(self, rows: IntArray) -> None:
        return None

    def drawing(self, slot: int) -> Scene:
        """Return the grid with the agents and the fruits that are left."""
        size = self._rules.size
        shapes = [
            Shape("box", "board", column + 0.5, row + 0.5, 0.94, 0.94)
            for row in range(size)
            for column in range(size)
        ]
        for (row, column), left in zip(self._fruits[slot].tolist(), self._left[slot].tolist(), strict=True):
            if left:
                shapes.append(Shape("box", "goal", column + 0.5, size - row - 0.5, 0.5, 0.5))
        for number, (row, column) in enumerate(self._places[slot].tolist()):
            place = (column + 0.5, size - row - 0.5, 0.3)
            shapes.append(Shape("disc", "agent", *place, label=str(number)))
        return Scene((0.0, 0.0, float(size), float(size)), tuple(shapes))

    def _save_games(self) -> dict[str, Array]:
        """Return the state of the games for `_restore_games`.

        Returns:
            places and fruits: rows and columns, [E, N, 2]; left: fruits that are not gathered, [E, N].
        """
        return {"places": self._places.copy(), "fruits": self._fruits.copy(), "left": self._left.copy()}

    def _restore_games(self, state: Mapping[str, Any]) -> None:
        self._places[...], self._fruits[...], self._left[...] = (
            state[name] for name in ("places", "fruits", "left")
        )
