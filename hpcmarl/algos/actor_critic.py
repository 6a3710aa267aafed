"""What the actor-critics share: a critic beside each policy, rows with a value, targets and advantages by one recursion, the entropy cost.

Subclasses (ma_trace.py, ppo.py) say what the policy gains (`_gain`) and which targets it learns from (`_trace`). Unrolls of T steps.

    loss = (1/T) sum_t [ - gain_t + value_cost (v_t - V_t)^2 - c_ent sum_k H_k ]        for one unroll

k runs over the agents of a policy that act in row t. Critics (algo.critic):
  obs, full   one V a row, of all agents' observations or of the state; r is the mean over the policy's agents, absent ones 0.
  dec         V, r and flags per agent; the squared error is averaged over the policy's agents.
With normalise_values V is in units of the spread of its targets in the squared error alone (nets/moments.py).
The entropy cost is fixed, or learned as exp(log c) with gradient entropy_cost_rate (target - H) in log c.
Turn-based games: an agent whose turn it is not at the unroll's end closes its column at its last decision, whose V it knows.

    symbol -> variable, shape:  r reward [T, B, U]   V value [T, B, U]   v targets   H entropy [n]   (U units with a value: 1 or N agents)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.base import Algorithm, seeded_generator
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, evaluate, join, tensor
from hpcmarl.config import ActorCriticConfig
from hpcmarl.errors import ConfigError
from hpcmarl.maths.vtrace import VTrace
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, PolicySpec, Rollout


class EntropyCost(nn.Module):
    """The logarithm of a learned entropy cost."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor([math.log(initial)]))


@dataclass
class Columns:
    """What the recursion runs on, [T, B, C] each; `last` [B, C]: the values after the last row."""

    value: FloatArray
    last: FloatArray
    final: FloatArray
    reward: FloatArray
    acts: BoolArray
    terminated: BoolArray
    truncated: BoolArray


