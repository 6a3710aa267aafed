"""Common parts of the value-based algorithms: action values of agents, and double Q-learning.

Agents act epsilon-greedily. Subclasses (iql.py, mixed.py and the files of its mixers) define the values: one
per agent, or one for the team. The loss is one mean over all rows of a gradient that have a value.

    loss = mean w (Q_t - R_t)²
    R_t  = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ]      V, R = 0 after a termination
    V    = Q'(argmax Q), or max Q' with double_q: false

Q' is the target network. Replay, targets and weights of episodes are those of replayed.py.

lambda is `trace_lambda` once the run has made `trace_from` environment steps, and 0 before. With `n_step`
above 1 (and lambda 0), R is the n-step return instead (maths/n_step.py). Recurrent agents (DRQN) process each
episode from its first row.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hpcmarl.algos.design import OTHERS
from hpcmarl.algos.episodes import Episodes, action_values
from hpcmarl.algos.replayed import Columns, Replayed, UnitErrors
from hpcmarl.config import OperatorConfig, QLearningConfig
from hpcmarl.maths.qlearning import greedy_actions, soft_mellowmax, taken
from hpcmarl.maths.schedules import falling
from hpcmarl.nets.device import array, numbers
from hpcmarl.nets.policy import LayeredPolicy, Policy
from hpcmarl.types import BoolArray, EnvironmentSpec, Rollout


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


class QLearning(Replayed):
    """Base of the value-based algorithms; the module's docstring has the loss and symbols."""

    _config: QLearningConfig

    def __init__(self, spec: EnvironmentSpec, config: QLearningConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._online, self._target = networks_of(self._modules), networks_of(self._target_modules)

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

    def _learn(self, episodes: Episodes, weights: torch.Tensor | None) -> tuple[dict[str, float], UnitErrors]:
        values = self._values(self._online, episodes)
        with torch.no_grad():
            later = self._values(self._target, episodes)
        fit = self._fit(episodes, values, later)
        losses = fit.losses if weights is None else fit.losses * weights[:, None]
        loss = losses.sum() / fit.rows
        (-loss * episodes.count).backward()  # type: ignore[no-untyped-call]
        epsilon = falling(
            self._config.epsilon_start,
            self._config.epsilon_final,
            self._config.epsilon_steps,
            self.env_steps,
        )
        (reported,) = numbers(loss)
        statistics = fit.statistics | {"loss": reported, "epsilon": epsilon}
        return statistics, UnitErrors(fit.errors, fit.active)

    def _observe(self, episodes: Episodes) -> None:
        self._observe_alive(self._online.policies.values(), episodes)

    def distance(self, rollouts: Sequence[Rollout]) -> float:
        """Return the share of the episodes' actions that are not the best ones now; see Replayed."""
        episodes = self.stage(rollouts)
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
        return self._config.trace_lambda if self.env_steps >= self._config.trace_from else 0.0

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
        lambda_now = self._lambda if trace_lambda is None else trace_lambda
        n_step = self._config.n_step if trace_lambda is None else 1
        return self._returns(columns, future, known, trace_lambda=lambda_now, n_step=n_step)


def networks_of(modules: Mapping[str, nn.Module]) -> Networks:
    """Split the modules of a design into policies and other networks."""
    others = modules.get(OTHERS, nn.ModuleDict())
    assert isinstance(others, nn.ModuleDict)
    return Networks({name: module for name, module in modules.items() if isinstance(module, Policy)}, others)
