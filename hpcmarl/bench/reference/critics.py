"""Plain torch loops of the actor-critics MA-Trace, PPO and COMA, for `hpcmarl bench learning`.

learning.py lists the letters of the shapes. The recursions run row by row in torch, for all trajectories at
once. Gap rows pass on the values of the next row (maths/vtrace.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hpcmarl.algos.batch import Batch, join, seen_by
from hpcmarl.bench.reference.learning import ReferenceLoop
from hpcmarl.bench.reference.networks import Observed, first_rows, make_agent, make_values, observed
from hpcmarl.config import Config
from hpcmarl.types import Rollout

UNAVAILABLE = -1e9


@dataclass
class Unrolls:
    """Stacked tensors of a batch of unrolls.

    Attributes:
        obs: Inputs of the agents, [T, B, N, ...]; None: the first T rows of `critic_inputs`.
        alive: Agents that act, [T, B, N].
        mask: Allowed actions, [T, B, N, A]; None: all.
        action: Actions, [T, B, N].
        logp: Log-probabilities of the actions under the policy that sampled them, [T, B, N].
        critic_inputs: Inputs of the critic, [T+1, B, U, ...]; with COMA [T, B, N, ...].
        finals: Inputs of the critic at the ends of truncated episodes, [K, U, ...].
        ends: Step and slot of each entry of `finals`, [K] each.
        reward: Scaled reward of each unit, [T, B, U].
        active: Rows of each unit that count, [T, B, U].
        terminated: Whether an episode terminates after the row, [T, B, U].
        truncated: Whether an episode is truncated after the row, [T, B, U].
        before: The critic's outputs when training on the batch began, if the loss needs them.
        settled: Targets [T, B, U] and agents' advantages [T, B, N] from the time when training on the batch
            began; None: the loss computes them.
    """

    obs: Observed | None
    alive: torch.Tensor
    mask: torch.Tensor | None
    action: torch.Tensor
    logp: torch.Tensor
    critic_inputs: Observed
    finals: Observed
    ends: tuple[torch.Tensor, torch.Tensor]
    reward: torch.Tensor
    active: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    before: torch.Tensor | None = None
    settled: tuple[torch.Tensor, torch.Tensor] | None = None


def recursion(
    inputs: Unrolls,
    value: torch.Tensor,
    last: torch.Tensor,
    final: torch.Tensor,
    ratios: tuple[torch.Tensor, torch.Tensor],
    discount: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute V-trace targets and advantages.

    Args:
        inputs: The batch.
        value: Values of all rows, [T, B, U].
        last: Values after the last row, [B, U].
        final: Values at the ends of episodes, [T, B, U].
        ratios: rho and c, [T, B, U] each.
        discount: Discount factor.

    Returns:
        Targets and advantages, [T, B, U] each.
    """
    rho, trace = ratios
    targets, advantages = torch.zeros_like(value), torch.zeros_like(value)
    next_value = next_target = last
    for row in reversed(range(len(value))):
        cut = torch.where(inputs.terminated[row], 0.0, final[row])
        ends = inputs.terminated[row] | inputs.truncated[row]
        next_value, next_target = torch.where(ends, cut, next_value), torch.where(ends, cut, next_target)
        reward, own, active = inputs.reward[row], value[row], inputs.active[row]
        change = rho[row] * (reward + discount * next_value - own)
        target = own + change + discount * trace[row] * (next_target - next_value)
        advantages[row] = active * rho[row] * (reward + discount * next_target - own)
        targets[row] = active * target
        next_value, next_target = (
            torch.where(active, own, next_value + reward),
            torch.where(active, target, next_target + reward),
        )
    return targets, advantages


