"""MASAC: soft actor-critic (arXiv 1801.01290, 1812.05905) with critics of all agents' actions.

    G(x, u~) = min_k Q_k(x, u~) - alpha mean_i log pi(u~_i | o_i)         u~ ~ pi(o)
    V(x')    = min_k Q'_k(x', u') - alpha mean_i log pi(u'_i | o'_i)      u' ~ pi(o')

The policies are those of the present actors in both lines; there is no target actor. The means are taken over
the agents of the policy, like its reward; an agent that does not act adds 0. Independent critics use the
log-probability of their own agent (ISAC).

Continuous actions come from the tanh-squashed Gaussian, by reparameterisation. Densities are those of actions
scaled to -1..1, so alpha and the target entropy do not depend on the bounds of the environment.

For discrete actions the expectation over the own action is exact (arXiv 1910.07207):

    G = mean_i sum_a pi(a | o_i) [ min_k Q_k(x, u~_-i, a) - alpha log pi(a | o_i) ]

The other agents' actions u~_-i are samples of their policies, as in MAAC (arXiv 1810.02912). Independent
critics have no other actions, so their V is an exact expectation, too. (BenchMARL's discrete critic sees no
other agent's action.)

A learned alpha is exp(c), and c has the gradient entropy_cost_rate (target - H). The target is minus the
number of dimensions, or a share of the largest entropy of the allowed discrete actions (algo.target_entropy).

    symbol      variable        shape
    alpha       alpha
    c           cost.logarithm  [1]
    log pi      logps           [T+1, B, N]
    pi(a|o)     policy          [n, A]
    H           entropy
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hpcmarl.algos.action_critic import (
    ActionCritic,
    Actions,
    View,
    gaussian_noise,
    gumbel_noise,
    least_value,
    zero_where_idle,
)
from hpcmarl.algos.episodes import Episodes, Places
from hpcmarl.config import MASACConfig
from hpcmarl.nets.action_codes import squashed_sample
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.device import numbers
from hpcmarl.types import BoolArray

DISCRETE_SHARE = 0.2  # target entropy of discrete actions in BenchMARL, as a share of the largest entropy


class MASAC(ActionCritic):
    """MASAC; the module's docstring has the equations."""

    _config: MASACConfig

    def _alpha(self, index: int) -> float:
        """Return the weight of a policy's entropy."""
        if self._config.target_entropy is None:
            return self._config.entropy_cost
        return math.exp(numbers(self._logarithm(index)[0])[0])

    def _logarithm(self, index: int) -> torch.Tensor:
        """Return the trained logarithm of a learned alpha, shape [1]."""
        return self._modules[self.spec.policies[index].name].get_parameter("cost.logarithm")

    def _sample(
        self, raw: Sequence[torch.Tensor], episodes: Episodes, generator: np.random.Generator
    ) -> Actions:
        codes, logps = [], []
        for policy, code, outputs, part in zip(
            self.spec.policies, self._codes, raw, episodes.parts, strict=True
        ):
            if policy.action.kind == "continuous":
                noise = gaussian_noise((*outputs.shape[:-1], code.size), generator)
                chosen, logp = squashed_sample(outputs, self.tensor(noise))
            else:
                with torch.no_grad():
                    noise = gumbel_noise(outputs.shape, generator)
                    chosen = code.gumbel(outputs, part.mask, self.tensor(noise))
                    logp = (code.log_probabilities(outputs, part.mask) * chosen).sum(-1)
            codes.append(zero_where_idle(chosen, part.living))
            logps.append(logp * part.alive)
        return Actions(codes, logps)

    def _successors(self, present: Actions, episodes: Episodes, generator: np.random.Generator) -> Actions:
        return present.detached()

    def _future(self, index: int, view: View, successors: Actions) -> torch.Tensor:
        policy, part = self.spec.policies[index], view.episodes.parts[index]
        if policy.action.kind == "discrete" and not self._central:
            values, logs = self._own_values(
                index, view, successors, part.living, self._target_critics[policy.name]
            )
            self._limit.see_bonus(self._alpha(index) * math.log(self._codes[index].size))
            expected = (logs.exp() * (values - self._alpha(index) * logs)).sum(-1)
            return Places(part.living, self.device).spread(expected)
        logps = successors.logps[index]
        bonus = -self._alpha(index) * (logps.mean(-1, keepdim=True) if self._central else logps)
        self._limit.see_bonus(numbers(bonus.abs().max())[0])
        return super()._future(index, view, successors) + bonus

    def _gain(self, index: int, view: View, present: Actions) -> tuple[torch.Tensor, dict[str, float]]:
        policy, part, alpha = self.spec.policies[index], view.episodes.parts[index], self._alpha(index)
        active = view.episodes.learned(part.active)
        rows = (active, self._learned_rows(index, view))
        agents, units = (max(1, int(np.count_nonzero(acts))) for acts in rows)
        # in a row of a central critic, each agent is one of all N agents of the policy
        weight = units * (part.active.shape[-1] if self._central else 1)
        if policy.action.kind == "continuous":
            spread = -(present.logps[index][:-1] * self.tensor(active)).sum()
            gain = self._value(index, view, present.codes).sum() / units + alpha * spread / weight
        else:
            values, logs = self._own_values(
                index, view, present.detached(), active, self._critics[policy.name]
            )
            spread = -(logs.exp() * logs).sum()
            gain = ((logs.exp() * values).sum() + alpha * spread) / weight
        total, mean_gain = numbers(spread, gain)
        entropy = total / agents
        statistics = {"policy_loss": -mean_gain, "entropy": entropy, "entropy_cost": alpha}
        if self._config.target_entropy is not None:
            missing = self._target_entropy(index, view) - entropy
            gain = gain + self._config.entropy_cost_rate * missing * self._logarithm(index)[0]
        return gain, statistics

    def _own_values(
        self, index: int, view: View, actions: Actions, where: BoolArray, critics: Sequence[Critic]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate every discrete action of agents, while the other agents' actions stay.

        Args:
            index: Index of the policy.
            view: The episodes.
            actions: Actions of all agents.
            where: Rows of agents, shape [R, B, N]; they are among the first R rows.
            critics: The critics.

        Returns:
            Smaller values of the critics, not differentiable, and log-probabilities, differentiable. The
            shape of each is [n, A], in the C order of `where`.
        """
        rows, code, mask = len(where), self._codes[index], view.episodes.parts[index].mask
        places = Places(where, self.device)
        logs = places.pick(
            code.log_probabilities(view.raw[index][:rows], None if mask is None else mask[:rows])
        )
        codes = [each[:rows] for each in actions.codes]
        with torch.no_grad():
            if not self._central:
                return self._each_action(index, view, where, codes, 0, critics), logs
            values = torch.zeros(*where.shape, code.size, device=self.device)
            first = sum(each.shape[-2] * each.shape[-1] for each in codes[:index])
            for agent in range(where.shape[-1]):
                acts = where[..., agent : agent + 1]
                tried = self._each_action(index, view, acts, codes, first + agent * code.size, critics)
                values[..., agent, :] = Places(acts[..., 0], self.device).spread(tried)
        return places.pick(values), logs

    def _each_action(
        self,
        index: int,
        view: View,
        where: BoolArray,
        codes: Sequence[torch.Tensor],
        first: int,
        critics: Sequence[Critic],
    ) -> torch.Tensor:
        """Return the critics' smaller values of each action of one agent in n rows, shape [n, A].

        Args:
            index: Index of the policy.
            view: The episodes.
            where: Rows to take, shape [R, B, U].
            codes: Actions in the first R rows, shape [R, B, N, C] for each policy.
            first: First column of the agent's own action among those that the critics see.
            critics: The critics.
        """
        actions = self._codes[index].size
        tried = self._joined(index, where, codes).unsqueeze(1).repeat(1, actions, 1)
        tried[..., first : first + actions] = torch.eye(actions, device=self.device)
        inputs = view.seen[index].rows(where, tried.flatten(0, 1), copies=actions)
        return least_value(critics, inputs).view(-1, actions)

    def _target_entropy(self, index: int, view: View) -> float:
        """Return the target of the entropy of a policy, in nats for each decision."""
        action, part = self.spec.policies[index].action, view.episodes.parts[index]
        target = self._config.target_entropy
        if action.kind == "continuous":
            return -float(action.sizes[0]) if target == "auto" else float(target or 0.0)
        share = DISCRETE_SHARE if target == "auto" else float(target or 0.0)
        if part.mask is None:
            return share * math.log(action.sizes[0])
        allowed = (
            Places(view.episodes.learned(part.active), self.device).pick(part.mask[:-1]).sum(-1).clamp(min=1)
        )
        return share * numbers(allowed.float().log().mean())[0] if len(allowed) else 0.0
