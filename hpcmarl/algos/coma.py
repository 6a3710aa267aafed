"""COMA (arXiv 1705.08926): each agent's action is judged against what its others would have been worth, all else being equal.

    Q_t^k(u) = Q(s, u_{-k}, u)                               one critic pass gives all actions u of agent k, the others' being those taken
    A_t^k    = Q_t^k(u_k) - sum_u pi(u|o_k) Q_t^k(u)         counterfactual advantage (eq. 4)
    y_t^k    = r_t + gamma [ (1 - lambda) Q̄_{t+1}^k(u_k) + lambda y_{t+1}^k ]      TD(lambda), Q̄: the target network
    gain_t   = sum_k min(rho_max, w_t^k) log pi(u_k|o_k) A_t^k        w = pi(u_k|o_k) / mu(u_k|o_k): 1 on policy, less harm from older rollouts
    squared error: (y_t^k - Q_t^k(u_k))^2, averaged over the policy's agents

s is what algo.critic names (obs: all observations, full: the state and agent k's observation); the critic is also told which of its policy's
agents k is, and the actions of all agents of all policies but its own, zeros for those that do not act. r is the mean over the policy's agents,
and ends are the episode's, also for an agent that dies before. An unroll ends where nobody has yet acted on what is seen: each agent's last
decision closes its column with its Q̄ and is not learned from; where an episode was truncated r + gamma Q̄ of the last decision stands for the
unknown. The rest of the loss: actor_critic.py.

    symbol -> variable, shape:  gamma discount   lambda trace_lambda   Q outputs [n, A]   Q̄ later [n, A]   r reward [T, B, N]   y targets [n]
    A advantages [n]   pi chances [n, A]          (n rows in which an agent acts)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpcmarl.algos.actor_critic import ActorCritic, Columns, close_at_last_decision, explained_variance
from hpcmarl.algos.base import seeded_generator
from hpcmarl.algos.batch import Batch, PolicyBatch, Rows, evaluate, tensor
from hpcmarl.algos.target import Target
from hpcmarl.config import COMAConfig
from hpcmarl.errors import ConfigError
from hpcmarl.maths.vtrace import vtrace
from hpcmarl.nets.critic import Critic
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, PolicySpec


class COMA(ActorCritic):
    """See the module's docstring."""

    summary = "a central critic of joint actions; each agent's action against its own alternatives"
    paper = "arXiv 1705.08926"
    on_policy = False  # a rollout that is a few versions old still serves, see w
    _config: COMAConfig

    def __init__(self, spec: EnvironmentSpec, config: COMAConfig, seed: int) -> None:
        check_coma(spec, config)
        super().__init__(spec, config, seed)
        twins = self._networks(spec, seeded_generator(seed))
        self._follower = Target(twins.modules, config.target_every)
        self._target_critics = twins.critics

    def _critic(self, spec: EnvironmentSpec, policy: PolicySpec, generator: torch.Generator, inputs: int = 0, outputs: int | None = None) -> Critic:
        own = policy.observation_size if self._config.critic == "full" else 0
        return super()._critic(spec, policy, generator, inputs + own + _joint_size(spec) + len(policy.agents), policy.action.sizes[0])

    def on_version(self, version: int) -> None:
        self._follower.on_version(version, self.parameters)

    def state_dict(self) -> dict[str, Any]:
        return self._follower.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._follower.load_state_dict(state)

    def _learn(self, policy: PolicySpec, batch: Batch, central_input: tuple[Array, Array] | None) -> dict[str, float]:
        assert central_input is not None
        config, part, steps = self._config, batch.policies[policy.name], batch.steps
        evaluation = evaluate(self._policies[policy.name], part, batch.episode_start)
        rows, critic, target = evaluation.rows, self._critics[policy.name], self._target_critics[policy.name]
        seen, taken = tensor(self._inputs(policy, batch, central_input[0], rows)), tensor(rows.pick(part.action)).unsqueeze(-1)
        outputs = critic(seen)
        chosen = outputs.gather(-1, taken).squeeze(-1)
        with torch.no_grad():
            later = target.values(target(seen)).gather(-1, taken).squeeze(-1).numpy()
            values = critic.values(outputs)
            chances = self._policies[policy.name].head.probabilities(evaluation.raw, evaluation.mask)
            advantages = critic.values(chosen) - (chances * values).sum(-1)
            ratio = (evaluation.logp - tensor(rows.pick(part.logp))).exp().clamp(max=config.rho_max)
        columns = self._agent_columns(batch, part, rows.spread(later))
        targets, counts = rows.pick(self._targets(columns)), rows.pick(columns.acts)
        wanted = tensor(targets)
        error = (critic.outputs_for(wanted) - chosen)[tensor(counts)].square().sum() / len(policy.agents)
        gain = (evaluation.logp * tensor(self._normalised((ratio * advantages).numpy(), ratio.numpy()))).sum()
        spread, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + spread) / steps
        objective.backward()
        self._observe(policy, part, evaluation, (seen, wanted, tensor(counts)))
        return {
            "policy_loss": -float(gain.detach()) / (steps * batch.slots),
            "value_loss": float(error.detach()) / (steps * batch.slots),
            "entropy": float(evaluation.entropy.detach().sum()) / max(rows.count, 1),
            "entropy_cost": cost,
            "mean_rho": float(ratio.mean()) if rows.count else 1.0,
            "value": float(values.detach().mean()) if rows.count else 0.0,
            "explained_variance": explained_variance(targets[counts], critic.values(chosen.detach()).numpy()[counts]),
        }

    def _agent_columns(self, batch: Batch, part: PolicyBatch, value: FloatArray) -> Columns:
        """A column [T, B, N] for each agent, all of the team's rewards and ends; value: Q̄ of what was done."""
        team = self._columns(batch, part, value, np.zeros_like(value[0]), value[batch.final_step, batch.final_slot])
        alike = {name: np.broadcast_to(getattr(team, name), value.shape) for name in ("reward", "terminated", "truncated")}
        columns = replace(team, **alike, acts=part.alive[: batch.steps])
        close_at_last_decision(columns, np.zeros(value.shape[1:], bool))
        return columns

    def _targets(self, columns: Columns) -> FloatArray:
        """y [T, B, N]: what V-trace's recursion gives where all ratios are 1."""
        return vtrace(
            np.zeros_like(columns.value),
            columns.value,
            columns.last,
            columns.reward,
            columns.acts,
            columns.terminated,
            columns.truncated,
            columns.final,
            discount=self._config.discount,
            trace_lambda=self._config.trace_lambda,
        ).targets

    def _inputs(self, policy: PolicySpec, batch: Batch, central: Array, rows: Rows) -> FloatArray:
        """The critic's input [n, D] in the rows in which an agent of the policy acts; central [T+1, B, 1, S]."""
        steps, agents = batch.steps, len(policy.agents)
        joint = np.concatenate([_done(each, batch.policies[each.name], steps) for each in self.spec.policies], -1)
        first = sum(len(each.agents) * each.action.sizes[0] for each in self.spec.policies[: self.spec.policies.index(policy)])
        others = np.repeat(joint[:, :, None], agents, axis=2)
        for agent in range(agents):
            start = first + agent * policy.action.sizes[0]
            others[:, :, agent, start : start + policy.action.sizes[0]] = 0.0
        parts = [np.broadcast_to(central[:steps], (*rows.shape, central.shape[-1])), others]
        if self._config.critic == "full":
            parts.append(batch.policies[policy.name].obs[:steps].reshape(*rows.shape, -1))
        parts.append(np.broadcast_to(np.eye(agents, dtype=np.float32), (*rows.shape, agents)))
        return np.concatenate([rows.pick(np.ascontiguousarray(array)) for array in parts], -1)


def check_coma(spec: EnvironmentSpec, config: COMAConfig) -> None:
    """Raises ConfigError where the environment does not fit the configuration."""
    if spec.turn_based and any(len(policy.agents) > 1 for policy in spec.policies):
        raise ConfigError(
            f"algo.name: coma judges what all agents of a policy do at once, and in {spec.id} they take turns; "
            "use algo.name: ppo or ma_trace with algo.critic: dec"
        )
    for policy in spec.policies:
        if policy.action.kind != "discrete":
            raise ConfigError(
                f"algo.name: coma weighs every single discrete action, but policy {policy.name} of {spec.id} has {policy.action.kind} ones; "
                "use algo.name: ppo or ma_trace"
            )


def _joint_size(spec: EnvironmentSpec) -> int:
    return sum(len(policy.agents) * policy.action.sizes[0] for policy in spec.policies)


def _done(policy: PolicySpec, part: PolicyBatch, steps: int) -> FloatArray:
    """The actions of a policy's agents, one-hot, zeros where they do not act: [T, B, N A]."""
    hot = np.eye(policy.action.sizes[0], dtype=np.float32)[part.action] * part.alive[:steps, :, :, None]
    return np.asarray(hot.reshape(*hot.shape[:2], -1), np.float32)
