"""What the actor-critics share: a critic beside each policy, the columns that their recursions run on, the
entropy cost. Unrolls of T steps.

    loss = (1/T) sum_t [ - gain_t + value_cost L(v_t - V_t) - c_ent sum_k H_k ]        for one unroll; L(e) =
        e^2 or Huber's (value_loss.py)

k runs over the agents of a policy that act in row t. Subclasses say what V is a value of: of rows
(value_critic.py), of actions (coma.py). Rewards and flags (algo.critic): with obs or full, critics on all
agents' observations or on the state, r is the mean over the policy's agents, absent ones 0, and an end is the
episode's; with independent critics they are each agent's own. Time: with joint_observation or state every row
of the game counts (batch.game_rows): it is discounted, valued and learned from by every policy's critic,
whoever of its agents has died; the policy's gain has the rows in which an agent acts. With independent
critics an agent's time ends with its death. In turn-based games time is counted in a policy's own decisions,
with the rewards of the turns between them added up. With normalise_advantages those of one gradient have mean
0, weighed by their ratios, and deviation 1 (maths/vtrace.py). With normalise_values V is in units of the
spread of its targets in L alone (nets/moments.py). The entropy cost is fixed, or falls linearly with the
run's environment steps, or is learned as exp(log c) with gradient entropy_cost_rate (target - H) in log c.

    symbol -> variable, shape:  r reward [T, B, U]   V value [T, B, U]   v targets   H entropy [n]   (U units
        with a value: 1 or N agents)
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
    tensor,
)
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import ActorCriticConfig
from hpcmarl.maths.schedules import falling
from hpcmarl.maths.vtrace import normalised_advantages
from hpcmarl.nets.critic import Critic
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, PolicySpec, Rollout


@dataclass
class Columns:
    """What the recursion runs on, [T, B, C] each; `last` [B, C]: the values after the last row."""

    value: FloatArray
    last: FloatArray
    final: FloatArray
    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class Shared:
    """Inputs of one gradient that all policies' shares of it have in common.

    Attributes:
        evaluations: By policy.
        central_input: Of central critics, as `_central_input` gives it.
        game: The rows of all critics, as `_game` gives them; None where each policy has its own.
    """

    evaluations: dict[str, Evaluation]
    central_input: tuple[Array, Array] | None
    game: UnitRows | None


class ActorCritic(Algorithm):
    """See the module's docstring for the loss, the critics and symbols."""

    _config: ActorCriticConfig

    def __init__(self, spec: EnvironmentSpec, config: ActorCriticConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._config, self._central = config, config.critic != "independent"
        self._critics = critics_of(self._modules)
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
        """Sum over unrolls of minus the gradient of the loss. With normalise_advantages it depends on what is
        in one call.

        Statistics, averaged over rows and policies: policy_loss, value_loss, entropy, entropy_cost, mean_rho,
        mean_c, explained_variance, value, gradient_norm; with several policies each also as <name>_<policy>.
        And value_limit.
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
        return self._ascent(collected | self._limit.statistics())

    @abstractmethod
    def _learn(self, policy: PolicySpec, batch: Batch, shared: Shared) -> dict[str, float]:
        """Add one policy's share to the flat gradient; return its statistics."""

    def _shared(self, batch: Batch, *, evaluated: bool = True) -> Shared:
        """evaluated: whether the policies are asked, too."""
        policies = self._policies.items() if evaluated else ()
        evaluations = {
            name: evaluate(policy, batch.policies[name], batch.episode_start) for name, policy in policies
        }
        return Shared(evaluations, self._central_input(batch) if self._central else None, self._game(batch))

    def _game(self, batch: Batch) -> UnitRows | None:
        """The rows that all policies' central critics share, where all agents act at once."""
        return game_rows(batch) if self._central and not self.spec.turn_based else None

    def _rows(self, policy: PolicySpec, batch: Batch, game: UnitRows | None) -> UnitRows:
        """The rows of a policy's units, [T, B, U]."""
        if game is not None:
            return game
        part = batch.policies[policy.name]
        active = part.alive[: batch.steps]
        if not self._central:
            return UnitRows(active, part.terminated, part.truncated)
        truncated = (batch.episode_end == 2)[:, :, None] & anybody([part.truncated])
        return UnitRows(anybody([active]), (batch.episode_end > 0)[:, :, None] & ~truncated, truncated)

    def _agent_rows(self, policy: PolicySpec, batch: Batch, game: UnitRows | None) -> UnitRows:
        """The rows in which each agent has a value, [T, B, N]: the game's, or in turn-based games those of
        its policy's only agent."""
        rows, shape = self._rows(policy, batch, game), batch.policies[policy.name].reward.shape
        return UnitRows(
            *(np.broadcast_to(array, shape) for array in (rows.active, rows.terminated, rows.truncated))
        )

    def _normalised(self, advantages: FloatArray, rho: FloatArray) -> FloatArray:
        """The advantages [n] of one call, which hold their ratios rho [n]; normalised where
        algo.normalise_advantages asks for it."""
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
        """The unit columns [T, B, U]. `final` [K, U] are the values of truncated episodes' last
        observations."""
        reward = part.reward.mean(-1, keepdims=True) if self._central else part.reward
        # An agent cut off where no last observation is known (in mid-episode) is worth what it was worth a
        # step before.
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
        learned: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Gather what the moments are averages of. learned: the critic's inputs [n, D], targets [n], and
        which of these rows count [n] bool."""
        if not (self._config.normalise_observations or self._config.normalise_values):
            return
        inputs, targets, counts = learned
        steps = len(part.action)
        self._critics[policy.name].observe(inputs[counts], targets[counts], 1.0 / steps)
        network = self._policies[policy.name]
        network.observe(tensor(evaluation.rows.pick(seen_by(network, part))), 1.0 / steps)

    def _entropy_terms(self, policy: PolicySpec, evaluation: Evaluation) -> tuple[torch.Tensor, float]:
        """What the entropy adds to the objective (times T), and the cost. The bonus does not move the cost,
        nor the rule the policy."""
        entropy = evaluation.entropy.sum()
        if self._config.target_entropy is None:
            return self._entropy_cost * entropy, self._entropy_cost
        logarithm = self._modules[policy.name].get_parameter("cost.logarithm")[0]
        cost = float(logarithm.detach().exp())
        maximum = (
            self._policies[policy.name].head.maximum_entropy(evaluation.mask, evaluation.rows.count).sum()
        )
        missing = self._config.target_entropy * maximum - entropy.detach()
        return cost * entropy + self._config.entropy_cost_rate * logarithm * missing, cost

    def _central_input(self, batch: Batch) -> tuple[Array, Array]:
        """The central critics' input [T+1, B, 1, D], and that of truncated episodes' ends [K, 1, D]."""
        if self._config.critic == "state":
            if batch.state is None or batch.final_state is None:
                raise ValueError("algo.critic is state, but a rollout carries no state")
            return batch.state[:, :, None], batch.final_state[:, None]
        parts = [batch.policies[policy.name] for policy in self.spec.policies]
        rows, slots, finals = batch.steps + 1, batch.slots, len(batch.final_step)
        inputs = [part.obs.reshape(rows, slots, 1, -1) for part in parts]
        ends = [part.final_obs.reshape(finals, 1, int(np.prod(part.final_obs.shape[1:]))) for part in parts]
        return (
            (inputs[0], ends[0])
            if len(parts) == 1
            else (np.concatenate(inputs, -1), np.concatenate(ends, -1))
        )


def critics_of(modules: Mapping[str, nn.Module]) -> dict[str, Critic]:
    """Return the critics among the modules of each policy."""
    critics = {name: module.get_submodule("critic") for name, module in modules.items()}
    return {name: critic for name, critic in critics.items() if isinstance(critic, Critic)}


def close_at_last_decision(columns: Columns, acts_next: BoolArray) -> None:
    """Columns that end in a gap: their value after the last row is of an observation they did not act on, so
    never trained. The last decision's own value is known; it closes the column, and that decision itself is
    left out."""
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
    """1 - Var(target - V) / Var(target); 0 where the targets do not vary."""
    variance = float(targets.var()) if targets.size else 0.0
    return 1.0 - float((targets - values).var()) / variance if variance > 0 else 0.0
