"""Matrix games as a natively batched environment: `env.id: matrix:rps`, rounds (and payoffs of one's own) by env.kwargs.

Made through the package's make_environment, called by roles/ through base.BatchedEnvironment. Must not know networks, ranks or files.

player_0 chooses the row, player_1 the column, both at once; an episode is `rounds` rounds, each paid. Observations are float32 [1]: 1, and
in games whose players could not change seats -1 for player_1. With several rounds the last round follows: one-hot, one's own action and
then the other's; zeros before the first. Nothing is random here and nothing can break: env.step_seconds and env.restarts do not apply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import BatchedEnvironment, Seeds, new_frame, new_outcome
from hpcmarl.envs.grouping import AgentView, group_agents
from hpcmarl.envs.matrix_games import MatrixGame, find_game
from hpcmarl.envs.slot import ONGOING, TERMINATED, TRUNCATED
from hpcmarl.envs.spaces import view_action, view_observation
from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, EnvironmentSpec, Episode, FinalFrame, FloatArray, Frame, IntArray, Outcome

PLAYERS = ("player_0", "player_1")
DRAWN = 64  # random actions drawn ahead for bare stepping


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game; players with as many actions as each other share a policy by default. Raises ConfigError."""
    game = find_game(config)
    agents = []
    for name, actions in zip(PLAYERS, game.payoffs.shape[1:], strict=True):
        size = 1 if game.rounds == 1 else 1 + sum(game.payoffs.shape[1:])
        seen, acted = spaces.Box(-1.0, 1.0, (size,), np.float32), spaces.Discrete(actions)
        agents.append(AgentView(name, seen, acted, view_observation(seen, name), view_action(acted, name), False))
    return EnvironmentSpec(config.id, group_agents(agents, policies), None, turn_based=False)


