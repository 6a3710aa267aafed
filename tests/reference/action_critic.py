"""The losses of MADDPG and MASAC from their equations, with loops over episodes, rows and agents.

They are the references for algos/maddpg.py and masac.py. The noise of the algorithm's next gradient is drawn
again in the same order.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hpcmarl.types import FloatArray


class LiteralActionCritic:
    """Losses of episodes under the present and the target networks of an algorithm."""

    def __init__(self, algorithm, rollouts) -> None:
        self.algorithm, self.config, self.spec = algorithm, algorithm._config, algorithm.spec
        self.episodes = [(rollout, slot) for rollout in rollouts for slot in range(rollout.count)]
        self.agents = [(policy, k) for policy in self.spec.policies for k in range(len(policy.agents))]
        self.central = self.config.critic != "independent"
        longest = max(rollout.steps for rollout in rollouts)
        generator = np.random.default_rng([0, algorithm._version + 1, algorithm._gradients])
        shapes = {p.name: (longest + 1, len(self.episodes), len(p.agents)) for p in self.spec.policies}
        self.noise = [self._draw(generator, shapes) for _ in range(2 if self.config.name == "maddpg" else 1)]
        self.rows = {b: self._raw(b, algorithm._modules) for b in range(len(self.episodes))}
        self.later = {b: self._raw(b, algorithm._target_modules) for b in range(len(self.episodes))}

    def _draw(self, generator, shapes) -> dict:
        found = {}
        for policy in self.spec.policies:
            shape = (*shapes[policy.name], sum(policy.action.sizes))
            if policy.action.kind != "continuous":
                draws = generator.standard_exponential(shape, dtype=np.float32)
                found[policy.name] = -np.log(draws + np.float32(1e-30))
            elif self.config.name == "masac":
                found[policy.name] = generator.standard_normal(shape, dtype=np.float32)
        return found

    # ---- what an episode holds

    def part(self, b: int, policy):
        rollout, slot = self.episodes[b]
        return rollout.policies[policy.name], slot

    def active(self, b: int, t: int, policy, k: int) -> bool:
        part, slot = self.part(b, policy)
        if t < self.length(b):
            return bool(part.alive[t, slot, k])
        return bool(part.truncated[-1, slot, k]) and not bool(part.terminated[-1, slot, k])

    def length(self, b: int) -> int:
        return self.episodes[b][0].steps

    def final(self, b: int) -> int | None:
        rollout, slot = self.episodes[b]
        return next((k for k, (_, s) in enumerate(rollout.final_index.tolist()) if s == slot), None)

    def obs(self, b: int, t: int, policy, k: int) -> torch.Tensor:
        part, slot = self.part(b, policy)
        if t < self.length(b):
            return torch.tensor(part.obs[t, slot, k].reshape(-1))
        if self.final(b) is None:
            return torch.zeros(policy.observation_size)
        return torch.tensor(part.final_obs[self.final(b), k].reshape(-1))

    def numbered(self, b: int, t: int, policy, k: int) -> torch.Tensor:
        seen = self.obs(b, t, policy, k)
        return torch.cat([seen, torch.eye(len(policy.agents))[k]]) if self.config.agent_id else seen

    def state(self, b: int, t: int) -> torch.Tensor:
        rollout, slot = self.episodes[b]
        if self.config.critic == "joint_observation":
            return torch.cat([self.obs(b, t, policy, k) for policy, k in self.agents])
        if t < self.length(b):
            return torch.tensor(rollout.state[t, slot])
        return (
            torch.zeros(self.spec.state_size)
            if self.final(b) is None
            else torch.tensor(rollout.final_state[self.final(b)])
        )

    def allowed(self, b: int, t: int, policy, k: int) -> torch.Tensor:
        part, slot = self.part(b, policy)
        if part.action_mask is None:
            return torch.ones(sum(policy.action.sizes), dtype=torch.bool)
        if t == self.length(b) and self.spec.turn_based:
            acted = [row for row in range(t) if part.alive[row, slot, k]]
            last = part.action_mask[acted[-1], slot, k] if acted else [True] * sum(policy.action.sizes)
            return torch.tensor(last)
        return torch.tensor(part.action_mask[min(t, self.length(b) - 1), slot, k])

    def _raw(self, b: int, modules) -> dict:
        found = {}
        for policy, k in self.agents:
            network = modules[policy.name]["actor"]
            memory = torch.zeros(1, network.width) if network.width else None
            for t in range(self.length(b) + 1):
                if not self.active(b, t, policy, k):
                    continue
                hidden = self.numbered(b, t, policy, k)[None]
                hidden = hidden if network.body is None else network.body(hidden)
                if memory is not None:
                    hidden = memory = network.cell(hidden, memory)
                found[t, policy.name, k] = network.outputs(hidden)[0]
        return found

    # ---- actions

    def logits(self, b: int, t: int, policy, k: int, rows) -> torch.Tensor:
        return torch.where(self.allowed(b, t, policy, k), rows[b][t, policy.name, k], torch.tensor(-1e9))

    def code(self, b: int, t: int, policy, k: int, rows, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the code of a sampled action, and its log-probability."""
        size = sum(policy.action.sizes)
        if not self.active(b, t, policy, k):
            return torch.zeros(size), torch.zeros(())
        noise = self.noise[draw].get(policy.name)
        noise = None if noise is None else torch.tensor(noise[t, b, k])
        if policy.action.kind == "continuous":
            raw = rows[b][t, policy.name, k]
            if self.config.name == "maddpg":
                return raw.tanh(), torch.zeros(())
            deviation = torch.nn.functional.softplus(raw[size:] + math.log(math.e - 1)) + 1e-3
            normal = torch.distributions.Normal(raw[:size], deviation)
            u = raw[:size] + deviation * noise
            return u.tanh(), (normal.log_prob(u) - torch.log1p(-(u.double().tanh() ** 2))).sum().float()
        logits = self.logits(b, t, policy, k, rows)
        parts, first = [], 0
        for number in policy.action.sizes:
            scores = (logits + noise)[first : first + number]
            hard = torch.eye(number)[int(scores.argmax())]
            soft = torch.softmax(scores, 0)
            parts.append(hard if self.config.name == "masac" else hard + soft - soft.detach())
            first += number
        chosen = torch.cat(parts)
        return chosen, (chosen * torch.log_softmax(logits, 0)).sum() if len(parts) == 1 else torch.zeros(())

    def taken(self, b: int, t: int, policy, k: int) -> torch.Tensor:
        size = sum(policy.action.sizes)
        part, slot = self.part(b, policy)
        if not self.active(b, t, policy, k):
            return torch.zeros(size)
        action = part.action[t, slot, k]
        if policy.action.kind == "continuous":
            low, high = torch.tensor(policy.action.low), torch.tensor(policy.action.high)
            return 2 * (torch.tensor(action) - low) / (high - low) - 1
        return torch.cat(
            [
                torch.eye(size)[int(a)]
                for size, a in zip(policy.action.sizes, np.atleast_1d(action), strict=True)
            ]
        )

    # ---- values

    def inputs(self, b: int, t: int, policy, k: int, codes: dict) -> torch.Tensor:
        if not self.central:
            return torch.cat([self.numbered(b, t, policy, k), codes[policy.name, k]])
        return torch.cat([self.state(b, t), *(codes[p.name, j] for p, j in self.agents)])

    def values(self, modules, policy, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [critic(inputs[None])[0] for critic in modules[policy.name]["critic"].values()]

    def units(self, policy) -> range:
        return range(1 if self.central else len(policy.agents))

    def counts(self, b: int, t: int, policy, u: int, own: bool = False) -> bool:
        if not self.central:
            return self.active(b, t, policy, u)
        return any(self.active(b, t, p, k) for p, k in self.agents if not own or p.name == policy.name)

    def ends(self, b: int, t: int, policy, u: int) -> int:
        if not self.central:
            part, slot = self.part(b, policy)
            return 1 if part.terminated[t, slot, u] else 2 if part.truncated[t, slot, u] else 0
        if t + 1 < self.length(b):
            return 0
        return 2 if self.final(b) is not None and self.counts(b, self.length(b), policy, u) else 1

    def reward(self, b: int, t: int, policy, u: int) -> float:
        part, slot = self.part(b, policy)
        own = part.reward[t, slot] if self.central else part.reward[t, slot, u : u + 1]
        return self.config.reward_scale * float(own.mean())

    def alpha(self, policy) -> float:
        if self.config.target_entropy is None:
            return self.config.entropy_cost
        return float(self.algorithm._modules[policy.name]["cost"].logarithm.detach().exp())

    def joint(self, b: int, t: int, rows, draw: int) -> tuple[dict, dict]:
        both = {(p.name, k): self.code(b, t, p, k, rows, draw) for p, k in self.agents}
        return {key: code for key, (code, _) in both.items()}, {key: logp for key, (_, logp) in both.items()}

    def future(self, b: int, t: int, policy, u: int) -> float:
        target = self.algorithm._target_modules
        if self.config.name == "maddpg":
            codes, _ = self.joint(b, t, self.later, 1)
            return min(v.item() for v in self.values(target, policy, self.inputs(b, t, policy, u, codes)))
        codes, logps = self.joint(b, t, self.rows, 0)
        if not self.central and policy.action.kind == "discrete":
            return self.expected(b, t, policy, u, codes, target).item()
        value = min(v.item() for v in self.values(target, policy, self.inputs(b, t, policy, u, codes)))
        own = [logps[policy.name, k].item() for k in range(len(policy.agents))]
        return value - self.alpha(policy) * (float(np.mean(own)) if self.central else own[u])

    def expected(self, b: int, t: int, policy, k: int, codes: dict, modules) -> torch.Tensor:
        """Return sum_a pi(a) [min Q(a) - alpha log pi(a)] of one agent's discrete actions."""
        logs = torch.log_softmax(self.logits(b, t, policy, k, self.rows), 0)
        total = torch.zeros(())
        for a in self.allowed(b, t, policy, k).nonzero()[:, 0].tolist():
            tried = {**codes, (policy.name, k): torch.eye(len(logs))[a]}
            values = self.values(modules, policy, self.inputs(b, t, policy, k, tried))
            total = total + logs[a].exp() * (min(v.item() for v in values) - self.alpha(policy) * logs[a])
        return total

    def target(self, b: int, t: int, policy, u: int) -> float:
        """Return the n-step return: rewards of n decisions, then the value that follows."""
        total, weight, left = 0.0, 1.0, getattr(self.config, "n_step", 1)
        while True:
            if self.counts(b, t, policy, u):
                if not left:
                    return total + weight * self.future(b, t, policy, u)
                left -= 1
                total, weight = total + weight * self.reward(b, t, policy, u), weight * self.config.discount
            else:
                total += weight * self.reward(b, t, policy, u)
            if end := self.ends(b, t, policy, u):
                return total + (weight * self.future(b, t + 1, policy, u) if end == 2 else 0.0)
            t += 1

    # ---- losses

    def objective(self, weights: list[float]) -> torch.Tensor:
        return sum(self.actor(policy) - self.critic(policy, weights) for policy in self.spec.policies) * len(
            self.episodes
        )

    def units_of(self, policy, own: bool):
        for b in range(len(self.episodes)):
            for t in range(self.length(b)):
                for u in self.units(policy):
                    if self.counts(b, t, policy, u, own):
                        yield b, t, u

    def critic(self, policy, weights: list[float]) -> torch.Tensor:
        rows = list(self.units_of(policy, own=False))
        total = torch.zeros(())
        for b, t, u in rows:
            codes = {(p.name, k): self.taken(b, t, p, k) for p, k in self.agents}
            inputs, wanted = self.inputs(b, t, policy, u, codes), self.target(b, t, policy, u)
            for value in self.values(self.algorithm._modules, policy, inputs):
                total = total + weights[b] * (value - wanted) ** 2
        return total / len(rows)

    def actor(self, policy) -> torch.Tensor:
        rows, modules = list(self.units_of(policy, own=True)), self.algorithm._modules
        decisions = [
            (b, t, k)
            for b in range(len(self.episodes))
            for t in range(self.length(b))
            for k in range(len(policy.agents))
            if self.active(b, t, policy, k)
        ]
        for critic in modules[policy.name]["critic"].values():
            critic.requires_grad_(False)
        exact = self.config.name == "masac" and policy.action.kind == "discrete"
        total, entropies = torch.zeros(()), []
        for b, t, u in rows:
            codes, logps = self.joint(b, t, self.rows, 0)
            if exact:
                own = list(range(len(policy.agents))) if self.central else [u]
                gains = [
                    self.expected(b, t, policy, k, codes, modules)
                    for k in own
                    if self.active(b, t, policy, k)
                ]
                total = total + sum(gains) / len(own)
                continue
            codes = {key: code if key[0] == policy.name else code.detach() for key, code in codes.items()}
            values = self.values(modules, policy, self.inputs(b, t, policy, u, codes))
            if self.config.name == "maddpg":
                total = total + values[0]
                continue
            own = [logps[policy.name, k] for k in (range(len(policy.agents)) if self.central else [u])]
            total = total + min(values) - self.alpha(policy) * sum(own) / len(own)
        for critic in modules[policy.name]["critic"].values():
            critic.requires_grad_(True)
        total = total / len(rows)
        if self.config.name == "maddpg":
            squares = [(self.rows[b][t, policy.name, k] ** 2).mean() for b, t, k in decisions]
            return total - self.config.output_cost * sum(squares) / len(squares)
        if self.config.target_entropy is None:
            return total
        wanted = []
        for b, t, k in decisions:
            if exact:
                p = torch.softmax(self.logits(b, t, policy, k, self.rows), 0)
                entropies.append(_entropy(p))
                wanted.append(0.2 * math.log(int(self.allowed(b, t, policy, k).sum())))
            else:
                entropies.append(-self.code(b, t, policy, k, self.rows, 0)[1].item())
                wanted.append(-policy.action.sizes[0])
        logarithm = modules[policy.name]["cost"].logarithm[0]
        missing = float(np.mean(wanted)) - float(np.mean(entropies))
        return total + self.config.entropy_cost_rate * missing * logarithm


def _entropy(probabilities: torch.Tensor) -> float:
    positive = probabilities[probabilities > 0]
    return -float((positive * positive.log()).sum().detach())


def literal_gradient(algorithm, rollouts, weights: list[float] | None = None) -> FloatArray:
    """Return the gradient of all gains minus all losses, times the number of episodes."""
    literal = LiteralActionCritic(algorithm, rollouts)
    algorithm._flat.zero_gradient()
    literal.objective(weights or [1.0] * len(literal.episodes)).backward()
    return algorithm._flat.gradient.copy()
