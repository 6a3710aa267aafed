"""Actor-critics with a critic of observations or states; the base of ma_trace.py and ppo.py.

One recursion yields targets and advantages. Subclasses define the objective of the policy
(`_surrogate_objective`) and the targets of V (`_trace`). Critics (algo.critic):

- joint_observation, state: one V for each row of the game, from all agents' observations or from the state.
- the same with algo.critic_input: agent: one V for each agent in every row of the game. Its input also holds
  the agent's own observation (and number, with agent_id), with zeros for a dead agent. Time, rewards and ends
  are the team's. The loss is the mean over the policy's agents.
- independent: one V for each agent, from its own input. The loss is the mean over the policy's agents.

Recurrent critics (algo.critic_network.body: gru or lstm) process each unroll from its first row. They start
with the memory that the learner had of the slot when the unroll arrived (roles/learner/critic_memory.py).
Gradients stop at the first row. The memory is zero at the first row of an episode.

In turn-based games, an agent that is not on turn after the unroll closes its column at its last decision, for
which V is known. The loss and symbols are in actor_critic.py.
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
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, UnitRows, anybody, join
from hpcmarl.algos.critic_inputs import NOWHERE, Places, critic_inputs
from hpcmarl.algos.shared_features import SharedFeatures
from hpcmarl.algos.value_loss import value_losses
from hpcmarl.config import ValueCriticConfig
from hpcmarl.maths.vtrace import VTrace
from hpcmarl.nets.critic import Critic, form_of
from hpcmarl.nets.device import array, device_of, numbers, tensor
from hpcmarl.nets.inputs import RowInputs, row_inputs
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, PolicySpec, Rollout


class Memory(NamedTuple):
    """Memory of a recurrent critic.

    Attributes:
        after: Memory after the last row, shape [B, U, H]; zero in slots in which an episode begins then.
        finals: Memory at truncated ends, shape [K, U, H].
    """

    after: FloatArray
    finals: FloatArray


@dataclass
class Valued:
    """A critic's inputs and outputs for a batch, with n rows of its units that have a value.

    Attributes:
        rows: Rows and ends of the units.
        units: The same rows, to convert arrays.
        critic_inputs: Inputs in these n rows.
        outputs: Outputs, shape [n], differentiable.
        values: Values in units of the rewards, shape [n].
        after: Inputs after the last row, [B, U, D] or records [B, U].
        finals: Inputs at the ends of truncated episodes, [K, U, D] or records [K, U].
        memory: Memory of a recurrent critic; None for feed-forward critics.
    """

    rows: UnitRows
    units: Rows
    critic_inputs: RowInputs
    outputs: torch.Tensor
    values: FloatArray
    after: Array
    finals: Array
    memory: Memory | None


@dataclass(frozen=True)
class Estimates:
    """Constants of a gradient: advantages of n active rows, and targets of m rows with a value.

    Attributes:
        advantages: Advantages of the policy's actions, shape [n].
        rho: Ratios that the advantages contain, shape [n].
        targets: Targets of the critic, shape [m].
        counted: 1 in rows that the critic learns from, else 0, shape [m].
        mean_rho: Mean clipped ratio rho.
        mean_c: Mean clipped ratio c.
    """

    advantages: FloatArray
    rho: FloatArray
    targets: FloatArray
    counted: FloatArray
    mean_rho: float
    mean_c: float


class ValueCritic(ActorCritic):
    """Actor-critic with a critic of observations or states; see the module's docstring."""

    _config: ValueCriticConfig

    def __init__(self, spec: EnvironmentSpec, config: ValueCriticConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._each = self._central and config.critic_input == "agent"

    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        config, part, evaluation = self._config, batch.policies[policy.name], shared.evaluations[policy.name]
        critic, valued = self._critics[policy.name], self._valued(policy, batch, shared)
        estimates = self._estimates(policy, batch, shared, valued)
        gain, statistics = self._surrogate_objective(part, evaluation, estimates.advantages)
        values, counted, targets = valued.values, estimates.counted, self.tensor(estimates.targets)
        before = None if batch.records is None else valued.units.pick(batch.records[policy.name].outputs)
        losses = self._value_losses(valued.outputs, critic.outputs_for(targets), before)
        error = (losses * self.tensor(counted)).sum() / (
            1 if self._central and not self._each else len(policy.agents)
        )
        bonus, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + bonus) / batch.steps
        objective.backward()  # type: ignore[no-untyped-call]
        learned = valued.critic_inputs, targets, self.tensor(np.flatnonzero(counted > 0))
        self._observe(policy, part, evaluation, learned)
        total_gain, total_error, entropy = numbers(gain, error, evaluation.entropy.detach().sum())
        size = batch.steps * batch.slots
        return statistics | {
            "policy_loss": -total_gain / size,
            "value_loss": total_error / size,
            "entropy": entropy / max(evaluation.rows.count, 1),
            "entropy_cost": cost,
            "mean_rho": estimates.mean_rho,
            "mean_c": estimates.mean_c,
            "value": float(values.mean()) if values.size else 0.0,
            "explained_variance": explained_variance(estimates.targets[counted > 0], values[counted > 0]),
        }

    def _valued(self, policy: PolicySpec, batch: Batch, shared: Shared) -> Valued:
        """Evaluate a policy's critic on a batch."""
        inputs, finals = self._critic_inputs(policy, batch, shared)
        rows = (
            self._agent_rows(policy, batch, shared.game)
            if self._each
            else self._rows(policy, batch, shared.game)
        )
        critic = self._critics[policy.name]
        units = Rows(rows.active)
        seen, before = (
            shared.features.inputs(
                critic.form, row_inputs(units.pick(inputs[: batch.steps]), 1, self.device)
            ),
            batch.policies[policy.name].critic_memory,
        )
        outputs, memory = (
            recall(critic, batch, inputs, rows.active, before, shared.features)
            if critic.memory_size
            else (critic(seen), None)
        )
        return Valued(
            rows,
            units,
            seen,
            outputs,
            array(critic.values(outputs.detach())),
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

    def _critic_inputs(self, policy: PolicySpec, batch: Batch, shared: Shared) -> tuple[Array, Array]:
        """Return the inputs of a policy's critic.

        Returns:
            Inputs of all rows, [T+1, B, U, D] or records [T+1, B, U], and of the ends of truncated episodes,
            [K, U, D] or records [K, U].
        """
        if shared.central_input is not None and not self._each:
            return shared.central_input
        return self._join_inputs(policy, batch, shared.features.places)

    def _central_input(self, batch: Batch, places: Places) -> tuple[Array, Array] | None:
        if not self._central or self._each:
            return None
        return self._join_inputs(self.spec.policies[0], batch, places)

    def _join_inputs(self, policy: PolicySpec, batch: Batch, places: Places = NOWHERE) -> tuple[Array, Array]:
        units = len(policy.agents) if self._each or not self._central else 1
        return critic_inputs(form_of(self._critics[policy.name]), batch, policy, units, places)

    def _estimates(self, policy: PolicySpec, batch: Batch, shared: Shared, valued: Valued) -> Estimates:
        """Compute targets and advantages at the present values.

        Advantages are normalised if algo.normalise_advantages is set.
        """
        fresh = self._fresh(policy, batch, shared, valued)
        return replace(fresh, advantages=self._normalised(fresh.advantages, fresh.rho))

    def _fresh(self, policy: PolicySpec, batch: Batch, shared: Shared, valued: Valued) -> Estimates:
        """Compute the same estimates without normalisation."""
        part = batch.policies[policy.name]
        active, acts_next = part.alive[: batch.steps], part.alive[batch.steps]
        later = _later_values(self._critics[policy.name], valued, shared.features)
        columns = self._columns(batch, part, valued.rows, valued.units.spread(valued.values), *later)
        columns = replace(columns, reward=broadcast(columns.reward, columns.value.shape))
        if self.spec.turn_based:
            close_at_last_decision(columns, anybody([acts_next]) if self._central else acts_next)
        trace = self._trace(policy, columns, batch, shared.evaluations)
        agents = Rows(active)
        advantages, rho = (
            agents.pick(broadcast(each, active.shape)) for each in (trace.advantages, trace.rho)
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
        """Return the losses of the critic.

        Args:
            outputs: Outputs of the critic, shape [n].
            targets: Targets in units of the outputs, shape [n].
            before: Recorded outputs from the beginning of the batch, shape [n]; None without records.

        Returns:
            Losses, shape [n].
        """
        return value_losses(self._config, outputs, targets)

    @abstractmethod
    def _trace(
        self, policy: PolicySpec, columns: Columns, batch: Batch, evaluations: Mapping[str, Evaluation]
    ) -> VTrace:
        """Compute targets of the policy's values and advantages of its actions.

        Args:
            policy: The policy.
            columns: Values, rewards and ends, shape [T, B, U].
            batch: The batch.
            evaluations: Evaluations of all policies, by name.

        Returns:
            Targets and advantages, shape [T, B, C]. C is 1 for a team, or the N agents.
        """

    @abstractmethod
    def _surrogate_objective(
        self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the policy's objective and statistics.

        Args:
            part: The policy's arrays.
            evaluation: The policy's active rows.
            advantages: Advantages of these rows, shape [n].

        Returns:
            The objective summed over the active rows (differentiable), and statistics.
        """

    def _unit_targets(
        self, trace: VTrace, columns: Columns, active: BoolArray, units: Rows
    ) -> tuple[FloatArray, FloatArray]:
        """Return the targets of the rows with a value, and whether they count.

        Args:
            trace: Targets of the columns.
            columns: The columns.
            active: Rows in which each agent acts, shape [T, B, N].
            units: Rows of the units.

        Returns:
            Targets [n], and 1 in rows that count, 0 in rows at which a column was closed [n].
        """
        targets = trace.targets
        # One value has several targets: take the mean over the active agents, or over all if none is active.
        if targets.shape[-1] > columns.value.shape[-1]:
            weight = np.where(anybody([active]), active, np.True_)
            targets = (targets * weight).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True).astype(
                np.float32
            )
        return units.pick(targets), units.pick(columns.active.astype(np.float32))


def recall(
    critic: Critic,
    batch: Batch,
    inputs: Array,
    active: BoolArray,
    before: FloatArray | None,
    features: SharedFeatures,
) -> tuple[torch.Tensor, Memory]:
    """Evaluate a recurrent critic on the unrolls of a batch.

    Args:
        critic: A recurrent critic.
        batch: The batch, for the beginnings and truncated ends of episodes.
        inputs: Inputs of the critic, [T+1, B, U, D] or records [T+1, B, U].
        active: Rows with a value, shape [T, B, U].
        before: Memory before row 0, shape [B, U, H]; None: zeros.
        features: Features of encoded inputs.

    Returns:
        Outputs of the active rows [n], differentiable, and the memory.
    """
    steps, starts = batch.steps, batch.episode_start
    now = np.zeros((*active.shape[1:], critic.memory_size), np.float32) if before is None else before
    device = device_of(critic)
    rows = features.inputs(critic.form, row_inputs(inputs[:steps], 3, device))
    outputs, hidden = critic.unroll(rows, active, starts[:steps], tensor(now, device))
    remembered = np.zeros((*active.shape, critic.memory_size), np.float32)
    remembered[active] = array(hidden)
    for row in range(steps):
        now = np.where(starts[row][:, None, None], np.float32(0.0), now)
        now = remembered[row] = np.where(active[row][..., None], remembered[row], now)
    after = np.where(starts[steps][:, None, None], np.float32(0.0), now)
    return outputs, Memory(after, remembered[batch.final_step, batch.final_slot])


def _later_values(critic: Critic, valued: Valued, features: SharedFeatures) -> tuple[FloatArray, FloatArray]:
    """Compute the values after the unroll, without gradient.

    Returns:
        Values of the row after the unroll, shape [B, U], and of the ends of truncated episodes, shape [K, U].
    """
    slots, units = valued.after.shape[:2]
    device, memory = device_of(critic), valued.memory
    ends = [part.reshape(-1, *part.shape[2:]) for part in (valued.after, valued.finals)]
    seen = features.inputs(critic.form, row_inputs(np.concatenate(ends), 1, device), later=True)
    with torch.no_grad():
        if memory is None:
            outputs = critic(seen)
        else:
            outputs = critic.step(
                seen,
                tensor(np.concatenate([part.reshape(-1, critic.memory_size) for part in memory]), device),
            )
        values = array(critic.values(outputs))
    return values[: slots * units].reshape(slots, units), values[slots * units :].reshape(-1, units)


def broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    """Broadcast an array to a shape; return the array itself if it has that shape."""
    return array if array.shape == shape else np.broadcast_to(array, shape)