def make(config: EnvConfig, policies: Mapping[str, PolicyConfig], slots: int, seeds: Seeds, *, record: bool, with_state: bool) -> MatrixBatch:
    """`slots` games. Raises ConfigError; there is no state."""
    if with_state:
        raise ConfigError(f"env.id {config.id} has no state(); choose algo.critic: obs or dec, or an environment that has one")
    return MatrixBatch(config, describe(config, policies), slots, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Nothing takes long. Raises ConfigError."""
    find_game(config)


def bare(config: EnvConfig, slots: int, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of `slots` games with random actions: what training is measured against."""
    batch = make(config, {}, slots, seeds, record=False, with_state=False)
    frame, outcome = new_frame(batch.spec, slots), new_outcome(batch.spec, slots)
    generator = np.random.default_rng(seeds.seed)
    drawn = [
        {policy.name: generator.integers(policy.action.sizes[0], size=(slots, len(policy.agents))) for policy in batch.spec.policies}
        for _ in range(DRAWN)
    ]
    batch.reset(frame)
    count = 0

    def take() -> None:
        nonlocal count
        batch.step(drawn[count % DRAWN], outcome, frame)
        count += 1

    return take


def first_sight(game: MatrixGame) -> FloatArray:
    """What the players see before the first round: float32 [2, observation size]."""
    seen = np.zeros((2, 1 if game.rounds == 1 else 1 + sum(game.payoffs.shape[1:])), np.float32)
    seen[:, 0] = (1.0, 1.0 if game.symmetric else -1.0)
    return seen


class MatrixBatch(BatchedEnvironment):
    """E games. `counts` stay 0: no game breaks."""

    def __init__(self, config: EnvConfig, spec: EnvironmentSpec, slots: int, *, record: bool) -> None:
        game = find_game(config)
        self.spec, self.slots = spec, slots
        self.counts = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)
        self.episode_index = np.full(slots, -1, np.int64)
        self.episode_step = np.zeros(slots, np.int64)
        self._payoffs, self._rounds, self._record = game.payoffs, game.rounds, record
        self._limit = config.max_steps
        self._first = first_sight(game)
        seats = {agent: (policy.name, column) for policy in spec.policies for column, agent in enumerate(policy.agents)}
        self._seats = [seats[agent] for agent in PLAYERS]
        self._everywhere = np.arange(slots)
        self._resting = np.zeros(slots, np.bool_)
        self._last = np.zeros((2, slots), np.int64)  # last round's actions, where episode_step > 0
        self._returns = np.zeros((2, slots))

    def reset(self, frame: Frame) -> None:
        self.restart_slots(range(self.slots), frame)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        rows = np.array(list(slots), np.int64)
        self._resting[rows] = False
        self._begin(rows)
        self._show(rows, frame)
        frame.episode_start[rows] = True

    def rest_slots(self, slots: Sequence[int]) -> None:
        self._resting[list(slots)] = True

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        for seat, (name, column) in enumerate(self._seats):
            self._last[seat] = actions[name][:, column]
        rewards = self._payoffs[:, self._last[0], self._last[1]]
        self.episode_step += 1
        over = self.episode_step >= self._rounds
        ends = np.where(over, TERMINATED, ONGOING)
        if self._limit is not None:
            ends[~over & (self.episode_step >= self._limit)] = TRUNCATED
        if self._resting.any():
            ends[self._resting], rewards[:, self._resting] = ONGOING, 0.0
        self._returns += rewards
        outcome.finals.clear()
        outcome.episodes.clear()
        outcome.episode_end[...] = ends
        for seat, (name, column) in enumerate(self._seats):
            told = outcome.policies[name]
            told.reward[:, column] = rewards[seat]
            told.terminated[:, column] = ends == TERMINATED
            told.truncated[:, column] = ends == TRUNCATED
        finished = np.flatnonzero(ends)
        if finished.size:
            self._finish(finished, ends, outcome)
        self._show(self._everywhere, frame)
        frame.episode_start[...] = ends != ONGOING

    def _finish(self, rows: IntArray, ends: Array, outcome: Outcome) -> None:
        """Tell of the episodes that ended in these rows, and begin the next ones."""
        cut = ends == TRUNCATED
        if cut.any():
            seen = self._seen(self._everywhere)
            for row in np.flatnonzero(cut).tolist():
                obs = {policy.name: np.zeros((len(policy.agents), *policy.observation_shape), np.float32) for policy in self.spec.policies}
                for seat, (name, column) in enumerate(self._seats):
                    obs[name][column] = seen[seat][row]
                outcome.finals.append(FinalFrame(row, obs, None))
        own, other = self._returns[:, rows].tolist()
        (first, _), (second, _) = self._seats
        told = zip(rows.tolist(), self.episode_index[rows].tolist(), self.episode_step[rows].tolist(), own, other, cut[rows].tolist(), strict=True)
        for row, index, length, left, right, truncated in told:
            mean = (left + right) / 2
            returns = {first: mean} if first == second else {first: left, second: right}
            outcome.episodes.append(Episode(row, index, length, mean, returns, not truncated))
        self._begin(rows)

    def _begin(self, rows: IntArray) -> None:
        """These slots stand at the beginning of their next episode."""
        self.episode_index[rows] += 1
        self.episode_step[rows] = 0
        self._returns[:, rows] = 0.0

    def _seen(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """What both players see in these rows: float32 [n, observation size] each."""
        shown = [np.repeat(self._first[seat][None], len(rows), 0) for seat in (0, 1)]
        if self._rounds > 1:
            later = np.flatnonzero(self.episode_step[rows] > 0)
            for seat, sizes in ((0, self._payoffs.shape[1]), (1, self._payoffs.shape[2])):
                own, other = self._last[seat, rows[later]], self._last[1 - seat, rows[later]]
                shown[seat][later, 1 + own] = 1.0
                shown[seat][later, 1 + sizes + other] = 1.0
        return shown[0], shown[1]

    def _show(self, rows: IntArray, frame: Frame) -> None:
        """Write what is seen before the next step into these rows; nobody acts and nothing is seen in slots that rest."""
        awake = ~self._resting[rows]
        for seen, (name, column) in zip(self._seen(rows), self._seats, strict=True):
            view = frame.policies[name]
            view.obs[rows, column] = seen * awake[:, None]
            view.alive[rows, column] = awake

    def state_dict(self) -> dict[str, Any]:
        """restarts, episode [E] (-1 before the first); with record also where the games stand."""
        state: dict[str, Any] = {"restarts": 0, "episode": self.episode_index.copy()}
        if self._record:
            state |= {"last": self._last.copy(), "step": self.episode_step.copy(), "returns": self._returns.copy()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Stand where a recording environment stood; without a record, or with another number of slots, begin the next episodes."""
        saved = np.asarray(state["episode"], np.int64)
        same = saved.shape == (self.slots,)
        self.episode_index[:] = saved if same else saved.max(initial=-1)
        if not (self._record and same and "last" in state) or (saved < 0).any():
            self.reset(frame)
            return
        self._last[...], self.episode_step[:], self._returns[...] = state["last"], state["step"], state["returns"]
        self._show(self._everywhere, frame)
        frame.episode_start[...] = self.episode_step == 0

    def close(self) -> None:
        """Nothing is open."""
