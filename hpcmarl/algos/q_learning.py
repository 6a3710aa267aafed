"""What the value-based algorithms share: epsilon-greedy agents, whole replayed episodes, targets of a target
network, double Q-learning.

Subclasses (iql.py, mixed.py and the files of its mixers) say what is valued: each agent, or the team. One
mean over all valued rows of a gradient:

    loss = mean w (Q_t - R_t)²      R_t = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ]     V, R = 0
        after a termination
    V = Q'(argmax Q), Q' the target network (double_q: false: max Q'); after a truncation V is of the last
    observation

lambda is `trace_lambda` once the run has made `trace_from` environment steps, 0 before. With `n_step` above 1
(and lambda 0) R is the n-step return instead (maths/n_step.py). Recurrent agents (DRQN) run over each episode
from its first row. Replay (algo.replay, roles/learner/replay_buffer.py) says which episodes; their age does
not matter to the equations. w is 1 unless the replay has priorities: then it is the importance weight of the
row's episode.

    symbol -> variable, shape:  gamma discount   lambda trace_lambda   Q values [T+1, B, N, A]   Q' later   V
        future [T+1, B, U]
    R targets [T, B, U]   r reward [T, B, U]        (U units with a value: 1, or the N agents of a policy)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.base import Algorithm, build_modules
from hpcmarl.algos.batch import join, tensor
from hpcmarl.algos.design import OTHERS
from hpcmarl.algos.episodes import Episodes, action_values, episodes_of
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import OperatorConfig, QLearningConfig
from hpcmarl.maths.n_step import n_step_targets
from hpcmarl.maths.qlearning import greedy_actions, soft_mellowmax, taken
from hpcmarl.maths.schedules import falling
from hpcmarl.maths.vtrace import trace_targets
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Rollout


@dataclass
class Networks:
    """Everything that is trained, or its copy in the target network; `others`: what the subclass needs
    besides the policies."""

    policies: dict[str, Policy]
    others: nn.ModuleDict


@dataclass
class Columns:
    """Rows with a value, [T, B, U]: what is rewarded, who acts, how it ends."""

    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class Fit:
    """How far values are from their targets, [T, B, U]: the loss of each row, differentiable, 0 where nobody
    acts; |Q - R|; who acts.

    statistics: averages over rows."""

    losses: torch.Tensor
    errors: torch.Tensor
    active: torch.Tensor
    statistics: dict[str, float]


@dataclass
class EpisodeErrors:
    """The largest and the mean |Q - R| of each episode, [B] float64: over its rows, and its agents where each
    has a value. 0 where nobody acted."""

    largest: Array
    mean: Array


class QLearning(Algorithm):
    """See the module's docstring for the loss and symbols."""

    def __init__(self, spec: EnvironmentSpec, config: QLearningConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._config = config
        twins = build_modules(self.design)
        FlatParameters(self.layout, twins, self.target.parameters)
        self._online, self._target = networks_of(self._modules), networks_of(twins)
        self._env_steps = 0
        self._limit = ValueLimit(spec, config.discount)

    def on_progress(self, env_steps: int) -> None:
        super().on_progress(env_steps)
        self._env_steps = env_steps

    def on_version(self, version: int) -> None:
        self.target.on_version(version, self.parameters)

    def set_gradient_mask(self, mask: BoolArray | None) -> None:
        """As in Algorithm, where algo.sparse.training is sparse; the target network's weights may be those of
        earlier masks."""
        if self._config.sparse is None or self._config.sparse.training == "dense":
            return
        for policy, later in zip(self._online.policies.values(), self._target.policies.values(), strict=True):
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
        """Environment steps of the run, as `on_progress` told."""
        return self._env_steps

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Minus the gradient of the mean loss over the rows of these episodes, times their number: with
        episodes of unequal lengths it depends on what is in one call. Statistics: loss, value and target
        (means over rows), epsilon, gradient_norm; value_limit."""
        vector, statistics, _ = self._fitted(rollouts, None)
        return vector, statistics

    def weighed_gradient(
        self, rollouts: Sequence[Rollout], weights: FloatArray | None
    ) -> tuple[FloatArray, dict[str, float], EpisodeErrors]:
        """The same with a weight for the losses of each episode.

        Args:
            rollouts: Whole episodes.
            weights: Shape [B], in the order of the rollouts and of the slots in each. None: all 1.

        Returns:
            The vector [P], statistics, and the errors of each episode before this gradient.
        """
        vector, statistics, fit = self._fitted(rollouts, weights)
        return vector, statistics, _errors_of(fit)

    def _fitted(
        self, rollouts: Sequence[Rollout], weights: FloatArray | None
    ) -> tuple[FloatArray, dict[str, float], Fit]:
        """Return the vector [P], statistics, and how far values were from their targets."""
        self._flat.zero_gradient()
        episodes = self._episodes(rollouts)
        values = self._values(self._online, episodes)
        with torch.no_grad():
            later = self._values(self._target, episodes)
        fit = self._fit(episodes, values, later)
        losses = fit.losses if weights is None else fit.losses * tensor(weights)[:, None]
        loss = losses.sum() / max(1, int(fit.active.sum()))
        (-loss * episodes.count).backward()  # type: ignore[no-untyped-call]
        if self._config.normalise_observations:
            self._observe(episodes)
        epsilon = falling(
            self._config.epsilon_start,
            self._config.epsilon_final,
            self._config.epsilon_steps,
            self._env_steps,
        )
        statistics = (
            fit.statistics | {"loss": float(loss.detach()), "epsilon": epsilon} | self._limit.statistics()
        )
        return *self._ascent(statistics), fit

    def _episodes(self, rollouts: Sequence[Rollout]) -> Episodes:
        """The rollouts' episodes side by side, with what the agents' networks see."""
        return episodes_of(
            join(rollouts),
            self.spec,
            agent_id=self._config.agent_id,
            last_action=self._config.obs_last_action,
        )

    def _observe(self, episodes: Episodes) -> None:
        """Gather what the moments are averages of: like the loss, the mean over rows, times the number of
        episodes."""
        self._observe_alive(self._online.policies.values(), episodes)

    def _observe_alive(self, policies: Iterable[Policy], episodes: Episodes) -> None:
        """What each of these networks, one a policy, sees."""
        for policy, part in zip(policies, episodes.parts, strict=True):
            rows = part.obs[part.alive]
            policy.observe(rows, episodes.count / max(1, len(rows)))

    def distance(self, rollouts: Sequence[Rollout]) -> float:
        """Of the present policy from the one that played these episodes: the share of their actions that are
        not the best ones now, 0 to 1. What was played at random counts like the rest. For
        algo.replay.dynamic; RLx2 (arXiv 2205.15043) has the squared difference of continuous actions."""
        episodes = self._episodes(rollouts)
        for policy in self._online.policies.values():
            policy.unroll_where(None)  # the last gradient's weights may not be today's
        with torch.no_grad():
            best = self._greedy(episodes, self._values(self._online, episodes))
        others = sum(
            int((part.active & (chosen[:-1] != part.action).numpy()).sum())
            for chosen, part in zip(best, episodes.parts, strict=True)
        )
        return others / max(1, sum(int(part.active.sum()) for part in episodes.parts))

    @abstractmethod
    def _fit(self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]) -> Fit:
        """Compare values with targets; values, later: for each policy [T+1, B, N, A], of the present and the
        target network."""

    def _values(self, networks: Networks, episodes: Episodes) -> list[torch.Tensor]:
        return [
            action_values(policy, part)
            for policy, part in zip(networks.policies.values(), episodes.parts, strict=True)
        ]

    def _greedy(self, episodes: Episodes, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each agent's best allowed action [T+1, B, N]."""
        return [
            greedy_actions(value.detach(), part.mask)
            for value, part in zip(values, episodes.parts, strict=True)
        ]

    def _utilities(
        self, episodes: Episodes, values: list[torch.Tensor], later: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """What each agent's next step is worth under the target network's values, [T+1, B, N], by
        algo.operator."""
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
        """lambda at this point of the run."""
        return self._config.trace_lambda if self._env_steps >= self._config.trace_from else 0.0

    def _targets(
        self,
        columns: Columns,
        future: torch.Tensor,
        known: BoolArray | None = None,
        trace_lambda: float | None = None,
    ) -> torch.Tensor:
        """R [T, B, U], by algo.n_step and lambda, or by the `trace_lambda` given; future: V [T+1, B, U].
        known [T+1, B, U]: an agent that is cut off where no observation is known is worth V_t still."""
        config, value = self._config, future.numpy()
        reward = columns.reward * np.float32(config.reward_scale)
        self._limit.see(reward, columns.active)
        final = value[1:] if known is None else np.where(known[1:], value[1:], value[:-1])
        given = (
            value[:-1],
            np.zeros_like(value[0]),
            reward,
            columns.active,
            columns.terminated,
            columns.truncated,
            final,
        )
        if trace_lambda is None and config.n_step > 1:
            return tensor(n_step_targets(*given, discount=config.discount, n_step=config.n_step))
        chosen = self._lambda if trace_lambda is None else trace_lambda
        return tensor(trace_targets(*given, discount=config.discount, trace_lambda=chosen))


def _errors_of(fit: Fit) -> EpisodeErrors:
    errors = fit.errors.double() * fit.active
    count = fit.active.sum((0, 2)).clamp(min=1)
    return EpisodeErrors(errors.amax((0, 2)).numpy(), (errors.sum((0, 2)) / count).numpy())


def networks_of(modules: Mapping[str, nn.Module]) -> Networks:
    """Sort the modules of a design."""
    others = modules.get(OTHERS, nn.ModuleDict())
    assert isinstance(others, nn.ModuleDict)
    return Networks({name: module for name, module in modules.items() if isinstance(module, Policy)}, others)
