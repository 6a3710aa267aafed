"""SMAX, the StarCraft-like battles of JaxMARL, as a natively batched environment: `env.id: smax:3m`.

One compiled call steps all slots, on one core in each process. Dead agents also receive the team's reward, as
in JaxMARL ("noble sacrifice"). Games cannot raise, hang or be interrupted: `env.step_seconds` and
`env.restarts` do not apply. Non-finite numbers always stop the run.

Source:
    arXiv 2311.10090.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import BatchedEnvironment, Seeds, episode_seed
from hpcmarl.envs.drawing import Scene
from hpcmarl.envs.grouping import AgentView, group_agents, teams_of
from hpcmarl.envs.nonfinite import find_nonfinite
from hpcmarl.envs.slot import TERMINATED, TRUNCATED, Views
from hpcmarl.envs.smax.maps import find_map, load
from hpcmarl.envs.smax.scene import draw_battle
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, Episode, FinalFrame, Frame, IntArray, Outcome

# steps of random actions that are drawn in advance for bare stepping
DRAWN = 64


def takes(config: EnvConfig) -> bool:
    """Return True: every id that begins with `smax:` belongs to this module."""
    return True


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a map.

    Args:
        config: The environment.
        policies: Agents of each policy.

    Raises:
        MissingPackageError: If JaxMARL is not installed.
        ConfigError: If `env` or `policies` does not fit the map.
    """
    game = find_map(config)
    seen = spaces.Box(-1.0, 1.0, (game.observation_size,), np.float32)
    acted: Any = spaces.Discrete(game.actions) if game.discrete else spaces.Box(0.0, 1.0, (4,), np.float32)
    agents = [
        AgentView(name, seen, acted, view_observation(seen, name), view_action(acted, name), game.discrete)
        for name in game.agents
    ]
    groups = group_agents(agents, policies)
    return EnvironmentSpec(
        config.id,
        groups,
        game.state_size,
        turn_based=False,
        teams=teams_of(groups, config.common_reward is not False),
    )


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> SmaxBatch:
    """Make `slots` games and compile them, which takes some seconds. Raises as `describe` does."""
    return SmaxBatch(config, spec, slots, seeds, record=record, with_state=with_state)


def prepare(config: EnvConfig, slots: int) -> None:
    """Compile `slots` games, so that `make()` is fast. Raises as `describe` does."""
    load(config.id).compiled(find_map(config), slots)


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Any:
    """Return a function that takes one step of `slots` games with JaxMARL's own step() and random actions.

    It is the baseline for training speed.
    """
    return load(config.id).random_steps(find_map(config), slots, np.random.default_rng(seeds.seed), DRAWN)


