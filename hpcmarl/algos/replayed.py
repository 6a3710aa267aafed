"""Common parts of the algorithms that learn from replayed whole episodes and have a target network.

They are the value-based algorithms (q_learning.py), MADDPG and MASAC (action_critic.py).

The replay chooses the episodes (algo.replay, roles/learner/replay_buffer.py). Their age does not enter the
equations. With priorities, each episode has an importance weight. Subclasses define the losses (`_learn`).

A unit is a team (U = 1) or a single agent. Targets of values are returns of each unit:

    R_t = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ]      V, R = 0 after a termination

or n-step returns (maths/n_step.py). After a truncation, V is the value of the last observation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpcmarl.algos.base import Algorithm, build_modules
from hpcmarl.algos.batch import anybody, join
from hpcmarl.algos.episodes import Episodes, Places, episodes_of
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import ReplayedConfig
from hpcmarl.maths.n_step import n_step_targets
from hpcmarl.maths.vtrace import trace_targets
from hpcmarl.nets.device import HOST, array, arrays, tensor
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Rollout, flat_observations


@dataclass
class Columns:
    """Rewards and ends of the rows with a value, shape [T, B, U] each.

    Attributes:
        reward: Rewards.
        active: Rows in which the unit acts.
        terminated: Rows that terminate.
        truncated: Rows that are truncated.
    """

    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class UnitErrors:
    """Distances of values from their targets, shape [T, B, U] each.

    Attributes:
        errors: |Q - R|.
        active: Rows in which the unit acts.
    """

    errors: torch.Tensor
    active: torch.Tensor

    def of_episodes(self) -> EpisodeErrors:
        """Return the errors of each episode."""
        errors = self.errors.double() * self.active
        count = self.active.sum((0, 2)).clamp(min=1)
        return EpisodeErrors(*arrays(errors.amax((0, 2)), errors.sum((0, 2)) / count))


@dataclass
class EpisodeErrors:
    """Largest and mean |Q - R| of each episode, shape [B] float64 each.

    Both cover the active rows of an episode, and all agents if each has a value. They are 0 without active
    rows.
    """

    largest: Array
    mean: Array


class Replayed(Algorithm):
    """Base of the algorithms with a replay; see the module's docstring."""

    def __init__(self, spec: EnvironmentSpec, config: ReplayedConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._config = config
        self._target_modules = build_modules(self.design)
        self._target_flat = self._bind(self._target_modules, self.target.parameters)
        self._env_steps = 0
        self._limit = ValueLimit(spec, config.discount)

    def on_progress(self, env_steps: int) -> None:
        super().on_progress(env_steps)
        self._env_steps = env_steps

    def on_version(self, version: int) -> None:
        if self.target.on_version(version, self.parameters):
            self._target_flat.refresh()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._target_flat.refresh()

    @property
    def env_steps(self) -> int:
        """Environment steps of the run at the latest call of `on_progress`."""
        return self._env_steps

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Return minus the gradient of the mean losses, times the number of episodes.

        The mean is taken over the rows of these episodes. If their lengths differ, the result is not
        additive: it depends on the episodes of one call.

        Returns:
            The direction, shape [P], and statistics: those of the subclass, gradient_norm and value_limit.
        """
        vector, statistics, _ = self.staged_gradient(self.stage(rollouts), None)
        return vector, statistics

    def stage(self, rollouts: Sequence[Rollout]) -> Episodes:
        """Put the episodes of rollouts side by side, with the inputs of the agents' networks, on the device.

        The result does not depend on the parameters. It can be made before they arrive.
        """
        return episodes_of(join(rollouts, with_next=True), self.spec, self.design.policies, self.device)

    def staged_gradient(
        self, episodes: Episodes, weights: FloatArray | None
    ) -> tuple[FloatArray, dict[str, float], UnitErrors]:
        """Compute the gradient as `gradient`, with a weight for the losses of each episode's values.

        Args:
            episodes: The episodes.
            weights: Shape [B]; None: all weights are 1.

        Returns:
            The direction [P], statistics, and the distances of values from their targets before this
            gradient.
        """
        self._flat.zero_gradient()
        statistics, errors = self._learn(episodes, None if weights is None else self.tensor(weights))
        if self._config.normalise_observations:
            self._observe(episodes)
        return *self._ascent(statistics | self._limit.statistics()), errors

    @abstractmethod
    def distance(self, rollouts: Sequence[Rollout]) -> float:
        """Return the distance of the present policy from the policy that sampled these episodes.

        The distance serves algo.replay.dynamic. It compares the actions of the episodes with those that the
        present policy takes greedily. Random actions count like the others.

        Args:
            rollouts: Whole episodes.

        Returns:
            For discrete actions, the share that differs, 0 to 1. For continuous actions, the mean squared
            difference of actions scaled to -1..1, as in RLx2 (arXiv 2205.15043).
        """

    @abstractmethod
    def _learn(self, episodes: Episodes, weights: torch.Tensor | None) -> tuple[dict[str, float], UnitErrors]:
        """Add the ascent direction to the flat gradient.

        Args:
            episodes: The episodes.
            weights: Weight of each episode in the losses of values, shape [B]; None: all are 1.

        Returns:
            Statistics, and the distances of values from their targets.
        """

    @abstractmethod
    def _observe(self, episodes: Episodes) -> None:
        """Add observations to the running moments.

        As in the losses, the contribution is the mean over rows, times the number of episodes.
        """

    def _observe_alive(self, policies: Iterable[Policy], episodes: Episodes) -> None:
        """Add the inputs of living agents to the moments of the given networks, one per policy."""
        for policy, part in zip(policies, episodes.parts, strict=True):
            assert isinstance(part.inputs, torch.Tensor)  # encoders do not go with normalised observations
            rows = part.inputs[part.alive]
            policy.observe(rows, episodes.count / max(1, len(rows)))

    def _returns(
        self,
        columns: Columns,
        future: torch.Tensor,
        known: BoolArray | None,
        *,
        trace_lambda: float = 0.0,
        n_step: int = 1,
    ) -> torch.Tensor:
        """Return the targets R, shape [T, B, U].

        Args:
            columns: Rewards and ends.
            future: V, shape [T+1, B, U].
            known: Rows with a real observation, shape [T+1, B, U]. A unit that is truncated without a known
                last observation keeps the value V_t. None: all last observations are known.
            trace_lambda: lambda.
            n_step: Number of rewards in a target. If it is above 1, trace_lambda has no effect.
        """
        config, value = self._config, array(future)
        reward = columns.reward * np.float32(config.reward_scale)
        self._limit.see(reward, columns.active)
        final = value[1:] if known is None else np.where(known[1:], value[1:], value[:-1])
        columns_of = (
            value[:-1],
            np.zeros_like(value[0]),
            reward,
            columns.active,
            columns.terminated,
            columns.truncated,
            final,
        )
        if n_step > 1:
            return self.tensor(n_step_targets(*columns_of, discount=config.discount, n_step=n_step))
        return self.tensor(trace_targets(*columns_of, discount=config.discount, trace_lambda=trace_lambda))


def team_columns(episodes: Episodes, rewards: Sequence[FloatArray]) -> Columns:
    """Return the rewards and ends of a team in a game of simultaneous moves, shape [T, B, 1].

    A row without a living agent at the end of a truncated episode counts as terminated, since it has no value
    to bootstrap from.

    Args:
        episodes: The episodes.
        rewards: Rewards of the team's agents, shape [T, B, N] for each policy; the team's is their mean.
    """
    active = anybody([part.active for part in episodes.parts])
    reward = np.concatenate(rewards, -1).mean(-1, keepdims=True)
    truncated = (episodes.end == 2)[..., None] & anybody(
        [part.truncated & ~part.terminated for part in episodes.parts]
    )
    return Columns(reward, active, (episodes.end > 0)[..., None] & ~truncated, truncated)


def present_places(episodes: Episodes, device: torch.device = HOST) -> Places:
    """Return the places among [T+1, B] in which any agent is alive, with the ends of truncated episodes."""
    return Places(anybody([part.living for part in episodes.parts])[..., 0], device)


def joint_observations(episodes: Episodes, device: torch.device = HOST) -> torch.Tensor:
    """Return the observations of all agents side by side, shape [T+1, B, S]; zero for agents not alive."""
    observations = [
        tensor(flat_observations(part.observed, 3), device).flatten(-2) for part in episodes.parts
    ]
    return torch.cat(observations, -1)