class ActorCritic(Algorithm):
    """See the module's docstring for the loss, the critics and symbols."""

    unit = "unroll"

    def __init__(self, spec: EnvironmentSpec, config: ActorCriticConfig, seed: int) -> None:
        check_actor_critic(spec, config)
        generator = seeded_generator(seed)
        critic_network = config.critic_network or config.network
        policies, modules, self._critics, self._costs = {}, {}, {}, {}
        for policy in spec.policies:
            policies[policy.name] = Policy(policy, config.network, generator, normalise=config.normalise_observations)
            self._critics[policy.name] = Critic(
                _critic_inputs(spec, policy, config),
                critic_network,
                generator,
                normalise_inputs=config.normalise_observations,
                normalise_values=config.normalise_values,
            )
            parts: list[nn.Module] = [policies[policy.name], self._critics[policy.name]]
            if config.target_entropy is not None:
                self._costs[policy.name] = EntropyCost(config.entropy_cost)
                parts.append(self._costs[policy.name])
            modules[policy.name] = nn.ModuleList(parts)
        super().__init__(spec, policies, modules)
        self._config, self.averaging_rate = config, config.normalisation_rate
        self._central = config.critic != "dec"
        self.unroll = config.unroll
        self.needs_state = config.critic == "full"

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Sum over unrolls of minus the gradient of the loss. With normalise_advantages it depends on what is in one call.

        Statistics, averaged over rows and policies: policy_loss, value_loss, entropy, entropy_cost, mean_rho, mean_c,
        explained_variance, gradient_norm; with several policies each also as <name>_<policy>.
        """
        self._flat.zero_gradient()
        collected: dict[str, float] = {}
        slots = sum(rollout.count for rollout in rollouts)
        for steps in sorted({rollout.steps for rollout in rollouts}):
            batch = join([rollout for rollout in rollouts if rollout.steps == steps])
            central_input = self._central_input(batch) if self._central else None
            for policy in self.spec.policies:
                for key, number in self._learn(policy, batch, central_input).items():
                    share = number * batch.slots / slots
                    collected[key] = collected.get(key, 0.0) + share / len(self.spec.policies)
                    if len(self.spec.policies) > 1:
                        collected[f"{key}_{policy.name}"] = collected.get(f"{key}_{policy.name}", 0.0) + share
        return self._ascent(collected)

    def _learn(self, policy: PolicySpec, batch: Batch, central_input: tuple[Array, Array] | None) -> dict[str, float]:
        """Add one policy's share to the flat gradient; return its statistics."""
        config, part = self._config, batch.policies[policy.name]
        inputs, finals = _own_input(part) if central_input is None else central_input
        acts = part.alive[: batch.steps]
        units = Rows(_anybody(acts) if self._central else acts)
        critic, seen = self._critics[policy.name], tensor(units.pick(inputs[: batch.steps]))
        outputs: torch.Tensor = critic(seen)
        values = critic.values(outputs.detach()).numpy()
        columns = self._columns(batch, part, units.spread(values), *_later_values(critic, inputs[batch.steps], finals))
        evaluation = evaluate(self._policies[policy.name], part, batch.episode_start)
        trace = self._trace(columns, part, evaluation)
        advantages = evaluation.rows.pick(broadcast(trace.advantages, acts.shape))
        if config.normalise_advantages and evaluation.rows.count:
            advantages = self._normalised(advantages)
        targets, counted = self._unit_targets(trace, columns, acts, units)
        gain, told = self._gain(part, evaluation, advantages)
        wanted = tensor(targets)
        error = ((critic.outputs_for(wanted) - outputs).square() * tensor(counted)).sum() / (1 if self._central else len(policy.agents))
        spread, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + spread) / batch.steps
        objective.backward()  # type: ignore[no-untyped-call]
        if config.normalise_observations or config.normalise_values:
            counts = tensor(counted > 0)
            critic.observe(seen[counts], wanted[counts], 1.0 / batch.steps)
            own = part.obs[: batch.steps].reshape(*acts.shape, policy.observation_size)
            self._policies[policy.name].observe(tensor(evaluation.rows.pick(own)), 1.0 / batch.steps)
        rows = batch.steps * batch.slots
        return told | {
            "policy_loss": -float(gain.detach()) / rows,
            "value_loss": float(error.detach()) / rows,
            "entropy": float(evaluation.entropy.detach().sum()) / max(evaluation.rows.count, 1),
            "entropy_cost": cost,
            "mean_rho": trace.mean_rho,
            "mean_c": trace.mean_c,
            "explained_variance": _explained_variance(targets[counted > 0], values[counted > 0]),
        }

    @abstractmethod
    def _trace(self, columns: Columns, part: PolicyBatch, evaluation: Evaluation) -> VTrace:
        """Targets [T, B, U] of the values and advantages [T, B, C] of the actions (C columns: 1 for a team, or N agents)."""

    @abstractmethod
    def _gain(self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray) -> tuple[torch.Tensor, dict[str, float]]:
        """What the policy gains, summed over its acting rows with their advantages [n], differentiable; and statistics."""

    def _normalised(self, advantages: FloatArray) -> FloatArray:
        """With algo.normalise_advantages: the advantages [n] of one call, in units of their standard deviation."""
        return np.asarray(advantages / (advantages.std() + 1e-8))

    def _columns(self, batch: Batch, part: PolicyBatch, value: FloatArray, last: FloatArray, final: FloatArray) -> Columns:
        """The unit columns [T, B, U]. `final` [K, U] are the values of truncated episodes' last observations."""
        acts, scale = part.alive[: batch.steps], np.float32(self._config.reward_scale)
        reward, terminated, truncated = part.reward, part.terminated, part.truncated
        if self._central:
            acts, reward = _anybody(acts), reward.mean(-1, keepdims=True)
            # A team with nobody left at the end of a truncated episode has no future to bootstrap from.
            truncated = (batch.episode_end == 2)[:, :, None] & truncated.any(-1, keepdims=True)
            terminated = (batch.episode_end > 0)[:, :, None] & ~truncated
        # An agent cut off where no last observation is known (in mid-episode) is worth what it was worth a step before.
        final_value = value.copy()
        final_value[batch.final_step, batch.final_slot] = final
        columns = Columns(value, last, final_value, reward * scale, acts, terminated, truncated)
        if self.spec.turn_based:
            acts_next = part.alive[batch.steps]
            _close_at_last_decision(columns, _anybody(acts_next) if self._central else acts_next)
        return columns

    def _unit_targets(self, trace: VTrace, columns: Columns, acts: BoolArray, units: Rows) -> tuple[FloatArray, FloatArray]:
        """Targets of the value rows [n], and 1 where they count, 0 where the column was closed there."""
        targets = trace.targets
        if targets.shape[-1] > columns.value.shape[-1]:  # of each agent, for one value
            targets = (targets * acts).sum(-1, keepdims=True) / np.maximum(acts.sum(-1, keepdims=True), 1).astype(np.float32)
        return units.pick(targets), units.pick(columns.acts.astype(np.float32))

    def _entropy_terms(self, policy: PolicySpec, evaluation: Evaluation) -> tuple[torch.Tensor, float]:
        """What the entropy adds to the objective (times T), and the cost. The bonus does not move the cost, nor the rule the policy."""
        entropy = evaluation.entropy.sum()
        if self._config.target_entropy is None:
            return self._config.entropy_cost * entropy, self._config.entropy_cost
        logarithm = self._costs[policy.name].logarithm[0]
        cost = float(logarithm.detach().exp())
        maximum = self._policies[policy.name].head.maximum_entropy(evaluation.mask, evaluation.rows.count).sum()
        missing = self._config.target_entropy * maximum - entropy.detach()
        return cost * entropy + self._config.entropy_cost_rate * logarithm * missing, cost

    def _central_input(self, batch: Batch) -> tuple[Array, Array]:
        """The central critics' input [T+1, B, 1, D], and that of truncated episodes' ends [K, 1, D]."""
        if self._config.critic == "full":
            if batch.state is None or batch.final_state is None:
                raise ValueError("algo.critic is full, but a rollout carries no state")
            return batch.state[:, :, None], batch.final_state[:, None]
        parts = [batch.policies[policy.name] for policy in self.spec.policies]
        rows, slots, finals = batch.steps + 1, batch.slots, len(batch.final_step)
        inputs = [part.obs.reshape(rows, slots, 1, -1) for part in parts]
        ends = [part.final_obs.reshape(finals, 1, int(np.prod(part.final_obs.shape[1:]))) for part in parts]
        return (inputs[0], ends[0]) if len(parts) == 1 else (np.concatenate(inputs, -1), np.concatenate(ends, -1))


