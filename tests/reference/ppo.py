"""PPO's loss written from its equations with loops over slots, rows and agents: the slow twin of algos/ppo.py."""

from __future__ import annotations

import math

import torch

from hpcmarl.types import FloatArray
from tests.reference.ma_trace import Literal


class LiteralPPO(Literal):
    """One unroll (slot) of one policy. The advantage is summed forwards, decision by decision."""

    def reward(self, t: int, agent: int | None) -> float:
        rewards = [float(self.part.reward[t, self.slot, k]) for k in (range(self.agents) if agent is None else [agent])]
        return self.config.reward_scale * sum(rewards) / len(rewards)

    def ends(self, t: int, agent: int | None) -> tuple[bool, bool]:
        """Terminated, truncated after row t."""
        if agent is not None:
            terminated = bool(self.part.terminated[t, self.slot, agent])
            return terminated, bool(self.part.truncated[t, self.slot, agent]) and not terminated
        return self.team_ends(t)

    def following(self, t: int, agent: int | None) -> tuple[float, int | None]:
        """What is seen after the decision at t: its value (with the rewards of gaps before it) and its row, None where the chain ends."""
        owner, gathered, closed = agent or 0, 0.0, self.close(agent)
        while True:
            terminated, truncated = self.ends(t, agent)
            if terminated:
                return gathered, None
            if truncated:
                return gathered + self.value(t, owner, final=t in self.finals).item(), None
            t += 1
            value = 0.0 if t < self.steps and not self.counts(t, agent) else self.value(t, owner).item()
            if t == self.steps or t == closed:
                return gathered + value, None
            if self.counts(t, agent):
                return gathered + value, t
            gathered += self.reward(t, agent)

    def advantage(self, t: int, agent: int | None) -> float:
        total, weight, row = 0.0, 1.0, t
        while row is not None:
            seen, after = self.following(row, agent)
            total += weight * (self.reward(row, agent) + self.config.discount * seen - self.value(row, agent or 0).item())
            weight, row = weight * self.config.discount * self.config.trace_lambda, after
        return total

    def value_loss(self, t: int, owner: int, advantage: float) -> torch.Tensor:
        """Of the value of row t, whose target is the advantage above it; cut off near what the batch's beginning recorded."""
        config, value, records = self.config, self.value(t, owner), self.rollout.records
        target = advantage + value.item()

        def single(said: torch.Tensor) -> torch.Tensor:
            error = said - target
            if config.value_loss == "huber" and abs(error.item()) > config.huber_delta:
                return config.huber_delta * (2 * abs(error) - config.huber_delta)
            return error**2

        if config.value_clip is None or records is None:
            return single(value)
        before = float(records[self.policy.name].outputs[t, self.slot, owner])
        moved = value - before
        if abs(moved.item()) > config.value_clip:
            moved = torch.tensor(math.copysign(config.value_clip, moved.item()))
        whole, near = single(value), single(before + moved)
        return whole if whole.item() >= near.item() else near

    def loss(self) -> torch.Tensor:
        config, total = self.config, torch.zeros(())
        central = config.critic != "dec"
        for t in range(self.steps):
            team = self.acting(t, None)
            for k in team:
                agent = None if central else k
                counts = t != self.close(agent)
                logp, entropy = self.logp_and_entropy(t, k)
                ratio = (logp - float(self.part.logp[t, self.slot, k])).exp()
                advantage = self.advantage(t, agent) if counts else 0.0
                clipped = min(max(ratio.item(), 1 - config.clip), 1 + config.clip)
                total = total - (ratio * advantage if ratio.item() * advantage <= clipped * advantage else torch.tensor(clipped * advantage))
                total = total - config.entropy_cost * entropy
                if counts and not central:
                    total = total + config.value_cost * self.value_loss(t, k, advantage) / self.agents
            if central and self.counts(t, None) and t != self.close(None):
                total = total + config.value_cost * self.value_loss(t, 0, self.advantage(t, None))
        return total / self.steps


def literal_gradient(algorithm, rollouts) -> FloatArray:
    """The sum over all slots and policies."""
    algorithm._flat.zero_gradient()
    for rollout in rollouts:
        for policy in algorithm.spec.policies:
            for slot in range(rollout.count):
                loss = LiteralPPO(algorithm, rollout, policy, slot).loss()
                if loss.requires_grad:
                    (-loss).backward()
    return algorithm._flat.gradient.copy()
