"""Actor-critics whose critic values what is seen: targets and advantages by one recursion. The base of ma_trace.py and ppo.py.

Subclasses say what the policy gains (`_gain`) and which targets V learns from (`_trace`). Critics (algo.critic):
  obs, full   one V a row, of all agents' observations or of the state.
  dec         V per agent, of what its policy sees; the squared error is averaged over the policy's agents.
Turn-based games: an agent whose turn it is not at the unroll's end closes its column at its last decision, whose V it knows.
The loss and symbols: actor_critic.py.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch

from hpcmarl.algos.actor_critic import ActorCritic, Columns, anybody, close_at_last_decision, explained_variance
from hpcmarl.algos.batch import Batch, Evaluation, PolicyBatch, Rows, evaluate, tensor
from hpcmarl.maths.vtrace import VTrace
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.policy import numbered
from hpcmarl.types import Array, BoolArray, FloatArray, PolicySpec


class ValueCritic(ActorCritic):
    """See the module's docstring."""

    def _learn(self, policy: PolicySpec, batch: Batch, central_input: tuple[Array, Array] | None) -> dict[str, float]:
        """Add one policy's share to the flat gradient; return its statistics."""
        config, part = self._config, batch.policies[policy.name]
        inputs, finals = own_input(part, config.agent_id) if central_input is None else central_input
        acts = part.alive[: batch.steps]
        units = Rows(anybody(acts) if self._central else acts)
        critic, seen = self._critics[policy.name], tensor(units.pick(inputs[: batch.steps]))
        outputs: torch.Tensor = critic(seen)
        values = critic.values(outputs.detach()).numpy()
        columns = self._columns(batch, part, units.spread(values), *_later_values(critic, inputs[batch.steps], finals))
        if self.spec.turn_based:
            acts_next = part.alive[batch.steps]
            close_at_last_decision(columns, anybody(acts_next) if self._central else acts_next)
        evaluation = evaluate(self._policies[policy.name], part, batch.episode_start)
        trace = self._trace(columns, part, evaluation)
        advantages = self._normalised(*(evaluation.rows.pick(broadcast(array, acts.shape)) for array in (trace.advantages, trace.rho)))
        targets, counted = self._unit_targets(trace, columns, acts, units)
        gain, told = self._gain(part, evaluation, advantages)
        wanted = tensor(targets)
        error = ((critic.outputs_for(wanted) - outputs).square() * tensor(counted)).sum() / (1 if self._central else len(policy.agents))
        spread, cost = self._entropy_terms(policy, evaluation)
        objective = (gain - config.value_cost * error + spread) / batch.steps
        objective.backward()  # type: ignore[no-untyped-call]
        self._observe(policy, part, evaluation, (seen, wanted, tensor(counted > 0)))
        rows = batch.steps * batch.slots
        return told | {
            "policy_loss": -float(gain.detach()) / rows,
            "value_loss": float(error.detach()) / rows,
            "entropy": float(evaluation.entropy.detach().sum()) / max(evaluation.rows.count, 1),
            "entropy_cost": cost,
            "mean_rho": trace.mean_rho,
            "mean_c": trace.mean_c,
            "value": float(values.mean()) if values.size else 0.0,
            "explained_variance": explained_variance(targets[counted > 0], values[counted > 0]),
        }

    @abstractmethod
    def _trace(self, columns: Columns, part: PolicyBatch, evaluation: Evaluation) -> VTrace:
        """Targets [T, B, U] of the values and advantages [T, B, C] of the actions (C columns: 1 for a team, or N agents)."""

    @abstractmethod
    def _gain(self, part: PolicyBatch, evaluation: Evaluation, advantages: FloatArray) -> tuple[torch.Tensor, dict[str, float]]:
        """What the policy gains, summed over its acting rows with their advantages [n], differentiable; and statistics."""

    def _unit_targets(self, trace: VTrace, columns: Columns, acts: BoolArray, units: Rows) -> tuple[FloatArray, FloatArray]:
        """Targets of the value rows [n], and 1 where they count, 0 where the column was closed there."""
        targets = trace.targets
        if targets.shape[-1] > columns.value.shape[-1]:  # of each agent, for one value
            targets = (targets * acts).sum(-1, keepdims=True) / np.maximum(acts.sum(-1, keepdims=True), 1).astype(np.float32)
        return units.pick(targets), units.pick(columns.acts.astype(np.float32))


def own_input(part: PolicyBatch, agent_id: bool) -> tuple[Array, Array]:
    """Each agent's own observation, with its number or without, [T+1, B, N, D] and [K, N, D]."""
    size = int(np.prod(part.obs.shape[3:]))
    rows, finals = part.obs.reshape(*part.obs.shape[:3], size), part.final_obs.reshape(*part.final_obs.shape[:2], size)
    return (numbered(rows), numbered(finals)) if agent_id else (rows, finals)


def _later_values(critic: Critic, last: Array, finals: Array) -> tuple[FloatArray, FloatArray]:
    """Values of the row after the unroll [B, U] and of truncated episodes' ends [K, U], without gradient."""
    slots, units, size = last.shape
    with torch.no_grad():
        values = critic.values(critic(tensor(np.concatenate([last.reshape(-1, size), finals.reshape(-1, size)])))).numpy()
    return values[: slots * units].reshape(slots, units), values[slots * units :].reshape(-1, units)


def broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    return array if array.shape == shape else np.broadcast_to(array, shape)
