"""Common parts of the value-based algorithms: replayed whole episodes, target network, double Q-learning.

Agents act epsilon-greedily. Subclasses (iql.py, mixed.py and the files of its mixers) define the values: one
per agent, or one for the team. The loss is one mean over all rows of a gradient that have a value.

    loss = mean w (Q_t - R_t)²
    R_t  = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ]      V, R = 0 after a termination
    V    = Q'(argmax Q), or max Q' with double_q: false

Q' is the target network. After a truncation, V is the value of the last observation.

lambda is `trace_lambda` once the run has made `trace_from` environment steps, and 0 before. With `n_step`
above 1 (and lambda 0), R is the n-step return instead (maths/n_step.py). Recurrent agents (DRQN) process each
episode from its first row.

The replay chooses the episodes (algo.replay, roles/learner/replay_buffer.py). Their age does not enter the
equations. w is the importance weight of the row's episode if the replay has priorities, else 1.

    symbol    variable        shape
    gamma     discount
    lambda    trace_lambda
    Q         values          [T+1, B, N, A]
    Q'        later           [T+1, B, N, A]
    V         future          [T+1, B, U]
    R         targets         [T, B, U]
    r         reward          [T, B, U]

U is the number of units with a value: 1, or the N agents of a policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.base import Algorithm, build_modules
from hpcmarl.algos.batch import join
from hpcmarl.algos.design import OTHERS
from hpcmarl.algos.episodes import Episodes, action_values, episodes_of
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import OperatorConfig, QLearningConfig
from hpcmarl.maths.n_step import n_step_targets
from hpcmarl.maths.qlearning import greedy_actions, soft_mellowmax, taken
from hpcmarl.maths.schedules import falling
from hpcmarl.maths.vtrace import trace_targets
from hpcmarl.nets.device import array, arrays, numbers
from hpcmarl.nets.policy import LayeredPolicy, Policy
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Rollout


@dataclass
class Networks:
    """All trained networks, or their copies in the target network.

    Attributes:
        policies: Network of each policy.
        others: Further networks of the subclass, by name.
    """

    policies: dict[str, Policy]
    others: nn.ModuleDict


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
class Fit:
    """Distances of values from their targets, shape [T, B, U] each.

    Attributes:
        losses: Loss of each row, differentiable; 0 in inactive rows.
        errors: |Q - R|.
        active: Rows in which the unit acts.
        rows: Number of active rows, at least 1.
        statistics: Averages over the active rows.
    """

    losses: torch.Tensor
    errors: torch.Tensor
    active: torch.Tensor
    rows: int
    statistics: dict[str, float]


@dataclass
class EpisodeErrors:
    """Largest and mean |Q - R| of each episode, shape [B] float64 each.

    Both cover the active rows of an episode, and all agents if each has a value. They are 0 without active
    rows.
    """

    largest: Array
    mean: Array


class QLearning(Algorithm):
    """Base of the value-based algorithms; the module's docstring has the loss and symbols."""

    def __init__(self, spec: EnvironmentSpec, config: QLearningConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._config = config
        target_modules = build_modules(self.design)
        self._target_flat = self._bind(target_modules, self.target.parameters)
        self._online, self._target = networks_of(self._modules), networks_of(target_modules)
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

    def set_gradient_mask(self, mask: BoolArray | None) -> None:
        """Announce the entries that the next gradients must contain; see Algorithm.

        It has an effect only with algo.sparse.training: sparse. The weights of the target network may follow
        earlier masks, so its non-zeros are used.
        """
        if self._config.sparse is None or self._config.sparse.training == "dense":
            return
        for policy, later in zip(self._online.policies.values(), self._target.policies.values(), strict=True):
            assert isinstance(policy, LayeredPolicy)
            assert isinstance(later, LayeredPolicy)
            cell, former = policy.cell, later.cell
            assert cell is not None
            assert former is not None
            if mask is None:
                policy.unroll_where(None)
            else:
                first, second = (
                    mask[self._flat.place_of(weight)].reshape(weight.shape)
                    for weight in (cell.weight_ih, cell.weight_hh)
                )
                policy.unroll_where((first, second))
            later.unroll_where(
                (former.weight_ih.detach().numpy() != 0, former.weight_hh.detach().numpy() != 0)
            )

    @property
    def env_steps(self) -> int:
        """Environment steps of the run at the latest call of `on_progress`."""
        return self._env_steps

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Return minus the gradient of the mean loss, times the number of episodes.

        The mean is taken over the rows of these episodes. If their lengths differ, the result is not
        additive: it depends on the episodes of one call.

        Returns:
            The direction, shape [P], and statistics: loss, value and target (means over rows), epsilon,
            gradient_norm and value_limit.
        """
        vector, statistics, _ = self._fitted(rollouts, None)
        return vector, statistics

    def weighed_gradient(
        self, rollouts: Sequence[Rollout], weights: FloatArray | None
    ) -> tuple[FloatArray, dict[str, float], EpisodeErrors]:
        """Compute the gradient with a weight for the losses of each episode.

        Args:
            rollouts: Whole episodes.
            weights: Shape [B], in the order of the rollouts and of the slots in each. None: all weights are
                1.

        Returns:
            The direction [P], statistics, and the errors of each episode before this gradient.
        """
        vector, statistics, fit = self._fitted(rollouts, weights)
        return vector, statistics, _errors_of(fit)

    def _fitted(
        self, rollouts: Sequence[Rollout], weights: FloatArray | None
    ) -> tuple[FloatArray, dict[str, float], Fit]:
        """Return the direction [P], statistics, and the distances of values from their targets."""
        self._flat.zero_gradient()
        episodes = self._episodes(rollouts)
        values = self._values(self._online, episodes)
        with torch.no_grad():
            later = self._values(self._target, episodes)
        fit = self._fit(episodes, values, later)
        losses = fit.losses if weights is None else fit.losses * self._tensor(weights)[:, None]
        loss = losses.sum() / fit.rows
        (-loss * episodes.count).backward()  # type: ignore[no-untyped-call]
        if self._config.normalise_observations:
            self._observe(episodes)
        (reported,) = numbers(loss)
        epsilon = falling(
            self._config.epsilon_start,
            self._config.epsilon_final,
            self._config.epsilon_steps,
            self._env_steps,
        )
        statistics = fit.statistics | {"loss": reported, "epsilon": epsilon} | self._limit.statistics()
        return *self._ascent(statistics), fit

    def _episodes(self, rollouts: Sequence[Rollout]) -> Episodes:
        """Return the episodes of the rollouts side by side, with the inputs of the agents' networks."""
        return episodes_of(join(rollouts), self.spec, self.design.policies, self.device)

    def _observe(self, episodes: Episodes) -> None:
        """Add observations to the running moments.

        As in the loss, the contribution is the mean over rows, times the number of episodes.
        """
        self._observe_alive(self._online.policies.values(), episodes)

    def _observe_alive(self, policies: Iterable[Policy], episodes: Episodes) -> None:
        """Add the inputs of living agents to the moments of the given networks, one per policy."""
        for policy, part in zip(policies, episodes.parts, strict=True):
            assert isinstance(part.inputs, torch.Tensor)  # encoders do not go with normalised observations
            rows = part.inputs[part.alive]
            policy.observe(rows, episodes.count / max(1, len(rows)))

    def distance(self, rollouts: Sequence[Rollout]) -> float:
        """Return the distance of the present policy from the policy that sampled these episodes.

        The distance serves algo.replay.dynamic. RLx2 (arXiv 2205.15043) uses the squared difference of
        continuous actions instead.

        Args:
            rollouts: Whole episodes.

        Returns:
            Share of the episodes' actions that are not the best ones now, 0 to 1. Random actions count like
            the others.
        """
        episodes = self._episodes(rollouts)
        for policy in self._online.policies.values():
            policy.unroll_where(None)  # the last gradient's mask may be outdated
        with torch.no_grad():
            best = self._greedy(episodes, self._values(self._online, episodes))
        others = sum(
            int((part.active & array(chosen[:-1] != part.action)).sum())
            for chosen, part in zip(best, episodes.parts, strict=True)
        )
        return others / max(1, sum(int(part.active.sum()) for part in episodes.parts))

    @abstractmethod
    def _fit(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> Fit:
        """Compare values with targets.

        Args:
            episodes: The episodes.
            values: Action values of the online network, [T+1, B, N, A] for each policy.
            later: The same of the target network.
        """

    def _values(self, networks: Networks, episodes: Episodes) -> list[torch.Tensor]:
        return [
            action_values(policy, part)
            for policy, part in zip(networks.policies.values(), episodes.parts, strict=True)
        ]

    def _greedy(self, episodes: Episodes, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return each agent's best allowed action, shape [T+1, B, N] for each policy."""
        return [
            greedy_actions(value.detach(), part.mask)
            for value, part in zip(values, episodes.parts, strict=True)
        ]

    def _utilities(
        self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return the values of each agent's next step, shape [T+1, B, N] for each policy.

        They use the target network and algo.operator.

        Args:
            episodes: The episodes.
            values: Action values of the online network, [T+1, B, N, A] for each policy.
            later: The same of the target network.
        """
        config = self._config
        if isinstance(config, OperatorConfig) and config.operator == "mellowmax":
            shape = (config.mellowmax_omega, config.mellowmax_alpha)
            return [
                soft_mellowmax(value, part.mask, *shape)
                for value, part in zip(later, episodes.parts, strict=True)
            ]
        chosen = self._greedy(episodes, values if config.double_q else later)
        return [taken(value, action) for value, action in zip(later, chosen, strict=True)]

    @property
    def _lambda(self) -> float:
        """Value of lambda at this point of the run."""
        return self._config.trace_lambda if self._env_steps >= self._config.trace_from else 0.0

    def _targets(
        self,
        columns: Columns,
        future: torch.Tensor,
        known: BoolArray | None = None,
        trace_lambda: float | None = None,
    ) -> torch.Tensor:
        """Return the targets R, shape [T, B, U].

        Args:
            columns: Rewards and ends.
            future: V, shape [T+1, B, U].
            known: Rows with a real observation, shape [T+1, B, U]. A unit that is truncated without a known
                last observation keeps the value V_t. None: all last observations are known.
            trace_lambda: lambda; None: by algo.n_step and the schedule of lambda.
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
        if trace_lambda is None and config.n_step > 1:
            return self._tensor(n_step_targets(*columns_of, discount=config.discount, n_step=config.n_step))
        lambda_now = self._lambda if trace_lambda is None else trace_lambda
        return self._tensor(trace_targets(*columns_of, discount=config.discount, trace_lambda=lambda_now))


def _errors_of(fit: Fit) -> EpisodeErrors:
    errors = fit.errors.double() * fit.active
    count = fit.active.sum((0, 2)).clamp(min=1)
    return EpisodeErrors(*arrays(errors.amax((0, 2)), errors.sum((0, 2)) / count))


def networks_of(modules: Mapping[str, nn.Module]) -> Networks:
    """Split the modules of a design into policies and other networks."""
    others = modules.get(OTHERS, nn.ModuleDict())
    assert isinstance(others, nn.ModuleDict)
    return Networks({name: module for name, module in modules.items() if isinstance(module, Policy)}, others)
