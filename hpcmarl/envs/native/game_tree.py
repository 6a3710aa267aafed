"""Small turn-based games of OpenSpiel as natively batched environments, with the whole game in tables.

A step of all slots is a look-up. The module takes `env.id: openspiel:GAME` if the game has at most
MAX_POSITIONS positions. Larger games are driven one by one (`games/openspiel.py`). Seats, observations,
rewards and chance moves are the same in both forms.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds, episode_seed
from hpcmarl.envs.grouping import AgentView, group_agents
from hpcmarl.envs.native.base import OneShapeBatch, random_steps, refuse_state
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

MAX_POSITIONS = 20_000  # Leduc poker has 9,457
# numbers in the table of observations: float32, so 40 MB
MAX_NUMBERS = 10_000_000
# moves in a game; the traversal is recursive
MAX_LENGTH = 200
# values of Tree.turn when no player has the turn
CHANCE, OVER = -1, -2


class Tree:
    """Tables of all n positions of a game; position 0 is the first.

    d is the number of positions with a player's turn, c the number with a chance move.

    Attributes:
        turn: Player with the turn, CHANCE or OVER, [n].
        place: Row of a player's position in child, seen and allowed, or of a chance position in ends and
            after, [n].
        child: Position after each action, -1 if the action is forbidden, [d, A].
        seen: Observations of all players, [d, P, *shape].
        allowed: Mask of the player with the turn, [d, A].
        returns: Returns of the players so far, zeros at chance positions, [n, P].
        ends: Cumulative probabilities of the chance moves, as `openspiel.chances` returns them, [c, K]. The
            last one and all padding are infinity.
        after: Position after each chance move, [c, K].

    Raises:
        OverflowError: If the game has too many positions.
    """

    def __init__(self, play: Any) -> None:
        self.play = play
        self.turn: Any = []
        self.place: Any = []
        self.returns: Any = []
        self.child: Any = []
        self.seen: Any = []
        self.allowed: Any = []
        self.ends: Any = []
        self.after: Any = []
        self._most = min(MAX_POSITIONS, MAX_NUMBERS // (int(np.prod(play.shape)) * len(play.names)))
        self._visit(play.game.new_initial_state())
        self.turn, self.place, self.returns = (
            np.array(self.turn),
            np.array(self.place),
            np.array(self.returns),
        )
        self.child, self.seen, self.allowed = (
            np.array(self.child),
            np.array(self.seen, np.float32),
            np.array(self.allowed, np.bool_),
        )
        width = max(map(len, self.ends), default=1)
        self.ends = np.array(
            [[*ends[:-1], *[np.inf] * (width + 1 - len(ends))] for ends in self.ends]
        ).reshape(-1, width)
        self.after = np.array(
            [[*after, *[-1] * (width - len(after))] for after in self.after], np.int64
        ).reshape(-1, width)

    def _visit(self, state: Any) -> int:
        """Add a position and all its successors; return the number of the position."""
        number = len(self.turn)
        if number == self._most:
            raise OverflowError
        chance, over = state.is_chance_node(), state.is_terminal()
        self.turn.append(OVER if over else CHANCE if chance else state.current_player())
        self.returns.append([0.0] * len(self.play.names) if chance else state.returns())
        self.place.append(-1 if over else len(self.ends if chance else self.child))
        if chance:
            from hpcmarl.envs.games.openspiel import chances

            actions, ends = chances(state)
            after: list[int] = []
            self.ends.append(ends)
            self.after.append(after)
            after += [self._visit(state.child(action)) for action in actions]
        elif not over:
            self.play.state = state
            self.seen.append([self.play.tensor(player) for player in self.play.players])
            self.allowed.append(self.play.mask(state.current_player()))
            child = [-1] * self.play.actions
            self.child.append(child)
            for action in state.legal_actions():
                child[action] = self._visit(state.child(action))
        return number


def takes(config: EnvConfig) -> bool:
    """Return whether this module has the environment: a turn-based game that is small enough.

    Raises:
        MissingPackageError: If OpenSpiel is not installed.
        ConfigError: If `env.id` or `env.kwargs` is wrong.
    """
    return config.kind != "parallel" and _tree(config) is not None


def _tree(config: EnvConfig) -> Tree | None:
    return _walk(config.id, json.dumps(config.kwargs, sort_keys=True, default=str))


@functools.lru_cache(maxsize=16)
def _walk(id: str, kwargs: str) -> Tree | None:
    """Return the tables of a game, built once in a process; None if they would be too large."""
    from hpcmarl.envs.games.openspiel import Play, load

    game = load(id.partition(":")[2], EnvConfig(id=id, kwargs=json.loads(kwargs)))
    if game.get_type().dynamics.name != "SEQUENTIAL" or game.max_game_length() > MAX_LENGTH:
        return None
    try:
        return Tree(Play(game))
    except OverflowError:
        return None


def _required_tree(config: EnvConfig) -> Tree:
    tree = _tree(config)
    assert tree is not None, "only of games that takes() took"
    return tree


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a game. Raises as `takes` does, and ConfigError if policies do not fit."""
    return spec_of(_required_tree(config).play, config, policies)