def check_actor_critic(spec: EnvironmentSpec, config: ActorCriticConfig) -> None:
    """Raises ConfigError where the environment does not fit the configuration."""
    if config.critic == "full" and spec.state_size is None:
        raise ConfigError(f"algo.critic: full needs the environment's state, and {spec.id} has none; use algo.critic: obs or dec")
    if spec.turn_based and config.critic != "dec" and any(len(policy.agents) > 1 for policy in spec.policies):
        raise ConfigError(f"algo.critic: dec is needed for turn-based games whose agents share a policy, not {config.critic} (env.id: {spec.id})")
    if config.target_entropy is not None:
        if any(policy.action.kind == "continuous" for policy in spec.policies):
            raise ConfigError(f"algo.target_entropy: {config.target_entropy} needs discrete actions, {spec.id} has continuous ones; set it to null")
        if config.entropy_cost == 0:
            raise ConfigError("algo.entropy_cost: 0 cannot be learned from; with algo.target_entropy it must be above 0, for instance 0.01")


def _critic_inputs(spec: EnvironmentSpec, policy: PolicySpec, config: ActorCriticConfig) -> int:
    if config.critic == "full":
        return spec.state_size or 0
    if config.critic == "dec":
        return policy.observation_size
    return sum(len(each.agents) * each.observation_size for each in spec.policies)


def _own_input(part: PolicyBatch) -> tuple[Array, Array]:
    """Each agent's own observation, [T+1, B, N, D] and [K, N, D]."""
    size = int(np.prod(part.obs.shape[3:]))
    return part.obs.reshape(*part.obs.shape[:3], size), part.final_obs.reshape(*part.final_obs.shape[:2], size)


def _later_values(critic: Critic, last: Array, finals: Array) -> tuple[FloatArray, FloatArray]:
    """Values of the row after the unroll [B, U] and of truncated episodes' ends [K, U], without gradient."""
    slots, units, size = last.shape
    with torch.no_grad():
        values = critic.values(critic(tensor(np.concatenate([last.reshape(-1, size), finals.reshape(-1, size)])))).numpy()
    return values[: slots * units].reshape(slots, units), values[slots * units :].reshape(-1, units)


def _close_at_last_decision(columns: Columns, acts_next: BoolArray) -> None:
    """Columns that end in a gap: their value after the last row is of an observation they did not act on, so never trained.
    The last decision's own value is known; it closes the column, and that decision itself is left out."""
    steps = len(columns.acts)
    rows = np.arange(steps).reshape(-1, 1, 1)
    last_act = np.where(columns.acts, rows, -1).max(0)
    last_cut = np.where(columns.terminated | columns.truncated, rows, -1).max(0)
    slot, unit = np.nonzero(~acts_next & (last_act > last_cut))
    at = (last_act[slot, unit], slot, unit)
    columns.acts, columns.truncated, columns.reward = columns.acts.copy(), columns.truncated.copy(), columns.reward.copy()
    columns.acts[at], columns.truncated[at], columns.reward[at] = False, True, 0.0


def _anybody(acts: BoolArray) -> BoolArray:
    """[..., N] -> [..., 1]: does any agent act?"""
    return np.logical_or.reduce(acts, axis=-1, keepdims=True)


def broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    return array if array.shape == shape else np.broadcast_to(array, shape)


def _explained_variance(targets: FloatArray, values: FloatArray) -> float:
    """1 - Var(target - V) / Var(target); 0 where the targets do not vary."""
    variance = float(targets.var()) if targets.size else 0.0
    return 1.0 - float((targets - values).var()) / variance if variance > 0 else 0.0
