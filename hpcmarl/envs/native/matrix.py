"""Matrix games as a natively batched environment: `env.id: matrix:rps`, rounds (and payoffs of one's own) by
env.kwargs.

Made through the package's make_environment, called by roles/ through base.BatchedEnvironment. Must not know
networks, ranks or files.

player_0 chooses the row, player_1 the column, both at once; an episode is `rounds` rounds, each paid.
Observations are float32 [1]: 1, and in games whose players could not change seats -1 for player_1. With
several rounds the last round follows: one-hot, one's own action and then the other's; zeros before the first.
Nothing is random here and nothing can break: env.step_seconds and env.restarts do not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.envs.grouping import AgentView, group_agents, teams_of
from hpcmarl.envs.native.base import NativeBatch, random_steps, refuse_state
from hpcmarl.envs.native.matrix_games import MatrixGame, find_game
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

PLAYERS = ("player_0", "player_1")


def takes(config: EnvConfig) -> bool:
    """All that is named so."""
    return True


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game; players with as many actions as each other share a policy by default. Raises
    ConfigError."""
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
            f"env.common_reward: true, but the players of {config.id} have payoffs of their own; set it to "
            "false, or remove it"
        )
    teams = teams_of(groups, common and config.common_reward is not False)
    return EnvironmentSpec(
        config.id, groups, None, turn_based=False, constant_sum=game.constant_sum, teams=teams
    )


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> MatrixBatch:
    """`slots` games. Raises ConfigError; there is no state."""
    refuse_state(config, with_state)
    return MatrixBatch(config, spec, slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Nothing takes long. Raises ConfigError."""
    find_game(config)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of `slots` games with random actions: what training is measured
    against."""
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


def first_sight(game: MatrixGame) -> FloatArray:
    """What the players see before the first round: float32 [2, observation size]."""
    seen = np.zeros((2, 1 if game.rounds == 1 else 1 + sum(game.payoffs.shape[1:])), np.float32)
    seen[:, 0] = (1.0, 1.0 if game.symmetric else -1.0)
    return seen


class MatrixBatch(NativeBatch):
    """E games of two players."""

    def __init__(
        self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool
    ) -> None:
        super().__init__(config, spec, PLAYERS, slots, seeds, record=record)
        game = find_game(config)
        self._payoffs, self._rounds = np.moveaxis(game.payoffs, 0, -1), game.rounds  # [rows, columns, 2]
        self._first = first_sight(game)
        self._last = np.zeros((slots, 2), np.int64)  # last round's actions, where episode_step > 0

    def _begin_games(self, rows: IntArray) -> None:
        """Nothing is drawn or dealt."""

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

    def _standing(self) -> dict[str, Array]:
        return {"last": self._last.copy()}

    def _stand(self, state: Mapping[str, Any]) -> None:
        self._last[...] = state["last"]
