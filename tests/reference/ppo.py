"""PPO's loss from its equations, with loops over slots, rows and agents; the reference for algos/ppo.py."""

from __future__ import annotations

import math

import torch

from hpcmarl.types import FloatArray
from tests.reference.ma_trace import LiteralMATrace

# (policy, slot, row, agent) -> (advantage, target)
Settled = dict[tuple[str, int, int, int | None], tuple[float, float]]


class LiteralPPO(LiteralMATrace):
    """Loss of one unroll (slot) of one policy. Advantages are summed forwards, decision by decision."""

    settled: Settled | None = None

    def reward(self, t: int, agent: int | None) -> float:
        rewards = [
            float(self.part.reward[t, self.slot, k])
            for k in (range(self.agents) if agent is None else [agent])
        ]
        return self.config.reward_scale * sum(rewards) / len(rewards)

    def ends(self, t: int, agent: int | None) -> tuple[bool, bool]:
        """Return whether row t is terminated and whether it is truncated."""
        if agent is not None:
            terminated = bool(self.part.terminated[t, self.slot, agent])
            return terminated, bool(self.part.truncated[t, self.slot, agent]) and not terminated
        return self.team_ends(t)

    def following(self, t: int, agent: int | None) -> tuple[float, int | None]:
        """Return the value after the decision in row t and the row of the next decision.

        The value includes the rewards of gap rows in between. The row is None if the chain ends.
        """
        owner, gathered, closed = self.owner if agent is None else agent, 0.0, self.close(agent)
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
            total += weight * (
                self.reward(row, agent)
                + self.config.discount * seen
                - self.value(row, self.owner if agent is None else agent).item()
            )
            weight, row = weight * self.config.discount * self.config.trace_lambda, after
        return total

    def estimate(self, t: int, agent: int | None) -> tuple[float, float]:
        """Return the advantage of the actor and the target of the value.

        They come from the current values, or from `settled` if the batch began at other parameters.
        """
        if self.settled is not None:
            return self.settled[self.policy.name, self.slot, t, agent]
        advantage = self.advantage(t, agent)
        return advantage, advantage + self.value(t, self.owner if agent is None else agent).item()

    def value_loss(self, t: int, agent: int | None) -> torch.Tensor:
        """Return the loss of the value in row t, clipped near the value recorded for the batch."""
        owner = self.owner if agent is None else agent
        config, value, records, target = (
            self.config,
            self.value(t, owner),
            self.rollout.records,
            self.estimate(t, agent)[1],
        )

        def single(prediction: torch.Tensor) -> torch.Tensor:
            error = prediction - target
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
        central, each = config.critic != "independent", config.critic_input == "agent"
        for t in range(self.steps):
            team = self.acting(t, None)
            for k in team:
                agent, self.owner = None if central else k, k if each else 0
                counts = t != self.close(agent)
                logp, entropy = self.logp_and_entropy(t, k)
                ratio = (logp - float(self.part.logp[t, self.slot, k])).exp()
                advantage = self.estimate(t, agent)[0] if counts else 0.0
                clipped = min(max(ratio.item(), 1 - config.clip), 1 + config.clip)
                total = total - (
                    ratio * advantage
                    if ratio.item() * advantage <= clipped * advantage
                    else torch.tensor(clipped * advantage)
                )
                total = total - config.entropy_cost * entropy
                if counts and not central:
                    total = total + config.value_cost * self.value_loss(t, k) / self.agents
            if central and self.counts(t, None) and t != self.close(None):
                for owner in range(self.agents if each else 1):
                    self.owner = owner
                    total = total + config.value_cost * self.value_loss(t, None) / (
                        self.agents if each else 1
                    )
        return total / self.steps


def settle(algorithm, rollouts) -> list[Settled]:
    """Estimate advantages and targets for a batch that begins at the current parameters.

    Advantages are normalised over the batch if the configuration asks for it.

    Returns:
        One table per rollout.
    """
    config, tables = algorithm._config, [Settled() for _ in rollouts]
    for policy in algorithm.spec.policies:
        weighed = []
        for rollout, table in zip(rollouts, tables, strict=True):
            for slot in range(rollout.count):
                one = LiteralPPO(algorithm, rollout, policy, slot)
                units = [None] if config.critic != "independent" else range(len(policy.agents))
                for t, agent in (
                    (t, agent)
                    for t in range(one.steps)
                    for agent in units
                    if one.counts(t, agent) and t != one.close(agent)
                ):
                    table[policy.name, slot, t, agent] = one.estimate(t, agent)
                    weighed += [(table, (policy.name, slot, t, agent))] * len(one.acting(t, agent))
        if config.normalise_advantages:
            numbers = [table[key][0] for table, key in weighed]
            mean = sum(numbers) / len(numbers)
            deviation = (sum((number - mean) ** 2 for number in numbers) / len(numbers)) ** 0.5
            for table, key in {(id(table), key): (table, key) for table, key in weighed}.values():
                table[key] = ((table[key][0] - mean) / (deviation + 1e-8), table[key][1])
    return tables


def literal_gradient(algorithm, rollouts, settled: list[Settled] | None = None) -> FloatArray:
    """Return the gradient summed over all slots and policies.

    Args:
        algorithm: Algorithm with its networks.
        rollouts: Rollouts of a batch.
        settled: Tables of `settle`, if the estimates are not those of the current parameters.
    """
    algorithm._flat.zero_gradient()
    for number, rollout in enumerate(rollouts):
        for policy in algorithm.spec.policies:
            for slot in range(rollout.count):
                one = LiteralPPO(algorithm, rollout, policy, slot)
                one.settled = None if settled is None else settled[number]
                loss = one.loss()
                if loss.requires_grad:
                    (-loss).backward()
    return algorithm._flat.gradient.copy()
