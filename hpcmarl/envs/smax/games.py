"""JaxMARL's SMAX as pure functions over a batch of games: with draws.py, all that imports JAX. arXiv
2311.10090.

Called by env.py, which calls load() before it imports this. Must not know slots, policies, episode records
or ranks.

A game is a function of its seed and its actions: step k of an episode (0 is the reset) draws from
fold_in(PRNGKey(seed), k), so no random state travels. One compiled call takes a step of all games and begins
the next episode where one has ended; JaxMARL's own automatic reset is not used, since it hides the last
observations.
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

# -O1: -O3 compiles for half as long again, or more, and gains a tenth of a step; one core a rank
COMPILER: dict[str, str | bool] = {"xla_backend_optimization_level": "1", "xla_cpu_multi_thread_eigen": False}
# no library for sums: one over a few units, which all of SMAX's are, takes many times what a plain loop takes
PLAIN_SUMS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
ONGOING, TERMINATED, TRUNCATED = 0, 1, 2
Tree = Any  # JaxMARL's state of one game, or of E games: its arrays with an axis more


def map_names() -> list[str]:
    """The maps that JaxMARL knows, also those registered by a user."""
    return list(MAP_NAME_TO_SCENARIO)


class Game:
    """One map's rules, nothing compiled. Raises what HeuristicEnemySMAX raises for arguments that do not
    fit."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        arrays = {key: jnp.asarray(value) if _is_table(value) else value for key, value in options.items()}
        make: Any = HeuristicEnemySMAX
        self.rules = make(scenario=MAP_NAME_TO_SCENARIO[name], **arrays)
        self.agents: list[str] = list(self.rules.agents)
        self.discrete = self.rules.action_type == "discrete"
        self.actions = int(self.rules.num_ally_actions) if self.discrete else 0  # 0: four numbers in [0, 1]
        self.observation_size = int(self.rules.obs_size)
        self.state_size = int(self.rules.state_size)
        self.max_steps = int(self.rules.max_steps)

    # ---- of one game

    def begin(self, seed: Any) -> Tree:
        """The state at the beginning of the episode with this seed."""
        return self.rules.reset(jax.random.fold_in(key_of(seed), 0))[1]

    def play(self, state: Tree, actions: Any, seed: Any) -> tuple[Tree, Any]:
        """The state after a step, and the rewards [N]."""
        key = jax.random.fold_in(key_of(seed), state.state.step + 1)
        chosen = {agent: actions[number] for number, agent in enumerate(self.agents)}
        _, state, rewards, _, _ = self.rules.step_env(key, state, chosen)
        return state, jnp.stack([rewards[agent] for agent in self.agents])

    def look(self, state: Tree) -> dict[str, Any]:
        """obs [N, F], alive [N]; action_mask [N, A] where actions are discrete; state [S], scaled as
        observations are."""
        seen = self.rules.get_obs(state)
        shown = {
            "obs": jnp.stack([seen[agent] for agent in self.agents]),
            "alive": state.state.unit_alive[: len(self.agents)],
        }
        shown["state"] = self._scaled(self.rules.get_world_state(state))
        if self.discrete:
            allowed = self.rules.get_avail_actions(state)
            # who is dead may do anything: nobody listens
            shown["action_mask"] = (
                jnp.stack([allowed[agent] for agent in self.agents]).astype(bool) | ~shown["alive"][:, None]
            )
        return shown

    def _scaled(self, world: Any) -> Any:
        """JaxMARL's state [S] in the units of its observations: places in shares of the map, cooldowns from 0
        (ready) to 1, types from 0 to 1.

        Its own goes from -10 (a cooldown long past) to 32 (a place), and mixers and critics would begin with
        values far beyond any return."""
        rules = self.rules
        units, types = rules.num_allies + rules.num_enemies, rules.unit_type_bits
        rows = world[: units * len(rules.own_features)].reshape(units, -1)
        cooldowns = rows[:, 4:] @ rules.unit_type_weapon_cooldowns
        places = rows[:, 1:3] / jnp.array([rules.map_width, rules.map_height])
        # who is dead has no type
        waits = jnp.clip(rows[:, 3] / jnp.where(cooldowns > 0, cooldowns, 1.0), 0.0, 1.0)
        features = jnp.concatenate([rows[:, :1], places, waits[:, None], rows[:, 4:]], -1)
        teams, kinds = jnp.split(world[rows.size :], 2)
        return jnp.concatenate([features.reshape(-1), teams, kinds / max(1, types - 1)])

    def judge(self, state: Tree, limit: Any) -> tuple[Any, Any]:
        """How the step ended (0, 1, 2: no end, a side is dead, out of time), and whether the battle is
        won."""
        units = state.state.unit_alive
        allies, enemies = units[: len(self.agents)].any(), units[len(self.agents) :].any()
        late = jnp.where(state.state.step >= limit, TRUNCATED, ONGOING)
        return jnp.where(allies & enemies, late, TERMINATED).astype(jnp.uint8), allies & ~enemies


