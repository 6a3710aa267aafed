"""Matrix games as a natively batched environment: `env.id: matrix:rps`.

`env.kwargs` sets the number of rounds, and the payoffs of a user-defined game. player_0 chooses the row and
player_1 the column at the same time. An episode has `rounds` rounds, and each of them has a reward.

An observation is float32. Its first element is 1, but -1 for player_1 if the players cannot exchange seats.
With several rounds two one-hot vectors follow: the player's own and the other's action in the last round,
zeros before the first.

These games have no random numbers and cannot fail: `env.step_seconds` and `env.restarts` do not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.envs.grouping import AgentView, group_agents, teams_of
from hpcmarl.envs.native.base import OneShapeBatch, random_steps, refuse_state
from hpcmarl.envs.native.matrix_games import MatrixGame, find_game
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

PLAYERS = ("player_0", "player_1")


def takes(config: EnvConfig) -> bool:
    """Return True: every id that begins with `matrix:` belongs to this module."""
    return True


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a game.

    Players with the same number of actions share a policy by default.

    Args:
        config: The environment.
        policies: Agents of each policy.

    Raises:
        ConfigError: If `env` or `policies` does not fit the game.
    """
    game = find_game(config)
    agents = []
    for name, actions in zip(PLAYERS, game.payoffs.shape[1:], strict=True):
        size = 1 if game.rounds == 1 else 1 + sum(game.payoffs.shape[1:])
        seen, acted = spaces.Box(-1.0, 1.0, (size,), np.float32), spaces.Discrete(actions)
        agents.append(
            AgentView(name, seen, acted, view_observation(seen, name), view_action(acted, name), False)
        )
    groups = group_agents(agents, policies)
    common = bool((game.payoffs[0] == game.payoffs[1]).all())
    if config.common_reward and not common:
        raise ConfigError(
            f"env.common_reward: true, but the players of {config.id} have different payoffs; set it to "
            "false, or remove it"
        )
    teams = teams_of(groups, common and config.common_reward is not False)
    return EnvironmentSpec(
        config.id, groups, None, turn_based=False, constant_sum=game.constant_sum, teams=teams
    )


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> MatrixBatch:
    """Make `slots` games. Raises ConfigError, also if a state is required: these games have none."""
    refuse_state(config, with_state)
    return MatrixBatch(config, spec, slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Check the arguments; nothing else is needed in advance. Raises ConfigError."""
    find_game(config)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of `slots` games with random actions.

    It is the baseline for training speed.
    """
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


def first_sight(game: MatrixGame) -> FloatArray:
    """Return the players' observations before the first round, float32 [2, observation size]."""
    seen = np.zeros((2, 1 if game.rounds == 1 else 1 + sum(game.payoffs.shape[1:])), np.float32)
    seen[:, 0] = (1.0, 1.0 if game.symmetric else -1.0)
    return seen


class MatrixBatch(OneShapeBatch):
    """E games of two players."""

    def __init__(
        self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool
    ) -> None:
        super().__init__(config, spec, PLAYERS, slots, seeds, record=record)
        game = find_game(config)
        self._payoffs, self._rounds = np.moveaxis(game.payoffs, 0, -1), game.rounds  # [rows, columns, 2]
        self._first = first_sight(game)
        # actions of the last round; valid if episode_step > 0
        self._last = np.zeros((slots, 2), np.int64)

    def _begin_games(self, rows: IntArray) -> None:
        """Do nothing: these games have no random start."""

    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        self._last[rows] = actions
        return self._payoffs[actions[:, 0], actions[:, 1]], self.episode_step[rows] + 1 >= self._rounds

    def _seen(self, rows: IntArray) -> FloatArray:
        shown = np.repeat(self._first[None], len(rows), 0)
        if self._rounds > 1:
            later = np.flatnonzero(self.episode_step[rows] > 0)
            for seat in (0, 1):
                own, other = self._last[rows[later], seat], self._last[rows[later], 1 - seat]
                shown[later, seat, 1 + own] = 1.0
                shown[later, seat, 1 + self._payoffs.shape[seat] + other] = 1.0
        return shown

    def _acting(self, rows: IntArray) -> BoolArray:
        return np.ones((len(rows), 2), np.bool_)

    def _allowed(self, rows: IntArray) -> None:
        return None

    def _save_games(self) -> dict[str, Array]:
        return {"last": self._last.copy()}

    def _restore_games(self, state: Mapping[str, Any]) -> None:
        self._last[...] = state["last"]
