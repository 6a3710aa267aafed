"""JaxMARL's SMAX as pure functions over a batch of games. Only this file and draws.py import JAX.

A game is a function of its seed and its actions. Step k of an episode (0 is the reset) draws from
fold_in(PRNGKey(seed), k), so no random state is stored. One compiled call takes a step of all games and
begins the next episode of each game that ended. JaxMARL's automatic reset is not used, because it hides the
last observations.

Source:
    arXiv 2311.10090.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxmarl.environments.smax import HeuristicEnemySMAX
from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

from hpcmarl.envs.smax.draws import key_of
from hpcmarl.types import Array

# -O3 takes at least half as long again to compile and saves a tenth of a step. Each rank has one core.
COMPILER: dict[str, str | bool] = {"xla_backend_optimization_level": "1", "xla_cpu_multi_thread_eigen": False}
# Disable the library for sums. SMAX sums over a few units, and there it takes many times as long as a loop.
PLAIN_SUMS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
ONGOING, TERMINATED, TRUNCATED = 0, 1, 2
# JaxMARL's state of one game. The arrays of E games have an additional first axis.
Tree = Any


def map_names() -> list[str]:
    """Return the maps that JaxMARL knows, including those that a user registered."""
    return list(MAP_NAME_TO_SCENARIO)


class Game:
    """Rules of one map, not compiled.

    Args:
        name: Name of the map.
        options: Arguments of HeuristicEnemySMAX, which raises if they do not fit.

    Attributes:
        agents: Names of the N allied units.
        discrete: Whether actions are discrete.
        actions: Number of discrete actions; 0: an action is four numbers in [0, 1].
        observation_size: Number F of elements of an observation.
        state_size: Number S of elements of the state.
        max_steps: Steps in an episode.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        arrays = {key: jnp.asarray(value) if _is_table(value) else value for key, value in options.items()}
        make: Any = HeuristicEnemySMAX
        self.rules = make(scenario=MAP_NAME_TO_SCENARIO[name], **arrays)
        self.agents: list[str] = list(self.rules.agents)
        self.discrete = self.rules.action_type == "discrete"
        self.actions = int(self.rules.num_ally_actions) if self.discrete else 0
        self.observation_size = int(self.rules.obs_size)
        self.state_size = int(self.rules.state_size)
        self.max_steps = int(self.rules.max_steps)

    # ---- functions of one game

    def begin(self, seed: Any) -> Tree:
        """Return the state at the beginning of the episode with this seed."""
        return self.rules.reset(jax.random.fold_in(key_of(seed), 0))[1]

    def play(self, state: Tree, actions: Any, seed: Any) -> tuple[Tree, Any]:
        """Return the state after a step, and the rewards [N]."""
        key = jax.random.fold_in(key_of(seed), state.state.step + 1)
        chosen = {agent: actions[number] for number, agent in enumerate(self.agents)}
        _, state, rewards, _, _ = self.rules.step_env(key, state, chosen)
        return state, jnp.stack([rewards[agent] for agent in self.agents])

    def look(self, state: Tree) -> dict[str, Any]:
        """Return the observations of a state.

        Returns:
            obs [N, F]; alive [N]; state [S], scaled like observations; for discrete actions also action_mask
            [N, A].
        """
        seen = self.rules.get_obs(state)
        shown = {
            "obs": jnp.stack([seen[agent] for agent in self.agents]),
            "alive": state.state.unit_alive[: len(self.agents)],
        }
        shown["state"] = self._scaled(self.rules.get_world_state(state))
        if self.discrete:
            allowed = self.rules.get_avail_actions(state)
            # The actions of a dead unit have no effect, so all of them are allowed.
            shown["action_mask"] = (
                jnp.stack([allowed[agent] for agent in self.agents]).astype(bool) | ~shown["alive"][:, None]
            )
        return shown

    def _scaled(self, world: Any) -> Any:
        """Return JaxMARL's state [S] in the units of its observations.

        Positions are shares of the map's size, cooldowns lie between 0 (ready) and 1, and types between 0 and
        1. JaxMARL's own values go from -10 (an expired cooldown) to 32 (a position). With those, mixers and
        critics would begin with values far larger than any return.
        """
        rules = self.rules
        units, types = rules.num_allies + rules.num_enemies, rules.unit_type_bits
        rows = world[: units * len(rules.own_features)].reshape(units, -1)
        cooldowns = rows[:, 4:] @ rules.unit_type_weapon_cooldowns
        places = rows[:, 1:3] / jnp.array([rules.map_width, rules.map_height])
        # A dead unit has no type.
        waits = jnp.clip(rows[:, 3] / jnp.where(cooldowns > 0, cooldowns, 1.0), 0.0, 1.0)
        features = jnp.concatenate([rows[:, :1], places, waits[:, None], rows[:, 4:]], -1)
        teams, kinds = jnp.split(world[rows.size :], 2)
        return jnp.concatenate([features.reshape(-1), teams, kinds / max(1, types - 1)])

    def judge(self, state: Tree, limit: Any) -> tuple[Any, Any]:
        """Return the end of the step and whether the battle is won.

        Returns:
            ONGOING, TERMINATED (all units of a side are dead) or TRUNCATED (time limit); True for a win.
        """
        units = state.state.unit_alive
        allies, enemies = units[: len(self.agents)].any(), units[len(self.agents) :].any()
        late = jnp.where(state.state.step >= limit, TRUNCATED, ONGOING)
        return jnp.where(allies & enemies, late, TERMINATED).astype(jnp.uint8), allies & ~enemies