class Games:
    """E games side by side, compiled: that takes the first of a kind five to ten seconds of one core. Without
    a state of its own."""

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
        """The games `which` [E] bool at the beginning of the episodes with `seeds` [E] uint32, the others as
        they are; and what all of them show: see Game.look, with the games as the first axis."""
        states, shown = self._show(states, seeds, which)
        return states, _numpy(shown)

    def advance(
        self, states: Tree, actions: Array, seeds: Array, following: Array, limit: np.int32
    ) -> tuple[Tree, Tree, dict[str, Array], dict[str, Array]]:
        """One step of all games: (states that go on, states as they were left, what came of it, what is seen
        next).

        actions int32 [E, N] or float32 [E, N, 4]; seeds [E] of the running episodes and of those that follow
        an end; `limit`: steps after which a game that nobody has won is cut off. What came of it: reward [E,
        N], end [E] uint8 (types.Outcome.episode_end), win [E], survive [E, N]. The games that ended show
        their next episode.
        """
        coming, last, result, shown = self._advance(states, actions, seeds, following, limit)
        return coming, last, _numpy(result), _numpy(shown)


@lru_cache(maxsize=16)
def compiled(game: Game, slots: int) -> Games:
    """Games, made once in a process: an evaluation makes its environments anew each time."""
    return Games(game, slots)


def arrays_of(states: Tree) -> dict[str, Array]:
    """The arrays of a state by name: copies that any file can hold."""
    return {name: np.array(leaf) for name, leaf in _named(states)}


def from_arrays(arrays: Mapping[str, Array], like: Tree) -> Tree:
    """The inverse of arrays_of, for games `like` those. Raises KeyError for a name that is missing,
    ValueError for another shape or type."""
    leaves = []
    for name, leaf in _named(like):
        array = np.asarray(arrays[name])
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {leaf.dtype} {leaf.shape}")
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def random_steps(game: Game, slots: int, generator: np.random.Generator, drawn: int) -> Any:
    """JaxMARL alone: a function that takes one step of `slots` games by its own vmapped step(), with actions
    drawn ahead."""
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
    """The function, compiled; also by versions of JAX that do not have the library that PLAIN_SUMS turns
    off."""
    try:
        return lowered.compile(COMPILER | PLAIN_SUMS)
    except jax.errors.JaxRuntimeError as error:
        if next(iter(PLAIN_SUMS)) not in str(error):
            raise
        return lowered.compile(COMPILER)


def _choose(which: Any, chosen: Tree, otherwise: Tree) -> Tree:
    """The games `which` of the first, the others of the second."""
    return jax.tree.map(
        lambda one, other: jnp.where(which.reshape(-1, *[1] * (one.ndim - 1)), one, other), chosen, otherwise
    )


def _numpy(arrays: Mapping[str, Any]) -> dict[str, Array]:
    """On the CPU views, not copies: to be read before the next call."""
    return {name: np.asarray(array) for name, array in arrays.items()}


def _named(states: Tree) -> list[tuple[str, Any]]:
    """(name, array) in the order of the tree's leaves: state_unit_health, enemy_policy_state_default_target,
    …"""
    paths, _ = jax.tree_util.tree_flatten_with_path(states)
    return [("_".join(str(getattr(part, "name", part)) for part in path), leaf) for path, leaf in paths]


def _is_table(value: Any) -> bool:
    """A list of numbers, such as unit_type_health, which the rules index with arrays."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(item, int | float) for item in value)
    )