class SmaxBatch(BatchedEnvironment):
    """E games of one map. `counts` stay 0, because no game fails."""

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
        self._jax = load(config.id)
        game = find_map(config)
        self.spec, self.slots = spec, slots
        self.counts = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)
        self.episode_index = np.full(slots, -1, np.int64)
        self.episode_step = np.zeros(slots, np.int64)
        self._seeds, self._record, self._with_state = seeds, record, with_state
        self._discrete = game.discrete
        self._names = [policy.name for policy in spec.policies]
        self._columns = [_columns(policy.agents, game.agents) for policy in spec.policies]
        self._resting = np.zeros(slots, np.bool_)
        self.rests_next = np.zeros(slots, np.bool_)
        self._limit = np.int32(
            game.max_steps if config.max_steps is None else min(game.max_steps, config.max_steps)
        )
        self._games = self._jax.compiled(game, slots)
        self._states = self._games.blank
        self._alive = np.zeros((slots, len(game.agents)), np.bool_)
        self._returns = np.zeros((slots, len(game.agents)))
        self._actions = np.zeros(
            (slots, len(game.agents), *spec.policies[0].action.shape),
            np.int32 if game.discrete else np.float32,
        )
        # seeds of the running episodes and of the next ones
        self._current = np.zeros(slots, np.uint32)
        self._following = np.zeros(slots, np.uint32)
        self._everywhere = np.arange(slots)
        self._look_ahead(self._everywhere)

    def reset(self, frame: Frame) -> None:
        self.restart_slots(range(self.slots), frame)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        which = np.zeros(self.slots, np.bool_)
        which[list(slots)] = True
        self._resting[which] = False
        self._begin(np.flatnonzero(which))
        self._states, shown = self._games.restart(self._states, self._current, which)
        views = Views(self._names, frame)
        self._show(shown, views, which)
        views.episode_start[which] = True
        self._check_numbers(None, views)

    def rest_slots(self, slots: Sequence[int]) -> None:
        self._resting[list(slots)] = True

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        views = Views(self._names, frame, outcome)
        for name, columns in zip(self._names, self._columns, strict=True):
            self._actions[:, columns] = actions[name] if self._discrete else np.clip(actions[name], 0.0, 1.0)
        acted, resting = self._alive, self._resting.copy()
        self._states, last, result, shown = self._games.advance(
            self._states, self._actions, self._current, self._following, self._limit
        )
        ends = result["end"]
        if resting.any():
            ends, acted = np.where(resting, 0, ends), acted & ~resting[:, None]
        over = ends != 0
        self.episode_step += 1
        self._write_outcome(result, ends, acted, views, outcome)
        self._show(shown, views, None)
        views.episode_start[...] = over
        if over.any():
            self._finish(np.flatnonzero(over), last, result, outcome)
        self._rest(outcome, views, resting)
        self._check_numbers(outcome, views)

    def _write_outcome(
        self, result: Mapping[str, Array], ends: Array, acted: Array, views: Views, outcome: Outcome
    ) -> None:
        """Write the rewards and flags of the step.

        Args:
            result: Results of the step, from `Games.advance()`.
            ends: End of each episode: ONGOING (0), TERMINATED or TRUNCATED, [E].
            acted: Whether each agent lived before the step, [E, N].
            views: Arrays of the step.
            outcome: Overwritten.
        """
        outcome.finals.clear()
        outcome.episodes.clear()
        outcome.episode_end[...] = ends
        self._returns += result["reward"]
        survived = acted & result["survive"]
        truncated = survived & (ends == TRUNCATED)[:, None]
        terminated = acted & ~survived | survived & (ends == TERMINATED)[:, None]
        for number, (name, columns) in enumerate(zip(self._names, self._columns, strict=True)):
            outcome.policies[name].reward[...] = result["reward"][:, columns]
            views.terminated[number][...] = terminated[:, columns]
            views.truncated[number][...] = truncated[:, columns]

    def _show(self, shown: Mapping[str, Array], views: Views, which: Array | None) -> None:
        """Write the observations before the next step.

        Args:
            shown: Observations of all games, from `Game.look()`.
            views: Arrays to write.
            which: Rows to write, bool [E]; None: all.
        """
        rows = slice(None) if which is None else which
        self._alive = np.array(shown["alive"])
        for number, columns in enumerate(self._columns):
            views.obs[number][rows] = shown["obs"][rows][:, columns]
            views.alive[number][rows] = shown["alive"][rows][:, columns]
            if (mask := views.masks[number]) is not None:
                mask[rows] = shown["action_mask"][rows][:, columns]
        if views.state is not None:
            views.state[rows] = shown["state"][rows]

    def _finish(self, rows: IntArray, last: Any, result: Mapping[str, Array], outcome: Outcome) -> None:
        """Record the episodes that ended in these rows, and begin the next ones.

        Args:
            rows: Slots with an episode that ended.
            last: States at the end of those episodes.
            result: Results of the step, from `Games.advance()`.
            outcome: Its `finals` and `episodes` are extended.
        """
        cut = [row for row in rows.tolist() if outcome.episode_end[row] == TRUNCATED]
        if cut:
            seen = self._look(last)
            for row in cut:
                obs = {
                    name: np.array(seen["obs"][row][columns])
                    for name, columns in zip(self._names, self._columns, strict=True)
                }
                outcome.finals.append(
                    FinalFrame(row, obs, np.array(seen["state"][row]) if self._with_state else None)
                )
        if self.final_drawings is not None:
            drawn = {row: draw_battle(self._games.game, last, row) for row in rows.tolist()}
            self.final_drawings.update(drawn)
        each = self._returns[rows]
        by_policy = [each[:, columns].mean(1).tolist() for columns in self._columns]
        finished = zip(
            rows.tolist(),
            self.episode_index[rows].tolist(),
            self.episode_step[rows].tolist(),
            (each.sum(1) / each.shape[1]).tolist(),
            zip(*by_policy, strict=True),
            (outcome.episode_end[rows] == TERMINATED).tolist(),
            result["win"][rows].tolist(),
            strict=True,
        )
        for row, index, length, mean, returns, terminated, won in finished:
            returned = dict(zip(self._names, returns, strict=True))
            outcome.episodes.append(
                Episode(row, index, length, mean, returned, terminated, {"win": float(won)})
            )
        self._begin(rows)
        if self.rests_next.any():
            asleep = rows[self.rests_next[rows]]
            self._resting[asleep] = True
            self.episode_index[asleep] -= 1  # restart_slots begins the next episode
            self._look_ahead(asleep)

    def drawing(self, slot: int) -> Scene:
        """Return the units of a battle, with health, range and attacks of the last step."""
        return draw_battle(self._games.game, self._states, slot)

    def _look(self, states: Any) -> dict[str, Array]:
        shown: dict[str, Array] = self._games.restart(states, self._current, np.zeros(self.slots, np.bool_))[
            1
        ]
        return shown

    def _begin(self, rows: IntArray) -> None:
        """Set the counters and seeds of the next episode in these slots."""
        self.episode_index[rows] += 1
        self.episode_step[rows] = 0
        self._returns[rows] = 0.0
        self._current[rows] = self._following[rows]
        self._look_ahead(rows)

    def _look_ahead(self, rows: IntArray) -> None:
        """Set the seeds of these slots' next episodes, which the next step may need."""
        seed, first = self._seeds.seed, self._seeds.first_slot
        for row, index in zip(rows.tolist(), self.episode_index[rows].tolist(), strict=True):
            self._following[row] = episode_seed(seed, first + row, index + 1)

    def _rest(self, outcome: Outcome, views: Views, rested: BoolArray) -> None:
        """Clear resting slots: no agent acts, observations and rewards are zero.

        Args:
            outcome: Results of the step.
            views: Arrays of the step.
            rested: Slots that rested in the step. Those that rest from now on keep their last rewards.
        """
        rows = self._resting
        if not rows.any():
            return
        for number, name in enumerate(self._names):
            views.obs[number][rows] = 0.0
            views.alive[number][rows] = False
            outcome.policies[name].reward[rested] = 0.0
            if (mask := views.masks[number]) is not None:
                mask[rows] = True

    def _check_numbers(self, outcome: Outcome | None, views: Views) -> None:
        for row, agent, what in find_nonfinite(self.spec, outcome, views):
            slot = self._seeds.first_slot + row
            where = (
                f"{self.spec.id} in slot {slot} (seed {self._current[row]}, episode "
                f"{self.episode_index[row]}, step {self.episode_step[row]})"
            )
            raise EnvironmentFailure(
                f"environment {where}: agent {agent} {what}; JaxMARL's defaults give finite numbers, so "
                "check env.kwargs"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`.

        Returns:
            restarts: always 0; episode: [E], -1 before the first. With `record` also the state of the games,
            their steps and returns.
        """
        state: dict[str, Any] = {"restarts": 0, "episode": self.episode_index.copy()}
        if self._record:
            state["games"] = self._jax.arrays_of(self._states)
            state |= {"step": self.episode_step.copy(), "returns": self._returns.copy()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Restore the games of a recording environment.

        Without a record, or with another number of slots, the next episodes begin.

        Args:
            state: Result of `state_dict()`.
            frame: Observations before the next step; overwritten.

        Raises:
            EnvironmentFailure: If the games come from another map or another version of JaxMARL.
        """
        saved = np.asarray(state["episode"], np.int64)
        same = saved.shape == (self.slots,)
        self.episode_index[:] = saved if same else saved.max(initial=-1)
        self._look_ahead(self._everywhere)
        if not (self._record and same and "games" in state) or (saved < 0).any():
            self.reset(frame)
            return
        try:
            self._states = self._jax.from_arrays(state["games"], self._games.blank)
        except (KeyError, ValueError) as error:
            raise EnvironmentFailure(
                f"environment {self.spec.id}: the saved games do not fit ({error}); resume with the map "
                "and the version of JaxMARL that wrote them"
            ) from error
        self.episode_step[:] = state["step"]
        self._returns[:] = state["returns"]
        for row, index in enumerate(saved.tolist()):
            self._current[row] = episode_seed(self._seeds.seed, self._seeds.first_slot + row, index)
        views = Views(self._names, frame)
        self._show(self._look(self._states), views, None)
        views.episode_start[...] = self.episode_step == 0

    def close(self) -> None:
        self._states = self._games.blank


def _columns(agents: Sequence[str], everyone: Sequence[str]) -> Any:
    """Return an index for a policy's agents among all agents.

    It is a slice, which numpy reads without a copy, if the policy has all agents.
    """
    return (
        slice(None)
        if list(agents) == list(everyone)
        else np.array([everyone.index(agent) for agent in agents])
    )
