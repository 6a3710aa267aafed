"""Common parts of the actor-critics: critics, the columns of the recursions, and the entropy cost.

The loss of one unroll of T steps is

    loss = (1/T) sum_t [ - gain_t + value_cost L(v_t - V_t) - c_ent sum_k H_k ]

where L(e) is e^2 or the Huber loss (value_loss.py), and k runs over the agents of a policy that act in row t.
Subclasses define V: a value of rows (value_critic.py) or of actions (coma.py).

Rewards and ends depend on algo.critic. With `joint_observation` or `state`, a central critic sees all agents'
observations or the state. Its reward r is the mean over the policy's agents, with 0 for absent ones, and its
ends are those of the episode. With `independent`, every agent has its own rewards and ends.

With a central critic, every row of the game counts (batch.game_rows). The critic of each policy discounts,
evaluates and learns from all of them, even after the death of some agents. The gain of the policy covers only
the rows in which an agent acts. With independent critics, an agent's time ends with its death. In turn-based
games, time counts a policy's own decisions, and the rewards of the turns between them are added up.

With shared_encoder, the encoder of a policy computes the features of each observation once, for the policy
and for all critics that see it (shared_features.py). The losses of all of them train it.

With normalise_advantages, the advantages of one gradient are shifted to mean 0, weighted by their ratios, and
scaled to standard deviation 1 (maths/vtrace.py). With normalise_values, V is in units of the spread of its
targets inside L alone (nets/moments.py).

The entropy cost c_ent is constant, or falls linearly with the environment steps of the run, or is learned. A
learned cost is c = exp(log c), and log c has the gradient entropy_cost_rate (target - H).

    symbol    variable    shape
    r         reward      [T, B, U]
    V         value       [T, B, U]
    v         targets     [T, B, U]
    H         entropy     [n]

Here U is the number of units with a value: 1, or the N agents of a policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import (
    Batch,
    Evaluation,
    PolicyBatch,
    UnitRows,
    anybody,
    evaluate,
    game_rows,
    join,
    seen_by,
)
from hpcmarl.algos.critic_inputs import Places
from hpcmarl.algos.network_design import shared_features
from hpcmarl.algos.shared_features import SharedFeatures
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import ActorCriticConfig
from hpcmarl.maths.schedules import falling
from hpcmarl.maths.vtrace import normalised_advantages
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.device import numbers
from hpcmarl.nets.inputs import RowInputs, take
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, PolicySpec, Rollout


@dataclass
class Columns:
    """Arrays of a recursion over C columns.

    Attributes:
        value: Values, shape [T, B, C].
        last: Values after the last row, shape [B, C].
        final: Values of the last observations, shape [T, B, C]; used in truncated rows.
        reward: Rewards, shape [T, B, C].
        active: Rows that have a value, shape [T, B, C].
        terminated: Rows that terminate, shape [T, B, C].
        truncated: Rows that are truncated, shape [T, B, C].
    """

    value: FloatArray
    last: FloatArray
    final: FloatArray
    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class Shared:
    """Inputs of one gradient that the computations of all policies share.

    Attributes:
        evaluations: Evaluations by policy.
        central_input: Inputs that the critics of all policies share, from `_central_input`; None: they share
            none.
        game: The rows of all critics from `_game`; None if each policy has its own.
        features: Features of the policies' encoders that critics use, too.
    """

    evaluations: dict[str, Evaluation]
    central_input: tuple[Array, Array] | None
    game: UnitRows | None
    features: SharedFeatures


class ActorCritic(Algorithm):
    """Base of the actor-critics; the module's docstring has the loss, the critics and the symbols."""

    _config: ActorCriticConfig

    def __init__(self, spec: EnvironmentSpec, config: ActorCriticConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._config, self._central = config, config.critic != "independent"
        self._critics = critics_of(self._modules)
        self._sharing = tuple(shared_features(spec, config))
        self._entropy_cost = config.entropy_cost
        self._limit = ValueLimit(spec, config.discount)

    def on_progress(self, env_steps: int) -> None:
        super().on_progress(env_steps)
        config = self._config
        if config.entropy_cost_steps:
            self._entropy_cost = falling(
                config.entropy_cost, config.entropy_cost_final, config.entropy_cost_steps, env_steps
            )

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Return minus the gradient of the loss, summed over unrolls.

        With normalise_advantages the result is not additive: it depends on the rollouts of one call.

        Returns:
            The direction, shape [P], and statistics averaged over rows and policies: policy_loss, value_loss,
            entropy, entropy_cost, mean_rho, mean_c, explained_variance, value and gradient_norm. With several
            policies, each but gradient_norm also comes as <name>_<policy>. The statistic value_limit is added
            (value_limit.py).
        """
        self._flat.zero_gradient()
        collected: dict[str, float] = {}
        slots = sum(rollout.count for rollout in rollouts)
        for steps in sorted({rollout.steps for rollout in rollouts}):
            batch = join([rollout for rollout in rollouts if rollout.steps == steps])
            shared = self._shared(batch)
            for policy in self.spec.policies:
                for key, number in self._learn(policy, batch, shared).items():
                    share = number * batch.slots / slots
                    collected[key] = collected.get(key, 0.0) + share / len(self.spec.policies)
                    if len(self.spec.policies) > 1:
                        collected[f"{key}_{policy.name}"] = collected.get(f"{key}_{policy.name}", 0.0) + share
            shared.features.backward()
        return self._ascent(collected | self._limit.statistics())

    @abstractmethod
    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        """Add one policy's share to the flat gradient and return its statistics."""

    def _shared(self, batch: Batch, *, evaluated: bool = True) -> Shared:
        """Compute the shared inputs of a batch.

        Args:
            batch: The batch.
            evaluated: Whether to evaluate the policies, too.
        """
        policies = self._policies.items() if evaluated else ()
        game = self._game(batch)
        features = self._features(batch, game)
        evaluations = {
            name: evaluate(policy, batch.policies[name], batch.episode_start, features.seen_by(name))
            for name, policy in policies
        }
        return Shared(evaluations, self._central_input(batch, features.places), game, features)

    def _features(self, batch: Batch, game: UnitRows | None) -> SharedFeatures:
        """Compute the features that policies and critics share in the rows that either of them reads."""
        policies = {name: self._policies[name] for name in self._sharing}
        active: dict[str, BoolArray] = {}
        for name in policies:
            alive = batch.policies[name].alive[: batch.steps]
            active[name] = alive
            if self._central:
                # a critic of all observations also reads those of agents that do not act
                rows = [self._rows(each, batch, game).active for each in self.spec.policies]
                active[name] = np.broadcast_to(anybody(rows), alive.shape)
        return SharedFeatures(policies, batch, active)

    def _game(self, batch: Batch) -> UnitRows | None:
        """Return the rows that all central critics share.

        The result is None with independent critics and in turn-based games.
        """
        return game_rows(batch) if self._central and not self.spec.turn_based else None

    def _rows(self, policy: PolicySpec, batch: Batch, game: UnitRows | None) -> UnitRows:
        """Return the rows of a policy's units, shape [T, B, U]."""
        if game is not None:
            return game
        part = batch.policies[policy.name]
        active = part.alive[: batch.steps]
        if not self._central:
            return UnitRows(active, part.terminated, part.truncated)
        truncated = (batch.episode_end == 2)[:, :, None] & anybody([part.truncated])
        return UnitRows(anybody([active]), (batch.episode_end > 0)[:, :, None] & ~truncated, truncated)

    def _agent_rows(self, policy: PolicySpec, batch: Batch, game: UnitRows | None) -> UnitRows:
        """Return the rows in which each agent has a value, shape [T, B, N].

        These are the rows of the game. In turn-based games they are the rows of the policy's only agent.
        """
        rows, shape = self._rows(policy, batch, game), batch.policies[policy.name].reward.shape
        return UnitRows(
            *(np.broadcast_to(array, shape) for array in (rows.active, rows.terminated, rows.truncated))
        )

    def _normalised(self, advantages: FloatArray, rho: FloatArray) -> FloatArray:
        """Normalise the advantages of one call if algo.normalise_advantages is set.

        Args:
            advantages: Advantages, multiplied by their ratios, shape [n].
            rho: Ratios, shape [n].
        """
        return normalised_advantages(advantages, rho) if self._config.normalise_advantages else advantages

    def _columns(
        self,
        batch: Batch,
        part: PolicyBatch,
        rows: UnitRows,
        value: FloatArray,
        last: FloatArray,
        final: FloatArray,
    ) -> Columns:
        """Build the columns of the units, shape [T, B, U].

        Args:
            batch: The batch.
            part: The policy's arrays.
            rows: Rows of the units.
            value: Values, shape [T, B, U].
            last: Values after the last row, shape [B, U].
            final: Values of the last observations of truncated episodes, shape [K, U].
        """
        reward = part.reward.mean(-1, keepdims=True) if self._central else part.reward
        # An agent that is truncated in mid-episode has no last observation. The value of its last row stands
        # in.
        final_value = value.copy()
        final_value[batch.final_step, batch.final_slot] = final
        reward = reward * np.float32(self._config.reward_scale)
        self._limit.see(reward)
        return Columns(value, last, final_value, reward, rows.active, rows.terminated, rows.truncated)

    def _observe(
        self,
        policy: PolicySpec,
        part: PolicyBatch,
        evaluation: Evaluation,
        learned: tuple[RowInputs, torch.Tensor, torch.Tensor],
    ) -> None:
        """Add observations and targets to the running moments.

        Args:
            policy: The policy.
            part: The policy's arrays.
            evaluation: The policy's active rows.
            learned: Inputs of the critic in n rows, targets [n], and the numbers of the rows that count.
        """
        if not (self._config.normalise_observations or self._config.normalise_values):
            return
        inputs, targets, counts = learned
        steps = len(part.action)
        self._critics[policy.name].observe(take(inputs, counts), targets[counts], 1.0 / steps)
        network = self._policies[policy.name]
        if network.moments is not None:
            rows = self.tensor(evaluation.rows.pick(seen_by(network, part)))
            network.observe(rows, 1.0 / steps)

    def _entropy_terms(self, policy: PolicySpec, evaluation: Evaluation) -> tuple[torch.Tensor, float]:
        """Return the contribution of the entropy to the objective (times T), and the entropy cost.

        The entropy bonus does not change the cost, and the rule of the cost does not change the policy.
        """
        entropy = evaluation.entropy.sum()
        if self._config.target_entropy is None:
            return self._entropy_cost * entropy, self._entropy_cost
        logarithm = self._modules[policy.name].get_parameter("cost.logarithm")[0]
        (cost,) = numbers(logarithm.detach().exp())
        maximum = (
            self._policies[policy.name].head.maximum_entropy(evaluation.mask, evaluation.rows.count).sum()
        )
        missing = self._config.target_entropy * maximum - entropy.detach()
        return cost * entropy + self._config.entropy_cost_rate * logarithm * missing, cost

    def _central_input(self, batch: Batch, places: Places) -> tuple[Array, Array] | None:
        """Return inputs that the critics of all policies share (critic_inputs.py); None: they share none."""
        return None


def critics_of(modules: Mapping[str, nn.Module]) -> dict[str, Critic]:
    """Return the critic of each policy from the policies' modules."""
    critics = {name: module.get_submodule("critic") for name, module in modules.items()}
    return {name: critic for name, critic in critics.items() if isinstance(critic, Critic)}


def close_at_last_decision(columns: Columns, acts_next: BoolArray) -> None:
    """Close columns that end in a gap at their last decision, in place.

    The row after such a column shows an observation on which the unit did not act. The critic is never
    trained on such observations, so it gives no usable value there. The value of the last decision is known.
    It closes the column, and that decision itself is not learned from.

    Args:
        columns: The columns, shape [T, B, C].
        acts_next: Columns that act in the row after the unroll, shape [B, C].
    """
    steps = len(columns.active)
    rows = np.arange(steps).reshape(-1, 1, 1)
    last_act = np.where(columns.active, rows, -1).max(0)
    last_cut = np.where(columns.terminated | columns.truncated, rows, -1).max(0)
    slot, unit = np.nonzero(~acts_next & (last_act > last_cut))
    at = (last_act[slot, unit], slot, unit)
    columns.active, columns.truncated, columns.reward = (
        columns.active.copy(),
        columns.truncated.copy(),
        columns.reward.copy(),
    )
    columns.active[at], columns.truncated[at], columns.reward[at] = False, True, 0.0


def explained_variance(targets: FloatArray, values: FloatArray) -> float:
    """Return 1 - Var(target - V) / Var(target), or 0 if the targets do not vary."""
    variance = float(targets.var()) if targets.size else 0.0
    return 1.0 - float((targets - values).var()) / variance if variance > 0 else 0.0
