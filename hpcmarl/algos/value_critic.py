"""Actor-critics whose critic values what is seen: targets and advantages by one recursion. The base of
ma_trace.py and ppo.py.

Subclasses say what the policy gains (`_gain`) and which targets V learns from (`_trace`). Critics
(algo.critic):
  joint_observation, state   one V for each row of the game, from all agents' observations or from the state.
      With algo.critic_input: agent, one V for each agent, from that and from the agent's own observation (and
      number, with agent_id), in every row of the game. A dead agent has zeros there: time, rewards and ends
      are the team's. The loss is the mean over the policy's agents.
  independent   one V for each agent, from its own input; the loss is the mean over the policy's agents.
Recurrent critics (algo.critic_network.recurrent) go through each unroll from its first row, with the memory
that the learner had of the slot when the unroll came (roles/learner/critic_memory.py); gradients stop at the
first row. An episode's first row begins with zeros. Turn-based games: an agent whose turn it is not at the
unroll's end closes its column at its last decision, whose V it knows. The loss and symbols: actor_critic.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from hpcmarl.algos.actor_critic import (
    ActorCritic,
    Columns,
    Shared,
    close_at_last_decision,
    explained_variance,
)
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, UnitRows, anybody, join, tensor
from hpcmarl.algos.value_loss import value_losses
from hpcmarl.config import ValueCriticConfig
from hpcmarl.maths.vtrace import VTrace
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.numpy_policy import numbered
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, PolicySpec, Rollout


class Memory(NamedTuple):
    """What a recurrent critic remembers: after the last row [B, U, H], zero where an episode begins then, and
    at truncated ends [K, U, H]."""

    after: FloatArray
    finals: FloatArray


@dataclass
class Valued:
    """A critic's inputs seen [n, D] in the rows of its units, its outputs [n] (differentiable) and the values
    [n] that they stand for; the inputs after the last row [B, U, D] and of truncated episodes' ends [K, U,
    D]."""

    rows: UnitRows
    units: Rows
    critic_inputs: torch.Tensor
    outputs: torch.Tensor
    values: FloatArray
    after: Array
    finals: Array
    memory: Memory | None


@dataclass(frozen=True)
class Estimates:
    """What a gradient takes as given: advantages of the policy's acting rows, with their ratios rho, [n]
    each; targets of the rows with a value and counted, 1 where these are learned from, else 0, [m] each."""

    advantages: FloatArray
    rho: FloatArray
    targets: FloatArray
    counted: FloatArray
    mean_rho: float
    mean_c: float


class ValueCritic(ActorCritic):
    """See the module's docstring."""

    _config: ValueCriticConfig

    def __init__(self, spec: EnvironmentSpec, config: ValueCriticConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._each = self._central and config.critic_input == "agent"

    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        config, part, evaluation = self._config, batch.policies[policy.name], shared.evaluations[policy.name]
        critic, valued = self._critics[policy.name], self._valued(policy, batch, shared)
        estimates = self._estimates(policy, batch, shared, valued)
        gain, statistics = self._surrogate_objective(part, evaluation, estimates.advantages)
        values, counted, targets = valued.values, estimates.counted, tensor(estimates.targets)
        before = None if batch.records is None else valued.units.pick(batch.records[policy.name].outputs)
        losses = self._value_losses(valued.outputs, critic.outputs_for(targets), before)
        error = (losses * tensor(counted)).sum() / (
            1 if self._central and not self._each else len(policy.agents)
        )
        spread, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + spread) / batch.steps
        objective.backward()  # type: ignore[no-untyped-call]
        self._observe(policy, part, evaluation, (valued.critic_inputs, targets, tensor(counted > 0)))
        size = batch.steps * batch.slots
        return statistics | {
            "policy_loss": -float(gain.detach()) / size,
            "value_loss": float(error.detach()) / size,
            "entropy": float(evaluation.entropy.detach().sum()) / max(evaluation.rows.count, 1),
            "entropy_cost": cost,
            "mean_rho": estimates.mean_rho,
            "mean_c": estimates.mean_c,
            "value": float(values.mean()) if values.size else 0.0,
            "explained_variance": explained_variance(estimates.targets[counted > 0], values[counted > 0]),
        }

    def _valued(self, policy: PolicySpec, batch: Batch, shared: Shared) -> Valued:
        """What a policy's critic says of a batch."""
        inputs, finals = self._critic_input(batch.policies[policy.name], shared.central_input)
        rows = (
            self._agent_rows(policy, batch, shared.game)
            if self._each
            else self._rows(policy, batch, shared.game)
        )
        critic = self._critics[policy.name]
        units = Rows(rows.active)
        critic_inputs, before = (
            tensor(units.pick(inputs[: batch.steps])),
            batch.policies[policy.name].critic_memory,
        )
        outputs, memory = (
            recall(critic, batch, inputs, rows.active, before)
            if critic.memory_size
            else (critic(critic_inputs), None)
        )
        return Valued(
            rows,
            units,
            critic_inputs,
            outputs,
            critic.values(outputs.detach()).numpy(),
            inputs[batch.steps],
            finals,
            memory,
        )

    @torch.no_grad()
    def critic_memory(self, rollout: Rollout) -> dict[str, FloatArray]:
        if not any(critic.memory_size for critic in self._critics.values()):
            return {}
        batch = join([rollout])
        shared = self._shared(batch, evaluated=False)
        memories = {policy.name: self._valued(policy, batch, shared).memory for policy in self.spec.policies}
        return {name: memory.after for name, memory in memories.items() if memory is not None}

    def _critic_input(self, part: PolicyBatch, central: tuple[Array, Array] | None) -> tuple[Array, Array]:
        """The inputs of a policy's critic [T+1, B, U, D], and those of truncated episodes' ends [K, U, D];
        central: of central critics."""
        if central is None:
            return own_input(part, self._config.agent_id)
        if not self._each:
            return central
        own = own_input(part, self._config.agent_id)
        rows, finals = (
            np.concatenate(
                [np.broadcast_to(critic_inputs, (*each.shape[:-1], critic_inputs.shape[-1])), each], -1
            )
            for critic_inputs, each in zip(central, own, strict=True)
        )
        return rows, finals

    def _estimates(self, policy: PolicySpec, batch: Batch, shared: Shared, valued: Valued) -> Estimates:
        """Targets, and normalised advantages where algo.normalise_advantages asks for them, at the present
        values."""
        fresh = self._fresh(policy, batch, shared, valued)
        return replace(fresh, advantages=self._normalised(fresh.advantages, fresh.rho))

    def _fresh(self, policy: PolicySpec, batch: Batch, shared: Shared, valued: Valued) -> Estimates:
        """The same with advantages as they are."""
        part = batch.policies[policy.name]
        active, acts_next = part.alive[: batch.steps], part.alive[batch.steps]
        later = _later_values(self._critics[policy.name], valued.after, valued.finals, valued.memory)
        columns = self._columns(batch, part, valued.rows, valued.units.spread(valued.values), *later)
        columns = replace(columns, reward=broadcast(columns.reward, columns.value.shape))
        if self.spec.turn_based:
            close_at_last_decision(columns, anybody([acts_next]) if self._central else acts_next)
        trace = self._trace(policy, columns, batch, shared.evaluations)
        agents = Rows(active)
        advantages, rho = (
            agents.pick(broadcast(array, active.shape)) for array in (trace.advantages, trace.rho)
        )
        return Estimates(
            advantages,
            rho,
            *self._unit_targets(trace, columns, active, valued.units),
            trace.mean_rho,
            trace.mean_c,
        )

    def _value_losses(
        self, outputs: torch.Tensor, targets: torch.Tensor, before: FloatArray | None
    ) -> torch.Tensor:
        """The losses [n] of the critic's outputs [n]; before [n]: those of the batch's beginning, where they
        were recorded."""
        return value_losses(self._config, outputs, targets)

    @abstractmethod
    def _trace(
        self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> VTrace:
        """Targets [T, B, U] of the policy's values and advantages [T, B, C] of its actions (C columns: 1 for
        a team, or N agents).

        evaluations: of all policies, by name."""

    @abstractmethod
    def _surrogate_objective(
        self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """What the policy gains, summed over its acting rows with their advantages [n], differentiable; and
        statistics."""

    def _unit_targets(
        self, trace: VTrace, columns: Columns, active: BoolArray, units: Rows
    ) -> tuple[FloatArray, FloatArray]:
        """Targets of the value rows [n], and 1 where they count, 0 where the column was closed there."""
        targets = trace.targets
        # of each agent, for one value: of those that act, or of all where none does
        if targets.shape[-1] > columns.value.shape[-1]:
            weight = np.where(anybody([active]), active, np.True_)
            targets = (targets * weight).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True).astype(
                np.float32
            )
        return units.pick(targets), units.pick(columns.active.astype(np.float32))


def own_input(part: PolicyBatch, agent_id: bool) -> tuple[Array, Array]:
    """Each agent's own observation, with its number or without, [T+1, B, N, D] and [K, N, D]."""
    size = int(np.prod(part.obs.shape[3:]))
    rows, finals = (
        part.obs.reshape(*part.obs.shape[:3], size),
        part.final_obs.reshape(*part.final_obs.shape[:2], size),
    )
    return (numbered(rows), numbered(finals)) if agent_id else (rows, finals)


def recall(
    critic: Critic, batch: Batch, inputs: Array, active: BoolArray, before: FloatArray | None
) -> tuple[torch.Tensor, Memory]:
    """Go through the unrolls with a recurrent critic.

    Args:
        critic: A recurrent critic.
        batch: For where episodes begin and were truncated.
        inputs: [T+1, B, U, D].
        active: Rows with a value, [T, B, U].
        before: The memory before row 0, [B, U, H]; None: zeros.

    Returns:
        Outputs of the acting rows [n], differentiable, and the memory.
    """
    steps, starts = batch.steps, batch.episode_start
    now = np.zeros((*active.shape[1:], critic.memory_size), np.float32) if before is None else before
    outputs, hidden = critic.unroll(tensor(inputs[:steps]), active, starts[:steps], tensor(now))
    remembered = np.zeros((*active.shape, critic.memory_size), np.float32)
    remembered[active] = hidden.numpy()
    for row in range(steps):
        now = np.where(starts[row][:, None, None], np.float32(0.0), now)
        now = remembered[row] = np.where(active[row][..., None], remembered[row], now)
    after = np.where(starts[steps][:, None, None], np.float32(0.0), now)
    return outputs, Memory(after, remembered[batch.final_step, batch.final_slot])


def _later_values(
    critic: Critic, last: Array, finals: Array, memory: Memory | None
) -> tuple[FloatArray, FloatArray]:
    """Values of the row after the unroll [B, U] and of truncated episodes' ends [K, U], without gradient."""
    slots, units, size = last.shape
    critic_inputs = tensor(np.concatenate([last.reshape(-1, size), finals.reshape(-1, size)]))
    with torch.no_grad():
        if memory is None:
            outputs = critic(critic_inputs)
        else:
            outputs = critic.step(
                critic_inputs,
                tensor(np.concatenate([array.reshape(-1, critic.memory_size) for array in memory])),
            )
        values = critic.values(outputs).numpy()
    return values[: slots * units].reshape(slots, units), values[slots * units :].reshape(-1, units)


def broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    return array if array.shape == shape else np.broadcast_to(array, shape)