class ReferenceCritic(ReferenceLoop):
    """Base of the three actor-critics: the policy's part and the stacking of inputs.

    Args:
        config: Configuration of the run.
        algorithm: The algorithm of hpcmarl that this loop repeats.
    """

    def __init__(self, config: Config, algorithm: Any) -> None:
        given: Any = config
        self.config = given.algo
        name = algorithm.spec.policies[0].name
        parts = algorithm.design.modules[name].children()
        actor, critic = parts["actor"], parts["critic"]
        self.remembers = critic.memory_size > 0
        # Agents and independent critics see the same images, which are kept and converted once.
        self.shares = not actor.form.flat and [
            (field.policy, field.count, field.size) for field in actor.form.fields
        ] == [(field.policy, field.count, field.size) for field in critic.form.fields]
        networks = nn.ModuleDict({"agent": make_agent(actor), "critic": make_values(critic)})
        super().__init__(config, algorithm, networks)

    def stack(self, rollouts: Sequence[Rollout]) -> Unrolls:
        batch = join(rollouts)
        policy, steps = self.algorithm.spec.policies[0], batch.steps
        part: Any = batch.policies[policy.name]
        critic_inputs, finals, columns = self._inputs(batch)
        reward, active, terminated, truncated = (
            torch.from_numpy(np.array(array))
            for array in (columns.reward, columns.active, columns.terminated, columns.truncated)
        )
        return Unrolls(
            None if self.shares else observed(seen_by(self.algorithm._policies[policy.name], part)),
            torch.from_numpy(np.array(part.alive[:steps])),
            None if part.action_mask is None else torch.from_numpy(np.array(part.action_mask[:steps])),
            torch.from_numpy(np.array(part.action)),
            torch.from_numpy(np.array(part.logp)),
            observed(critic_inputs),
            observed(finals),
            (torch.from_numpy(batch.final_step), torch.from_numpy(batch.final_slot)),
            reward,
            active,
            terminated,
            truncated,
            before=None
            if batch.records is None
            else torch.from_numpy(np.array(batch.records[policy.name].outputs)),
        )

    def _inputs(self, batch: Batch) -> tuple[Any, Any, Any]:
        """Return the critic's inputs, those at the ends of truncated episodes, and the units' columns."""
        owner: Any = self.algorithm
        part = batch.policies[owner.spec.policies[0].name]
        critic_inputs, finals = owner._join_inputs(owner.spec.policies[0], batch)
        zeros = np.zeros(critic_inputs.shape[:3], np.float32)
        rows = owner._rows(owner.spec.policies[0], batch, owner._game(batch))
        return (
            critic_inputs,
            finals,
            owner._columns(batch, part, rows, zeros[:-1], zeros[-1], np.zeros(finals.shape[:2], np.float32)),
        )

    def prepared(self, inputs: Unrolls) -> Unrolls:
        """Return the inputs with float32 images, converted once for both networks if they see the same."""
        agent, critic = self.module["agent"], self.module["critic"]
        critic_inputs = critic.prepare(inputs.critic_inputs)
        obs = (
            first_rows(critic_inputs, len(inputs.alive)) if inputs.obs is None else agent.prepare(inputs.obs)
        )
        return replace(inputs, obs=obs, critic_inputs=critic_inputs, finals=critic.prepare(inputs.finals))

    def _policy(self, inputs: Unrolls) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Evaluate the policy on all rows.

        Returns:
            Log-probabilities of all actions [T, B, N, A], those of the actions taken [T, B, N], and the
            summed entropy of rows in which an agent acts.
        """
        logits = self.module["agent"](inputs.obs)
        if inputs.mask is not None:
            logits = logits.masked_fill(~inputs.mask, UNAVAILABLE)
        every = functional.log_softmax(logits, -1)
        entropy = -(every.exp() * every).sum(-1)
        return (
            every,
            every.gather(-1, inputs.action.unsqueeze(-1)).squeeze(-1),
            (entropy * inputs.alive).sum(),
        )

    def _loss(
        self, inputs: Unrolls, gain: torch.Tensor, error: torch.Tensor, entropy: torch.Tensor
    ) -> torch.Tensor:
        steps, slots = inputs.alive.shape[:2]
        loss: torch.Tensor = (self.config.value_cost * error - gain - self.config.entropy_cost * entropy) / (
            steps * slots
        )
        return loss

    def _value_losses(self, targets: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        error = targets - outputs
        if self.config.value_loss == "squared":
            return error.square()
        size, delta = error.abs(), self.config.huber_delta
        return torch.where(size <= delta, error.square(), delta * (2.0 * size - delta))

    def _normalised(self, advantages: torch.Tensor, rho: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """Return advantages [T, B, N] from [T, B, U].

        With `normalise_advantages` they are centred and divided by their standard deviation over rows in
        which an agent acts.
        """
        advantages, rho = advantages.expand(alive.shape), rho.expand(alive.shape)
        if not self.config.normalise_advantages:
            return advantages
        centred = advantages - rho * (advantages[alive].sum() / rho[alive].sum().clamp(min=1e-8))
        return centred / (centred[alive].std(correction=0) + 1e-8)


class ReferenceValueCritic(ReferenceCritic):
    """MA-Trace with one ratio for each unit (joint, or each agent's with critic: independent), and PPO.

    A recurrent critic starts from zeros. No row of its unrolls may be the first or last of an episode.
    """

    def loss(self, inputs: Unrolls) -> torch.Tensor:
        inputs = self.prepared(inputs)
        config, every = self.config, self.module["critic"](inputs.critic_inputs).squeeze(-1)
        outputs, (_, logp, entropy) = every[:-1], self._policy(inputs)
        if inputs.settled is None:
            targets, advantages, ratios = self._estimates(inputs, every.detach(), logp.detach())
            advantages = self._normalised(advantages, ratios * inputs.active, inputs.alive)
        else:
            targets, advantages = inputs.settled
        losses = self._value_losses(targets, outputs)
        if inputs.before is not None:
            epsilon = config.value_clip
            near = torch.minimum(torch.maximum(outputs, inputs.before - epsilon), inputs.before + epsilon)
            losses = torch.maximum(losses, self._value_losses(targets, near))
        error = (losses * inputs.active).sum() / outputs.shape[-1]
        if config.name == "ppo":
            ratio = (logp - inputs.logp).exp()
            gains = torch.minimum(
                ratio * advantages, ratio.clamp(1 - config.clip, 1 + config.clip) * advantages
            )
        else:
            gains = logp * advantages
        return self._loss(inputs, (gains * inputs.alive).sum(), error, entropy)

    def settled(self, inputs: Unrolls) -> Unrolls:
        """Return the inputs with targets and advantages of the current parameters.

        Training on a batch computes them once, when it begins.
        """
        inputs = self.prepared(inputs)
        with torch.no_grad():
            every, (_, logp, _) = (
                self.module["critic"](inputs.critic_inputs).squeeze(-1),
                self._policy(inputs),
            )
            targets, advantages, ratios = self._estimates(inputs, every, logp)
            return replace(
                inputs, settled=(targets, self._normalised(advantages, ratios * inputs.active, inputs.alive))
            )

    @torch.no_grad()
    def _estimates(
        self, inputs: Unrolls, every: torch.Tensor, logp: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return targets, advantages and the ratios in them, [T, B, U] each.

        Args:
            inputs: The batch.
            every: Values of all rows, [T+1, B, U].
            logp: Log-probabilities of the actions under the current policy, [T, B, N].
        """
        config, value, last = self.config, every[:-1], every[-1]
        final = value.clone()
        if not self.remembers:
            final[inputs.ends] = self.module["critic"](inputs.finals).squeeze(-1)
        if config.name == "ppo":
            ratios = (torch.ones_like(value), torch.full_like(value, config.trace_lambda))
            targets, _ = recursion(inputs, value, last, final, ratios, config.discount)
            return targets, torch.where(inputs.active, targets - value, 0.0), ratios[0]
        difference = (logp - inputs.logp) * inputs.alive
        ratio = (difference if config.critic == "independent" else difference.sum(-1, keepdim=True)).exp()
        ratios = (ratio.clamp(max=config.rho_max), config.trace_lambda * ratio.clamp(max=config.c_max))
        targets, advantages = recursion(inputs, value, last, final, ratios, config.discount)
        return targets, advantages, ratios[0]


class ReferenceCOMA(ReferenceCritic):
    """COMA; the critic's last output is for agents that do not act."""

    def _inputs(self, batch: Batch) -> tuple[Any, Any, Any]:
        owner: Any = self.algorithm
        policy = owner.spec.policies[0]
        part = batch.policies[policy.name]
        shape = part.reward.shape
        everybody = owner._inputs(policy, batch, {})
        rows = owner._agent_rows(policy, batch, owner._game(batch))
        columns = owner._agent_columns(batch, part, rows, np.zeros(shape, np.float32))
        if everybody.dtype.names is None:
            everybody = everybody.reshape(*shape, -1)
        return everybody, np.zeros((0, 1), np.float32), columns

    def loss(self, inputs: Unrolls) -> torch.Tensor:
        config, inputs = self.config, self.prepared(inputs)
        outputs = self.module["critic"](inputs.critic_inputs)
        nothing = outputs.shape[-1] - 1
        done = torch.where(inputs.alive, inputs.action, nothing).unsqueeze(-1)
        every, logp, entropy = self._policy(inputs)
        chosen = outputs.gather(-1, done).squeeze(-1)
        with torch.no_grad():
            later = self.target["critic"](inputs.critic_inputs).gather(-1, done).squeeze(-1)
            ratios = (torch.ones_like(later), torch.full_like(later, config.trace_lambda))
            targets, _ = recursion(inputs, later, torch.zeros_like(later[0]), later, ratios, config.discount)
            ratio = (logp - inputs.logp).exp().clamp(max=config.rho_max)
            weights = self._normalised(
                ratio * (chosen - (every.exp() * outputs[..., :nothing]).sum(-1)), ratio, inputs.alive
            )
        error = (self._value_losses(targets, chosen) * inputs.active).sum() / outputs.shape[2]
        return self._loss(inputs, (logp * weights * inputs.alive).sum(), error, entropy)