def spec_of(play: Any, config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a turn-based game.

    Args:
        play: Play of the game (`games/openspiel.py`).
        config: The environment.
        policies: Agents of each policy.

    Raises:
        ConfigError: If `policies` does not fit the game.
    """
    seen, acted = play.observation_space, play.action_space
    agents = [
        AgentView(name, seen, acted, view_observation(seen, name), view_action(acted, name), True)
        for name in play.names
    ]
    return EnvironmentSpec(
        config.id, group_agents(agents, policies), None, turn_based=True, constant_sum=play.constant_sum
    )


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> TreeBatch:
    """Make `slots` games. Raises as `takes` does, and ConfigError if a state is required."""
    refuse_state(config, with_state)
    return TreeBatch(config, spec, slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Build the tables of the game. Raises as `takes` does."""
    _tree(config)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of `slots` games with random, allowed actions.

    It is the baseline for training speed.
    """
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


class TreeBatch(OneShapeBatch):
    """E games with the same tables."""

    def __init__(
        self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool
    ) -> None:
        self._tree = _required_tree(config)
        super().__init__(config, spec, self._tree.play.names, slots, seeds, record=record)
        self._position = np.zeros(slots, np.int64)
        self._seed = np.zeros(slots, np.int64)
        # chance moves so far in the episode
        self._drawn = np.zeros(slots, np.int64)

    def _begin_games(self, rows: IntArray) -> None:
        seed, first = self._seeds.seed, self._seeds.first_slot
        self._seed[rows] = [
            episode_seed(seed, first + row, index)
            for row, index in zip(rows.tolist(), self.episode_index[rows].tolist(), strict=True)
        ]
        self._drawn[rows] = 0
        self._position[rows] = 0
        self._move_chance(rows)

    def _move_chance(self, rows: IntArray) -> None:
        """Make chance moves until a player has the turn or the game is over."""
        tree = self._tree
        while (waiting := rows[tree.turn[self._position[rows]] == CHANCE]).size:
            place = tree.place[self._position[waiting]]
            drawn = uniform(self._seed[waiting], self._drawn[waiting])
            self._position[waiting] = tree.after[place, (tree.ends[place] <= drawn[:, None]).sum(1)]
            self._drawn[waiting] += 1
            rows = waiting

    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        tree, before = self._tree, self._position[rows]
        players = tree.turn[before]
        chosen = actions[np.arange(len(rows)), players]
        after = tree.child[tree.place[before], chosen]
        self._forbid(rows, players, chosen, after < 0)
        self._position[rows] = after
        self._move_chance(rows)
        now = self._position[rows]
        return tree.returns[now] - tree.returns[before], tree.turn[now] == OVER

    def _seen(self, rows: IntArray) -> FloatArray:
        seen: FloatArray = self._tree.seen[self._tree.place[self._position[rows]]]
        return seen

    def _acting(self, rows: IntArray) -> BoolArray:
        acting: BoolArray = self._tree.turn[self._position[rows]][:, None] == np.arange(len(self._players))
        return acting

    def _allowed(self, rows: IntArray) -> BoolArray:
        allowed: BoolArray = self._tree.allowed[self._tree.place[self._position[rows]]]
        return allowed[:, None] | ~self._acting(rows)[..., None]

    def _save_games(self) -> dict[str, Array]:
        return {"position": self._position.copy(), "drawn": self._drawn.copy()}

    def _restore_games(self, state: Mapping[str, Any]) -> None:
        self._position[:], self._drawn[:] = state["position"], state["drawn"]
