"""COMA (arXiv 1705.08926): counterfactual advantages.

The advantage of an agent's action compares it with the agent's other actions, while all else stays equal.

    Q_t^k(u) = Q(s, u_{-k}, u)
    A_t^k    = Q_t^k(u_k) - sum_u pi(u|o_k) Q_t^k(u)                                  (eq. 4)
    y_t^k    = r_t + gamma [ (1 - lambda) Q̄_{t+1}^k(u_k) + lambda y_{t+1}^k ]         TD(lambda)
    gain_t   = sum_k min(rho_max, w_t^k) log pi(u_k|o_k) A_t^k
    w_t^k    = pi(u_k|o_k) / mu(u_k|o_k)
    error    = mean over the policy's agents of L(y_t^k - Q_t^k(u_k))                 (value_loss.py)

One pass of the critic yields Q_t^k(u) for all actions u of agent k, given the actions that the other agents
took. Q̄ is the target network. The ratio w is 1 on-policy and limits the harm of older rollouts.

The inputs of the critic are s, the agent's one-hot number in its policy, and the actions of all other agents
of all policies. Agents that do not act have zeros there. s depends on algo.critic. With `joint_observation`
it holds all observations; with `state` it holds the state and agent k's observation. r is the mean over the
policy's agents, and ends are those of the episode.

Every agent has a value in every row of the game (actor_critic.py), even after its death. The action u_k is
then "nothing", which has its own output, the last. A death is thus valued by the team's later return, with
the same discount as for the living. Beyond the border of an unroll, the critic estimates that return. The
gain covers the rows in which an agent acts.

No agent has acted on the observation after an unroll. The last row therefore closes each agent's column with
its Q̄ and is not learned from. In a truncated row, Q̄ of that row also stands for the unknown value of the
last observation. In turn-based games, an agent has only the rows of its own turns. The rest of the loss is in
actor_critic.py.

    symbol    variable        shape, for m rows with a value, n of them with an action
    gamma     discount
    lambda    trace_lambda
    Q         outputs         [m, A+1]
    Q̄         later           [m]
    r         reward          [T, B, N]
    y         targets         [m]
    A         advantages      [n]
    pi        action_probs    [n, A]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpcmarl.algos.actor_critic import (
    ActorCritic,
    Columns,
    Shared,
    close_at_last_decision,
    critics_of,
    explained_variance,
)
from hpcmarl.algos.base import build_modules
from hpcmarl.algos.batch import Batch, PolicyBatch, Rows, UnitRows
from hpcmarl.algos.critic_inputs import Places, action_critic_inputs
from hpcmarl.algos.network_design import ACTIONS
from hpcmarl.algos.value_loss import value_losses
from hpcmarl.config import COMAConfig
from hpcmarl.maths.vtrace import trace_targets
from hpcmarl.nets.critic import form_of
from hpcmarl.nets.device import arrays, numbers
from hpcmarl.nets.inputs import row_inputs
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, PolicySpec


class COMA(ActorCritic):
    """Actor-critic with counterfactual advantages; the module's docstring has the equations."""

    _config: COMAConfig

    def __init__(self, spec: EnvironmentSpec, config: COMAConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        target_modules = build_modules(self.design)
        self._target_flat = self._bind(target_modules, self.target.parameters)
        self._target_critics = critics_of(target_modules)
        self._target_policies = self._policies_of(target_modules)

    def on_version(self, version: int) -> None:
        if self.target.on_version(version, self.parameters):
            self._target_flat.refresh()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._target_flat.refresh()

    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        config, part, steps, evaluation = (
            self._config,
            batch.policies[policy.name],
            batch.steps,
            shared.evaluations[policy.name],
        )
        critic, target, no_action = (
            self._critics[policy.name],
            self._target_critics[policy.name],
            policy.action.sizes[0],
        )
        alive, game = part.alive[:steps], self._agent_rows(policy, batch, shared.game)
        rows = Rows(game.active)
        places = row_inputs(rows.pick(self._inputs(policy, batch, shared.features.places)), 1, self.device)
        critic_inputs = shared.features.inputs(critic.form, places)
        taken = self.tensor(rows.pick(np.where(alive, part.action, no_action))).unsqueeze(-1)
        acting = self.tensor(np.flatnonzero(rows.pick(alive)))
        outputs = critic(critic_inputs)
        chosen = outputs.gather(-1, taken).squeeze(-1)
        with torch.no_grad():
            seen = shared.features.of(self._target_policies).inputs(target.form, places)
            later = target.values(target(seen)).gather(-1, taken).squeeze(-1)
            chosen_values = critic.values(chosen.detach())
            action_probs = self._policies[policy.name].head.probabilities(evaluation.raw, evaluation.mask)
            advantages = chosen_values[acting] - (
                action_probs * critic.values(outputs[acting, :no_action])
            ).sum(-1)
            ratio = (
                (evaluation.logp - self.tensor(evaluation.rows.pick(part.logp)))
                .exp()
                .clamp(max=config.rho_max)
            )
            weighed = ratio * advantages
        later_values, gains, ratios, values = arrays(later, weighed, ratio, chosen_values)
        columns = self._agent_columns(batch, part, game, rows.spread(later_values))
        target_values, counts = rows.pick(self._targets(columns)), rows.pick(columns.active)
        targets, counted = self.tensor(target_values), self.tensor(np.flatnonzero(counts))
        error = value_losses(config, chosen, critic.outputs_for(targets))[counted].sum() / len(policy.agents)
        gain = (evaluation.logp * self.tensor(self._normalised(gains, ratios))).sum()
        bonus, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + bonus) / steps
        objective.backward()  # type: ignore[no-untyped-call]
        self._observe(policy, part, evaluation, (critic_inputs, targets, counted))
        acted = max(evaluation.rows.count, 1)
        total_gain, total_error, entropy, rho, mean = numbers(
            gain, error, evaluation.entropy.detach().sum(), ratio.mean(), chosen_values.mean()
        )
        return {
            "policy_loss": -total_gain / (steps * batch.slots),
            "value_loss": total_error / (steps * batch.slots),
            "entropy": entropy / acted,
            "entropy_cost": cost,
            "mean_rho": rho if evaluation.rows.count else 1.0,
            "value": mean if rows.count else 0.0,
            "explained_variance": explained_variance(target_values[counts], values[counts]),
        }

    def _agent_columns(self, batch: Batch, part: PolicyBatch, rows: UnitRows, value: FloatArray) -> Columns:
        """Return a column [T, B, N] for each agent, with the rewards and ends of the team.

        Args:
            batch: The batch.
            part: The policy's arrays.
            rows: Rows in which each agent has a value.
            value: Q̄ of the actions taken, shape [T, B, N].
        """
        columns = self._columns(
            batch, part, rows, value, np.zeros_like(value[0]), value[batch.final_step, batch.final_slot]
        )
        columns = replace(columns, reward=np.broadcast_to(columns.reward, value.shape))
        close_at_last_decision(columns, np.zeros(value.shape[1:], bool))
        return columns

    def _targets(self, columns: Columns) -> FloatArray:
        """Return y [T, B, N], the result of V-trace's recursion if all ratios are 1."""
        return trace_targets(
            columns.value,
            columns.last,
            columns.reward,
            columns.active,
            columns.terminated,
            columns.truncated,
            columns.final,
            discount=self._config.discount,
            trace_lambda=self._config.trace_lambda,
        )

    def _inputs(self, policy: PolicySpec, batch: Batch, places: Places) -> Array:
        """Return the critic's inputs in all rows but the last, [T, B, N, D] or records [T, B, N]."""
        steps, agents = batch.steps, len(policy.agents)
        joint = np.concatenate(
            [_one_hot_actions(each, batch.policies[each.name], steps) for each in self.spec.policies], -1
        )
        first = sum(
            len(each.agents) * each.action.sizes[0]
            for each in self.spec.policies[: self.spec.policies.index(policy)]
        )
        others = np.repeat(joint[:, :, None], agents, axis=2)
        for agent in range(agents):
            start = first + agent * policy.action.sizes[0]
            others[:, :, agent, start : start + policy.action.sizes[0]] = 0.0
        form = form_of(self._critics[policy.name])
        return action_critic_inputs(form, batch, policy, {ACTIONS: others}, places)


def _one_hot_actions(policy: PolicySpec, part: PolicyBatch, steps: int) -> FloatArray:
    """Return the one-hot actions of a policy's agents, zero for agents that do not act: [T, B, N A]."""
    hot = np.eye(policy.action.sizes[0], dtype=np.float32)[part.action] * part.alive[:steps, :, :, None]
    return np.asarray(hot.reshape(*hot.shape[:2], -1), np.float32)
