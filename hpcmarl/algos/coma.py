"""COMA (arXiv 1705.08926): each agent's action is judged against what its others would have been worth, all
else being equal.

    Q_t^k(u) = Q(s, u_{-k}, u)                               one critic pass gives all actions u of agent k,
        the others' being those taken
    A_t^k    = Q_t^k(u_k) - sum_u pi(u|o_k) Q_t^k(u)         counterfactual advantage (eq. 4)
    y_t^k    = r_t + gamma [ (1 - lambda) Q̄_{t+1}^k(u_k) + lambda y_{t+1}^k ]      TD(lambda), Q̄: the target
        network
    gain_t   = sum_k min(rho_max, w_t^k) log pi(u_k|o_k) A_t^k        w = pi(u_k|o_k) / mu(u_k|o_k): 1 on
        policy, less harm from older rollouts
    value error: L(y_t^k - Q_t^k(u_k)) (value_loss.py), averaged over the policy's agents

s is what algo.critic names (obs: all observations, full: the state and agent k's observation); the critic is
also told which of its policy's agents k is, and the actions of all agents of all policies but its own, zeros
for those that do not act. r is the mean over the policy's agents, and ends are the episode's.

Every agent has a value in every row of the game (actor_critic.py), the dead, too: u_k is then "nothing",
which has an output of its own, the last. So a death is worth the team's return from there on, discounted as
for the living, and beyond an unroll's border the critic says what follows it. The gain has the rows in which
an agent acts.

An unroll ends where nobody has yet acted on what is seen: the last row closes each agent's column with its Q̄
and is not learned from; where an episode was truncated r + gamma Q̄ of the last row stands for the unknown.
In turn-based games an agent has the rows of its own turns. The rest of the loss: actor_critic.py.

    symbol -> variable, shape:  gamma discount   lambda trace_lambda   Q outputs [m, A+1]   Q̄ later [m]   r
        reward [T, B, N]   y targets [m]
    A advantages [n]   pi action_probs [n, A]     (m rows with a value, n of them with an action)
"""

from __future__ import annotations

from dataclasses import replace

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
from hpcmarl.algos.batch import Batch, PolicyBatch, Rows, UnitRows, tensor
from hpcmarl.algos.value_loss import value_losses
from hpcmarl.config import COMAConfig
from hpcmarl.maths.vtrace import trace_targets
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, PolicySpec


class COMA(ActorCritic):
    """See the module's docstring."""

    _config: COMAConfig

    def __init__(self, spec: EnvironmentSpec, config: COMAConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        twins = build_modules(self.design)
        FlatParameters(self.layout, twins, self.target.parameters)
        self._target_critics = critics_of(twins)

    def on_version(self, version: int) -> None:
        self.target.on_version(version, self.parameters)

    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        assert shared.central_input is not None
        config, part, steps, evaluation = (
            self._config,
            batch.policies[policy.name],
            batch.steps,
            shared.evaluations[policy.name],
        )
        critic, target, nothing = (
            self._critics[policy.name],
            self._target_critics[policy.name],
            policy.action.sizes[0],
        )
        alive, game = part.alive[:steps], self._agent_rows(policy, batch, shared.game)
        rows = Rows(game.active)
        critic_inputs = tensor(self._inputs(policy, batch, shared.central_input[0], rows))
        done = tensor(rows.pick(np.where(alive, part.action, nothing))).unsqueeze(-1)
        acting = tensor(rows.pick(alive))
        outputs = critic(critic_inputs)
        chosen = outputs.gather(-1, done).squeeze(-1)
        with torch.no_grad():
            later = target.values(target(critic_inputs)).gather(-1, done).squeeze(-1).numpy()
            worth = critic.values(chosen.detach())
            action_probs = self._policies[policy.name].head.probabilities(evaluation.raw, evaluation.mask)
            advantages = worth[acting] - (action_probs * critic.values(outputs[acting, :nothing])).sum(-1)
            ratio = (
                (evaluation.logp - tensor(evaluation.rows.pick(part.logp))).exp().clamp(max=config.rho_max)
            )
        columns = self._agent_columns(batch, part, game, rows.spread(later))
        target_values, counts = rows.pick(self._targets(columns)), rows.pick(columns.active)
        targets = tensor(target_values)
        error = value_losses(config, chosen, critic.outputs_for(targets))[tensor(counts)].sum() / len(
            policy.agents
        )
        gain = (evaluation.logp * tensor(self._normalised((ratio * advantages).numpy(), ratio.numpy()))).sum()
        spread, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + spread) / steps
        objective.backward()  # type: ignore[no-untyped-call]
        self._observe(policy, part, evaluation, (critic_inputs, targets, tensor(counts)))
        acted = max(evaluation.rows.count, 1)
        return {
            "policy_loss": -float(gain.detach()) / (steps * batch.slots),
            "value_loss": float(error.detach()) / (steps * batch.slots),
            "entropy": float(evaluation.entropy.detach().sum()) / acted,
            "entropy_cost": cost,
            "mean_rho": float(ratio.mean()) if evaluation.rows.count else 1.0,
            "value": float(worth.mean()) if rows.count else 0.0,
            "explained_variance": explained_variance(target_values[counts], worth.numpy()[counts]),
        }

    def _agent_columns(self, batch: Batch, part: PolicyBatch, rows: UnitRows, value: FloatArray) -> Columns:
        """A column [T, B, N] for each agent, all of the team's rewards and ends; value: Q̄ of what was
        done."""
        columns = self._columns(
            batch, part, rows, value, np.zeros_like(value[0]), value[batch.final_step, batch.final_slot]
        )
        columns = replace(columns, reward=np.broadcast_to(columns.reward, value.shape))
        close_at_last_decision(columns, np.zeros(value.shape[1:], bool))
        return columns

    def _targets(self, columns: Columns) -> FloatArray:
        """y [T, B, N]: what V-trace's recursion gives where all ratios are 1."""
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

    def _inputs(self, policy: PolicySpec, batch: Batch, central: Array, rows: Rows) -> FloatArray:
        """The critic's input [m, D] in these rows of the policy's agents; central [T+1, B, 1, S]."""
        steps, agents = batch.steps, len(policy.agents)
        joint = np.concatenate(
            [_done(each, batch.policies[each.name], steps) for each in self.spec.policies], -1
        )
        first = sum(
            len(each.agents) * each.action.sizes[0]
            for each in self.spec.policies[: self.spec.policies.index(policy)]
        )
        others = np.repeat(joint[:, :, None], agents, axis=2)
        for agent in range(agents):
            start = first + agent * policy.action.sizes[0]
            others[:, :, agent, start : start + policy.action.sizes[0]] = 0.0
        parts = [np.broadcast_to(central[:steps], (*rows.shape, central.shape[-1])), others]
        if self._config.critic == "state":
            parts.append(batch.policies[policy.name].obs[:steps].reshape(*rows.shape, -1))
        parts.append(np.broadcast_to(np.eye(agents, dtype=np.float32), (*rows.shape, agents)))
        return np.concatenate([rows.pick(np.ascontiguousarray(array)) for array in parts], -1)


def _done(policy: PolicySpec, part: PolicyBatch, steps: int) -> FloatArray:
    """The actions of a policy's agents, one-hot, zeros where they do not act: [T, B, N A]."""
    hot = np.eye(policy.action.sizes[0], dtype=np.float32)[part.action] * part.alive[:steps, :, :, None]
    return np.asarray(hot.reshape(*hot.shape[:2], -1), np.float32)
