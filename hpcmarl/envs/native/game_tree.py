"""OpenSpiel's small games of turns as natively batched environments: the whole game as tables, all slots
stepped by looking up.

Made through the package's make_environment for `env.id: openspiel:GAME` where the game has at most
MAX_POSITIONS positions; larger ones are driven one by one (games/openspiel.py), with the same seats, views,
rewards and chance moves. Must not know networks, ranks or files.
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
from hpcmarl.envs.native.base import NativeBatch, random_steps, refuse_state
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

MAX_POSITIONS = 20_000  # Leduc poker has 9,457
MAX_NUMBERS = 10_000_000  # float32 in the table of what players see: 40 MB
MAX_LENGTH = 200  # moves of a game: the tree is walked by recursion
CHANCE, OVER = -1, -2  # whose turn it is, where it is nobody's


class Tree:
    """Every position of a game, n of them, numbered; 0 is the first. Raises OverflowError where there are too
    many.

    turn [n]: whose turn it is; place [n]: the row of a player's turn in child, seen and allowed, and of
    chance's in ends and after. child [d, A]: the position after an action, -1 where that is forbidden; seen
    [d, P, *shape]; allowed [d, A]; returns [n, P]. ends [c, K]: the probabilities of chance moves added up as
    games/openspiel.py does, infinity from the last on; after [c, K] the positions.
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
        """Enter a position and all that follow it; its number."""
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
    """Games of turns that are small enough. Raises MissingPackageError and ConfigError as games/openspiel.py
    does."""
    return config.kind != "parallel" and _tree(config) is not None


def _tree(config: EnvConfig) -> Tree | None:
    return _walk(config.id, json.dumps(config.kwargs, sort_keys=True, default=str))


@functools.lru_cache(maxsize=16)
def _walk(id: str, kwargs: str) -> Tree | None:
    """The tables of a game, made once in a process; None where they would be too large."""
    from hpcmarl.envs.games.openspiel import Play, load

    game = load(id.partition(":")[2], EnvConfig(id=id, kwargs=json.loads(kwargs)))
    if game.get_type().dynamics.name != "SEQUENTIAL" or game.max_game_length() > MAX_LENGTH:
        return None
    try:
        return Tree(Play(game))
    except OverflowError:
        return None


def _found(config: EnvConfig) -> Tree:
    tree = _tree(config)
    assert tree is not None, "only of games that takes() took"
    return tree


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game. Raises as takes() does."""
    return spec_of(_found(config).play, config, policies)


def spec_of(play: Any, config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game of turns that is played by `play` (games/openspiel.py). Raises ConfigError where
    policies do not fit."""
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
    """`slots` games. Raises as takes() does, and where a state is wanted."""
    refuse_state(config, with_state)
    return TreeBatch(config, spec, slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Walk the game. Raises as takes() does."""
    _tree(config)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of `slots` games with random, allowed actions: what training is measured
    against."""
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


class TreeBatch(NativeBatch):
    """E games of one tree."""

    def __init__(
        self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool
    ) -> None:
        self._tree = _found(config)
        super().__init__(config, spec, self._tree.play.names, slots, seeds, record=record)
        self._position = np.zeros(slots, np.int64)
        self._seed = np.zeros(slots, np.int64)
        self._drawn = np.zeros(slots, np.int64)  # chance moves in the episode

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
        """Make chance moves until it is a player's turn, or over."""
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

    def _standing(self) -> dict[str, Array]:
        return {"position": self._position.copy(), "drawn": self._drawn.copy()}

    def _stand(self, state: Mapping[str, Any]) -> None:
        self._position[:], self._drawn[:] = state["position"], state["drawn"]