class Games:
    """E games side by side, compiled and without state.

    The first compilation of a kind takes five to ten seconds on one core.
    """

    def __init__(self, game: Game, slots: int) -> None:
        self.game = game
        seeds = jnp.zeros(slots, jnp.uint32)
        shape = (slots, len(game.agents)) if game.discrete else (slots, len(game.agents), 4)
        actions = jnp.zeros(shape, jnp.int32 if game.discrete else jnp.float32)
        self.blank: Tree = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(jax.vmap(game.begin), seeds)
        )
        self._show = _compile(jax.jit(self._show_games).lower(self.blank, seeds, seeds.astype(bool)))
        self._advance = _compile(
            jax.jit(self._advance_games).lower(self.blank, actions, seeds, seeds, jnp.int32(0))
        )

    def _restart_games(self, states: Tree, seeds: Any, which: Any) -> Tree:
        return _choose(which, jax.vmap(self.game.begin)(seeds), states)

    def _show_games(self, states: Tree, seeds: Any, which: Any) -> tuple[Tree, dict[str, Any]]:
        states = self._restart_games(states, seeds, which)
        return states, jax.vmap(self.game.look)(states)

    def _advance_games(
        self, states: Tree, actions: Any, seeds: Any, following: Any, limit: Any
    ) -> tuple[Tree, Tree, dict[str, Any], dict[str, Any]]:
        game = self.game
        last, rewards = jax.vmap(game.play)(states, actions, seeds)
        ends, wins = jax.vmap(lambda state: game.judge(state, limit))(last)
        over = ends != ONGOING
        coming = jax.lax.cond(over.any(), lambda: self._restart_games(last, following, over), lambda: last)
        survive = last.state.unit_alive[:, : len(game.agents)]
        return (
            coming,
            last,
            {"reward": rewards, "end": ends, "win": wins, "survive": survive},
            jax.vmap(game.look)(coming),
        )

    def restart(self, states: Tree, seeds: Array, which: Array) -> tuple[Tree, dict[str, Array]]:
        """Begin new episodes in some of the games.

        Args:
            states: States of all games.
            seeds: Seed of the episode in each game, uint32 [E].
            which: Games that begin a new episode, bool [E].

        Returns:
            The states, and the observations of all games. See `Game.look`; the games are the first axis.
        """
        states, shown = self._show(states, seeds, which)
        return states, _numpy(shown)

    def advance(
        self, states: Tree, actions: Array, seeds: Array, following: Array, limit: np.int32
    ) -> tuple[Tree, Tree, dict[str, Array], dict[str, Array]]:
        """Take one step of all games.

        Games that ended show the observations of their next episode.

        Args:
            states: States of all games.
            actions: int32 [E, N] or float32 [E, N, 4].
            seeds: Seeds of the running episodes, [E].
            following: Seeds of the episodes that follow an end, [E].
            limit: Number of steps after which an undecided game is truncated.

        Returns:
            The states for the next step; the states before any new episode; the results; the next
            observations. The results are reward [E, N], end [E] uint8 (see `types.Outcome.episode_end`), win
            [E] and survive [E, N].
        """
        coming, last, result, shown = self._advance(states, actions, seeds, following, limit)
        return coming, last, _numpy(result), _numpy(shown)


