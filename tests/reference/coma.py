"""COMA's loss from its equations, with loops over slots, rows and agents; the reference for algos/coma.py."""

from __future__ import annotations

import numpy as np
import torch

from hpcmarl.types import FloatArray
from tests.reference.ppo import LiteralPPO


class LiteralCOMA(LiteralPPO):
    """COMA's loss of one unroll (slot) of one policy.

    Rewards, ends and rows are those of the team, even for dead agents. In turn-based games the rows are those
    of the agent.
    """

    def valued(self, t: int, agent: int) -> bool:
        """Return whether the agent has a value in row t."""
        return self.counts(t, agent if self.algorithm.spec.turn_based else None)

    def done(self, t: int, agent: int) -> int:
        """Return the action of the agent, or the index of the last output if it does not act."""
        return (
            int(self.part.action[t, self.slot, agent])
            if self.acting(t, agent)
            else self.policy.action.sizes[0]
        )

    def closing(self, agent: int) -> int | None:
        """Return the last row with a value if the unroll ends before its episode, else None."""
        for t in range(self.steps - 1, -1, -1):
            if self.rollout.episode_end[t, self.slot]:
                return None
            if self.valued(t, agent):
                return t
        return None

    def action_values(self, t: int, agent: int, critic: torch.nn.Module) -> torch.Tensor:
        """Return Q(s_t, u_{-k}, .) of the agent for all actions, in the units of the critic's outputs."""
        parts, others = [], []
        for policy in self.algorithm.spec.policies:
            part = self.rollout.policies[policy.name]
            for k in range(len(policy.agents)):
                hot = np.zeros(policy.action.sizes[0], np.float32)
                if part.alive[t, self.slot, k] and (policy.name != self.policy.name or k != agent):
                    hot[part.action[t, self.slot, k]] = 1.0
                others.append(hot)
            parts.append(part.obs[t, self.slot].reshape(-1))
        number = np.zeros(self.agents, np.float32)
        number[agent] = 1.0
        if self.config.critic == "state":
            seen = [
                self.rollout.state[t, self.slot],
                *others,
                self.part.obs[t, self.slot, agent].reshape(-1),
                number,
            ]
        else:
            seen = [*parts, *others, number]
        values: torch.Tensor = critic(torch.from_numpy(np.concatenate(seen)))
        return values

    def later(self, t: int, agent: int) -> float:
        """Return the value of the action taken, by the target network."""
        critic = self.algorithm._target_critics[self.policy.name]
        return critic.values(self.action_values(t, agent, critic))[self.done(t, agent)].item()

    def after(self, t: int, agent: int, closed: int | None) -> tuple[float, float]:
        """Return value and target of the row that follows row t."""
        terminated, truncated = self.ends(t, None)
        if terminated:
            return 0.0, 0.0
        if truncated:
            value = self.later(t, agent) if self.valued(t, agent) else 0.0
            return value, value
        t += 1
        if self.valued(t, agent):
            value = self.later(t, agent)
            return value, value if t == closed else self.target(t, agent, closed)
        value, target = self.after(t, agent, closed)
        return value + self.reward(t, None), target + self.reward(t, None)

    def target(self, t: int, agent: int, closed: int | None) -> float:
        value, target = self.after(t, agent, closed)
        mix = self.config.trace_lambda
        return self.reward(t, None) + self.config.discount * ((1 - mix) * value + mix * target)

    def loss(self) -> torch.Tensor:
        config, total, critic = self.config, torch.zeros(()), self.algorithm._critics[self.policy.name]
        for agent in range(self.agents):
            closed = self.closing(agent)
            for t in range(self.steps):
                if not self.valued(t, agent):
                    continue
                outputs, done = self.action_values(t, agent, critic), self.done(t, agent)
                if t != closed:
                    wanted = critic.outputs_for(torch.tensor([self.target(t, agent, closed)]))[0]
                    total = total + config.value_cost * (wanted - outputs[done]) ** 2 / self.agents
                if self.acting(t, agent):
                    total = total - self.gain(t, agent, critic.values(outputs.detach()))
        return total / self.steps

    def gain(self, t: int, agent: int, values: torch.Tensor) -> torch.Tensor:
        """Return the objective of one decision, including its entropy bonus.

        Args:
            t: Row.
            agent: Index of the agent.
            values: Values of all actions.
        """
        average = 0.0
        for action in range(self.policy.action.sizes[0]):
            if self.part.action_mask is None or self.part.action_mask[t, self.slot, agent, action]:
                average += self.logp_of(t, agent, action).exp().item() * values[action].item()
        logp, entropy = self.logp_and_entropy(t, agent)
        ratio = min(
            self.config.rho_max, float(np.exp(logp.item() - float(self.part.logp[t, self.slot, agent])))
        )
        return (
            ratio * logp * (values[self.done(t, agent)].item() - average) + self.config.entropy_cost * entropy
        )

    def logp_of(self, t: int, agent: int, action: int) -> torch.Tensor:
        """Return the log-probability of any action, taken or not."""
        kept = self.part.action[t, self.slot, agent]
        self.part.action[t, self.slot, agent] = action
        logp = self.logp_and_entropy(t, agent)[0]
        self.part.action[t, self.slot, agent] = kept
        return logp


def literal_gradient(algorithm, rollouts) -> FloatArray:
    """Return the gradient summed over all slots and policies."""
    algorithm._flat.zero_gradient()
    for rollout in rollouts:
        for policy in algorithm.spec.policies:
            for slot in range(rollout.count):
                loss = LiteralCOMA(algorithm, rollout, policy, slot).loss()
                if loss.requires_grad:
                    (-loss).backward()
    return algorithm._flat.gradient.copy()
