"""The value-based losses from their equations, with loops over episodes, rows and agents.

They are the references for algos/iql.py, vdn.py, qmix.py, wqmix.py and res.py.
"""

from __future__ import annotations

import itertools

import torch

from hpcmarl.types import FloatArray


class LiteralQLearning:
    """Loss of one episode (slot) of a rollout under the current and the target networks of an algorithm."""

    def __init__(self, algorithm, rollout, slot: int) -> None:
        self.algorithm, self.config, self.rollout, self.slot = algorithm, algorithm._config, rollout, slot
        self.spec, self.length = algorithm.spec, rollout.steps
        self.truncated = int(rollout.episode_end[-1, slot]) == 2
        self.final = next((k for k, (_, s) in enumerate(rollout.final_index.tolist()) if s == slot), None)
        self.agents = [(policy, k) for policy in self.spec.policies for k in range(len(policy.agents))]

    # ---- inputs

    def part(self, policy):
        return self.rollout.policies[policy.name]

    def active(self, t: int, policy, k: int) -> bool:
        part = self.part(policy)
        if t < self.length:
            return bool(part.alive[t, self.slot, k])
        return bool(part.truncated[-1, self.slot, k]) and not bool(part.terminated[-1, self.slot, k])

    def obs(self, t: int, policy, k: int) -> torch.Tensor:
        part = self.part(policy)
        if t < self.length:
            return torch.tensor(part.obs[t, self.slot, k].reshape(-1))
        return (
            torch.tensor(part.final_obs[self.final, k].reshape(-1))
            if self.truncated
            else torch.zeros(policy.observation_size)
        )

    def allowed(self, t: int, policy, k: int) -> list[int]:
        mask = self.part(policy).action_mask
        actions = range(policy.action.sizes[0])
        return [a for a in actions if mask is None or mask[min(t, self.length - 1), self.slot, k, a]]

    def state(self, t: int) -> torch.Tensor:
        if self.algorithm.needs_state:
            if t < self.length:
                return torch.tensor(self.rollout.state[t, self.slot])
            return (
                torch.tensor(self.rollout.final_state[self.final])
                if self.truncated
                else torch.zeros(self.spec.state_size)
            )
        return torch.cat([self.obs(t, policy, k) for policy, k in self.agents])

    def reward(self, t: int, agents) -> float:
        earned = [float(self.part(policy).reward[t, self.slot, k]) for policy, k in agents]
        return self.config.reward_scale * sum(earned) / len(earned)

    # ---- values

    def rows(self, networks, kind: str = "") -> dict:
        """Return (t, policy name, agent) -> values [A] for all rows in which the agent acts.

        Recurrent networks are applied from row 0.
        """
        found = {}
        for policy, k in self.agents:
            network = networks.others[f"central {policy.name}"] if kind else networks.policies[policy.name]
            memory = torch.zeros(1, network.width) if network.width else None
            last = torch.zeros(policy.action.sizes[0])
            for t in range(self.length + 1):
                if not self.active(t, policy, k):
                    continue
                seen = self.obs(t, policy, k)
                if self.config.obs_last_action:
                    seen = torch.cat([seen, last])
                    if t < self.length:
                        last = torch.eye(len(last))[int(self.part(policy).action[t, self.slot, k])]
                if self.config.agent_id:
                    seen = torch.cat([seen, torch.eye(len(policy.agents))[k]])
                hidden = seen[None] if network.body is None else network.body(seen[None])
                if memory is not None:
                    hidden = memory = network.cell(hidden, memory)
                values = network.outputs(hidden)[0]
                if self.config.network.dueling:
                    values = network.value(hidden)[0] + values - values[self.allowed(t, policy, k)].mean()
                found[t, policy.name, k] = values
        return found

    def best(self, rows: dict, t: int, policy, k: int) -> int:
        return max(self.allowed(t, policy, k), key=lambda a: (rows[t, policy.name, k][a].item(), -a))

    def mix(self, networks, utilities: list, t: int, mixer: str = "mixer") -> torch.Tensor:
        stacked = torch.stack([torch.as_tensor(each, dtype=torch.float32) for each in utilities])
        return networks.others[mixer](stacked[None], self.state(t))[0]

    def joint(self, networks, rows: dict, actions: dict, t: int, mixer: str = "mixer") -> torch.Tensor:
        """Return the mixed value of the actions {(policy, agent): action}; idle agents have utility 0."""
        chosen = [
            rows[t, p.name, k][actions[p.name, k]] if self.active(t, p, k) else 0.0 for p, k in self.agents
        ]
        return self.mix(networks, chosen, t, mixer)

    def greedy(self, rows: dict, t: int) -> dict:
        return {(p.name, k): self.best(rows, t, p, k) for p, k in self.agents if self.active(t, p, k)}

    def done(self, t: int) -> dict:
        return {
            (p.name, k): int(self.part(p).action[t, self.slot, k])
            for p, k in self.agents
            if self.active(t, p, k)
        }

    def mellowmax(self, values: torch.Tensor, allowed: list[int]) -> torch.Tensor:
        values = values[allowed]
        weights = torch.softmax(self.config.mellowmax_alpha * values, 0)
        return (
            weights * (self.config.mellowmax_omega * values).exp()
        ).sum().log() / self.config.mellowmax_omega

    # ---- targets

    def targets(self, value, reward, counts, ends, trace_lambda: float, n_step: int = 1) -> dict[int, float]:
        """Return R_t of the rows that count.

        Args:
            value: t -> value.
            reward: t -> reward.
            counts: t -> whether row t is a decision.
            ends: t -> 0: the episode continues, 1: terminated, 2: truncated.
            trace_lambda: Weight of longer returns.
            n_step: Number of steps if greater than 1.
        """
        found: dict[int, float] = {}

        def after(t: int) -> tuple[float, float]:
            """Return V and R of the next decision, plus the rewards of gap rows before it."""
            end = ends(t)
            if end:
                return (0.0, 0.0) if end == 1 else (value(t + 1), value(t + 1))
            if counts(t + 1):
                return value(t + 1), found[t + 1]
            later = after(t + 1)
            return reward(t + 1) + later[0], reward(t + 1) + later[1]

        for t in reversed(range(self.length)):
            if counts(t):
                v, r = after(t)
                found[t] = reward(t) + self.config.discount * ((1 - trace_lambda) * v + trace_lambda * r)
        return {t: self.n_step(value, reward, counts, ends, t) for t in found} if n_step > 1 else found

    def n_step(self, value, reward, counts, ends, t: int) -> float:
        """Return the n-step target of row t: the rewards of n decisions plus the value that follows."""
        total, weight, left = 0.0, 1.0, self.config.n_step
        while True:
            if counts(t):
                if not left:
                    return total + weight * value(t)
                left -= 1
                total += weight * reward(t)
                weight *= self.config.discount
            else:
                total += weight * reward(t)
            if ends(t):
                return total + (weight * value(t + 1) if ends(t) == 2 else 0.0)
            t += 1

    # ---- losses; each returns the sum of squares and |Q - R| of each row

    def iql(self) -> tuple[torch.Tensor, list[float]]:
        online, target = self.algorithm._online, self.algorithm._target
        rows, later = self.rows(online), self.rows(target)
        total, errors = torch.zeros(()), []
        for policy, k in self.agents:

            def value(t, policy=policy, k=k):
                if self.config.operator == "mellowmax":
                    return self.mellowmax(later[t, policy.name, k], self.allowed(t, policy, k)).item()
                chooser = rows if self.config.double_q else later
                return later[t, policy.name, k][self.best(chooser, t, policy, k)].item()

            def ends(t, policy=policy, k=k):
                part = self.part(policy)
                return 1 if part.terminated[t, self.slot, k] else 2 if part.truncated[t, self.slot, k] else 0

            targets = self.targets(
                value,
                lambda t, policy=policy, k=k: self.reward(t, [(policy, k)]),
                lambda t, policy=policy, k=k: self.active(t, policy, k),
                ends,
                self.config.trace_lambda,
                self.config.n_step,
            )
            for t, wanted in targets.items():
                difference = rows[t, policy.name, k][int(self.part(policy).action[t, self.slot, k])] - wanted
                total = total + difference**2
                errors.append(abs(difference.item()))
        return total, errors

    def team(self) -> tuple[torch.Tensor, list[float]]:
        online, target, config = self.algorithm._online, self.algorithm._target, self.config
        rows, later, name = self.rows(online), self.rows(target), config.name
        central = self.rows(online, "central") if name == "wqmix" else {}
        central_later = self.rows(target, "central") if name == "wqmix" else {}

        def value(t):
            if name == "res":
                return self.softmax(rows, later, t)
            if getattr(config, "operator", "max") == "mellowmax":
                source, mixer = (central_later, "central mixer") if name == "wqmix" else (later, "mixer")
                own = [
                    self.mellowmax(source[t, p.name, k], self.allowed(t, p, k))
                    if self.active(t, p, k)
                    else 0.0
                    for p, k in self.agents
                ]
                return self.mix(target, own, t, mixer).item()
            if name == "wqmix":
                return self.joint(target, central_later, self.greedy(rows, t), t, "central mixer").item()
            return self.joint(target, later, self.greedy(rows if config.double_q else later, t), t).item()

        def counts(t):
            return any(self.active(t, p, k) for p, k in self.agents)

        def ends(t):
            if t + 1 < self.length:
                return 0
            return 2 if self.truncated and counts(self.length) else 1

        def reward(t):
            return self.reward(t, self.agents)

        targets = self.targets(value, reward, counts, ends, config.trace_lambda, config.n_step)
        returns = self.targets(lambda t: 0.0, reward, counts, ends, 1.0)
        total, errors = torch.zeros(()), []
        for t, wanted in targets.items():
            mixed = self.joint(online, rows, self.done(t), t)
            errors.append(abs(mixed.item() - wanted))
            if name == "wqmix":
                best = self.greedy(rows, t)
                value_best = self.joint(target, central_later, best, t, "central mixer").item()
                full = (
                    mixed.item() < wanted
                    if config.weighting == "optimistic"
                    else best == self.done(t) or wanted > value_best
                )
                total = total + (1.0 if full else config.alpha) * (mixed - wanted) ** 2
                total = total + (self.joint(online, central, self.done(t), t, "central mixer") - wanted) ** 2
            else:
                total = total + (mixed - wanted) ** 2
            if name == "res":
                total = total + config.regularisation * (mixed - returns[t]) ** 2
        return total, errors

    def softmax(self, rows: dict, later: dict, t: int) -> float:
        """Return the softmax-weighted value of the joint actions near the greedy one.

        The values come from the target network. The weights come from the current network or, without
        double_q, from the target network.
        """
        best = self.greedy(rows if self.config.double_q else later, t)
        near = {tuple(sorted(best.items()))}
        for (policy, k), a in itertools.product(self.agents, range(9)):
            if (policy.name, k) in best and a in self.allowed(t, policy, k):
                near.add(tuple(sorted({**best, (policy.name, k): a}.items())))
        values = torch.stack([self.joint(self.algorithm._target, later, dict(joint), t) for joint in near])
        scores = values
        if self.config.double_q:
            scores = torch.stack([self.joint(self.algorithm._online, rows, dict(joint), t) for joint in near])
        return (torch.softmax(self.config.softmax_beta * scores, 0) * values).sum().item()


def literal_gradient(algorithm, rollouts, weights: list[float] | None = None) -> FloatArray:
    """Return the gradient of minus the loss, times the number of episodes.

    The loss is the mean over rows, each weighted like its episode.
    """
    algorithm._flat.zero_gradient()
    total, rows = torch.zeros(()), 0
    each = _losses(algorithm, rollouts)
    for (own, errors), weight in zip(each, weights or [1.0] * len(each), strict=True):
        total, rows = total + weight * own, rows + len(errors)
    (-total / rows * len(each)).backward()
    return algorithm._flat.gradient.copy()


def literal_errors(algorithm, rollouts) -> list[list[float]]:
    """Return |Q - R| of all rows of each episode."""
    return [errors for _, errors in _losses(algorithm, rollouts)]


def _losses(algorithm, rollouts) -> list[tuple[torch.Tensor, list[float]]]:
    literals = [
        LiteralQLearning(algorithm, rollout, slot) for rollout in rollouts for slot in range(rollout.count)
    ]
    return [literal.iql() if algorithm._config.name == "iql" else literal.team() for literal in literals]