@lru_cache(maxsize=16)
def compiled(game: Game, slots: int) -> Games:
    """Return compiled games, made once in a process.

    The cache helps evaluations, which make their environments again each time.
    """
    return Games(game, slots)


def arrays_of(states: Tree) -> dict[str, Array]:
    """Return the arrays of a state by name, as copies that any file format can hold."""
    return {name: np.array(leaf) for name, leaf in _named(states)}


def from_arrays(arrays: Mapping[str, Array], like: Tree) -> Tree:
    """Return the state that `arrays_of` was made from.

    Args:
        arrays: Arrays by name.
        like: State of the same games, for structure, shapes and types.

    Raises:
        KeyError: If a name is missing.
        ValueError: If an array has another shape or type.
    """
    leaves = []
    for name, leaf in _named(like):
        array = np.asarray(arrays[name])
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {leaf.dtype} {leaf.shape}")
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def random_steps(game: Game, slots: int, generator: np.random.Generator, drawn: int) -> Any:
    """Return a function that takes one step of `slots` games with JaxMARL's own vmapped step().

    Args:
        game: Rules of the map.
        slots: Number of games.
        generator: Random generator of the actions.
        drawn: Number of steps of actions that are drawn in advance.
    """
    keys = [
        jax.random.split(jax.random.PRNGKey(int(seed)), slots)
        for seed in generator.integers(2**31, size=drawn)
    ]
    chosen: list[Array]
    if game.discrete:
        chosen = [
            generator.integers(game.actions, size=(len(game.agents), slots)).astype(np.int32)
            for _ in range(drawn)
        ]
    else:
        chosen = [generator.random((len(game.agents), slots, 4), np.float32) for _ in range(drawn)]
    actions = [dict(zip(game.agents, jnp.asarray(rows), strict=True)) for rows in chosen]
    _, states = jax.jit(jax.vmap(game.rules.reset))(keys[0])
    step: Any = jax.jit(jax.vmap(game.rules.step)).lower(keys[0], states, actions[0]).compile()
    count = 0

    def take() -> None:
        nonlocal states, count
        _, states, rewards, _, _ = step(keys[count % drawn], states, actions[count % drawn])
        rewards[game.agents[0]].block_until_ready()
        count += 1

    return take


def _compile(lowered: Any) -> Any:
    """Compile a lowered function.

    Versions of JAX without the library that PLAIN_SUMS disables refuse that option. They compile without it.
    """
    try:
        return lowered.compile(COMPILER | PLAIN_SUMS)
    except jax.errors.JaxRuntimeError as error:
        if next(iter(PLAIN_SUMS)) not in str(error):
            raise
        return lowered.compile(COMPILER)


def _choose(which: Any, chosen: Tree, otherwise: Tree) -> Tree:
    """Return a state with the games `which` from `chosen` and the other games from `otherwise`."""
    return jax.tree.map(
        lambda one, other: jnp.where(which.reshape(-1, *[1] * (one.ndim - 1)), one, other), chosen, otherwise
    )


def _numpy(arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays as numpy arrays. On the CPU they are views; read them before the next call."""
    return {name: np.asarray(array) for name, array in arrays.items()}


def _named(states: Tree) -> list[tuple[str, Any]]:
    """Return (name, array) of each leaf of a state, in the order of the tree.

    Examples of names are state_unit_health and enemy_policy_state_default_target.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(states)
    return [("_".join(str(getattr(part, "name", part)) for part in path), leaf) for path, leaf in paths]


def _is_table(value: Any) -> bool:
    """Return whether a value is a list of numbers. The rules index such lists with arrays."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(item, int | float) for item in value)
    )
