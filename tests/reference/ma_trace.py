"""MA-Trace from its equations, with loops over slots, rows and agents; the reference for algos/ma_trace.py.

It shares only the networks and their heads with the algorithm. Those have their own tests.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hpcmarl.algos.ma_trace import MATrace
from hpcmarl.types import FloatArray, PolicySpec, Rollout


class LiteralMATrace:
    """Loss of one unroll (slot) of one policy, with loops over rows and agents."""

    def __init__(self, algorithm: MATrace, rollout: Rollout, policy: PolicySpec, slot: int) -> None:
        self.algorithm, self.rollout, self.policy, self.slot = algorithm, rollout, policy, slot
        self.config, self.part = algorithm._config, rollout.policies[policy.name]
        self.steps, self.agents = rollout.steps, len(policy.agents)
        self.finals = {
            int(step): index for index, (step, where) in enumerate(rollout.final_index) if where == slot
        }

    # agent whose value is used for the team, if each agent has its own value
    owner = 0

    def logp_and_entropy(self, t: int, agent: int) -> tuple[torch.Tensor, torch.Tensor]:
        module, part, slot = self.algorithm._policies[self.policy.name], self.part, self.slot
        raw = module(torch.from_numpy(self.policy_input(part.obs[t, slot, agent], agent)[None]))
        mask = None if part.action_mask is None else torch.from_numpy(part.action_mask[t, slot, agent][None])
        logp, entropy = module.head.evaluate(
            raw, torch.from_numpy(np.asarray(part.action[t, slot, agent])[None]), mask
        )
        return logp[0], entropy[0]

    def policy_input(self, obs: FloatArray, agent: int) -> FloatArray:
        """Return the policy input of an agent: its observation and, with `agent_id`, its one-hot number."""
        number = [float(k == agent) for k in range(self.agents)] if self.config.agent_id else []
        return np.append(obs.reshape(-1), np.array(number, np.float32))

    def value(self, t: int, agent: int, *, final: bool = False) -> torch.Tensor:
        critic, seen = (
            self.algorithm._critics[self.policy.name],
            torch.from_numpy(self.critic_input(t, agent, final=final)),
        )
        if critic.memory_size:
            memory = self.critic_memory(t + 1 if final else t, agent)
            if not final and self.rollout.episode_start[t, self.slot]:
                memory = torch.zeros_like(memory)
            value: torch.Tensor = critic.head(critic.cell(critic.body(seen[None]), memory))[0, 0]
        else:
            value = critic(seen)
        return value

    def critic_memory(self, rows: int, agent: int) -> torch.Tensor:
        """Return the memory of a recurrent critic after a number of rows.

        torch's own cell is applied row by row, in the rows that count.
        """
        critic, before = self.algorithm._critics[self.policy.name], self.part.critic_memory
        memory = (
            torch.zeros(1, critic.memory_size)
            if before is None
            else torch.from_numpy(before[self.slot, agent][None])
        )
        for t in range(rows):
            if self.rollout.episode_start[t, self.slot]:
                memory = torch.zeros_like(memory)
            if self.counts(t, agent if self.config.critic == "independent" else None):
                memory = critic.cell(critic.body(torch.from_numpy(self.critic_input(t, agent))[None]), memory)
        return memory

    def critic_input(self, t: int, agent: int, *, final: bool = False) -> FloatArray:
        """Return the input of the critic."""
        rollout, where = self.rollout, self.finals[t] if final else (t, self.slot)
        if self.config.critic == "state":
            seen = rollout.final_state[where] if final else rollout.state[where]  # type: ignore[index]
        elif self.config.critic == "independent":
            seen = self.policy_input((self.part.final_obs if final else self.part.obs)[where][agent], agent)
        else:
            parts = [rollout.policies[each.name] for each in self.algorithm.spec.policies]
            seen = np.concatenate(
                [(part.final_obs if final else part.obs)[where].reshape(-1) for part in parts]
            )
        if self.config.critic_input == "agent":
            seen = np.append(
                seen,
                self.policy_input((self.part.final_obs if final else self.part.obs)[where][agent], agent),
            )
        return np.asarray(seen)

    def counts(self, t: int, agent: int | None) -> bool:
        """Return whether row t is a decision of the agent or, with None, of the team.

        With simultaneous actions, a row counts for the team in two cases: its episode ends in the unroll, or
        any agent acts in this part of the episode. In turn-based games a row counts if the agent, or any
        agent of the policy, acts.
        """
        rollout, slot = self.rollout, self.slot
        if agent is not None or self.algorithm.spec.turn_based:
            return bool(self.acting(t, agent))
        first = last = t
        while first > 0 and not rollout.episode_end[first - 1, slot]:
            first -= 1
        while last < self.steps - 1 and not rollout.episode_end[last, slot]:
            last += 1
        return bool(rollout.episode_end[last, slot]) or any(
            part.alive[first : last + 1, slot].any() for part in rollout.policies.values()
        )

    def team_ends(self, t: int) -> tuple[bool, bool]:
        """Return whether the team terminates and whether it is truncated after row t.

        An episode that ends counts as truncated if any agent was truncated. In games with simultaneous
        actions this includes the agents of all policies.
        """
        end = int(self.rollout.episode_end[t, self.slot])
        parts = [self.part] if self.algorithm.spec.turn_based else list(self.rollout.policies.values())
        truncated = end == 2 and any(part.truncated[t, self.slot].any() for part in parts)
        return end > 0 and not truncated, truncated

    def team_ratio(self, t: int) -> float:
        """Return the log-ratio of all agents of the team that act in row t."""
        spec, given = self.algorithm.spec, self.config.teams
        teams = spec.teams if given == "auto" else given
        mates = (
            (self.policy.name,)
            if spec.turn_based
            else next((team for team in teams if self.policy.name in team), (self.policy.name,))
        )
        return sum(
            LiteralMATrace(self.algorithm, self.rollout, spec.policy(name), self.slot).own_log_ratio(t, None)
            for name in mates
        )

    def own_log_ratio(self, t: int, agent: int | None) -> float:
        """Return log pi - log mu, summed over this policy's agents that act in row t, or of one agent."""
        return sum(
            self.logp_and_entropy(t, k)[0].item() - float(self.part.logp[t, self.slot, k])
            for k in self.acting(t, agent)
        )

    def acting(self, t: int, agent: int | None) -> list[int]:
        return [
            k
            for k in ([agent] if agent is not None else range(self.agents))
            if self.part.alive[t, self.slot, k]
        ]

    def column(
        self, agent: int | None, weight_agent: int | None
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return targets and advantages by row.

        Args:
            agent: Agent whose rewards, ends and values are used; None: those of the team.
            weight_agent: Agent whose ratio is used; None: the joint ratio.
        """
        config, part, slot = self.config, self.part, self.slot
        owner = self.owner if agent is None else agent
        targets: dict[int, float] = {}
        advantages: dict[int, float] = {}
        closed = self.close(agent)

        def after(t: int) -> tuple[float, float]:
            final = t in self.finals
            if agent is None:
                terminated, truncated = self.team_ends(t)
            else:
                terminated, truncated = (
                    bool(part.terminated[t, slot, agent]),
                    bool(part.truncated[t, slot, agent]),
                )
            if terminated:
                return 0.0, 0.0
            if truncated:
                value = self.value(t, owner, final=final).item()
                return value, value
            if t + 1 == self.steps:
                return (self.value(self.steps, owner).item(),) * 2
            return row(t + 1)

        def row(t: int) -> tuple[float, float]:
            if t == closed:
                return (self.value(t, owner).item(),) * 2
            rewards = [
                float(part.reward[t, slot, k]) for k in (range(self.agents) if agent is None else [agent])
            ]
            reward = config.reward_scale * sum(rewards) / len(rewards)
            next_value, next_target = after(t)
            if not self.counts(t, agent):
                return next_value + reward, next_target + reward
            ratio = math.exp(
                self.team_ratio(t) if weight_agent is None else self.own_log_ratio(t, weight_agent)
            )
            ratio = ratio if config.importance_sampling else 1.0
            rho, c, value = (
                min(config.rho_max, ratio),
                config.trace_lambda * min(config.c_max, ratio),
                self.value(t, owner).item(),
            )
            targets[t] = (
                value
                + rho * (reward + config.discount * next_value - value)
                + config.discount * c * (next_target - next_value)
            )
            advantages[t] = rho * (reward + config.discount * next_target - value)
            return value, targets[t]

        for t in range(self.steps):
            row(t)
        return targets, advantages

    def close(self, agent: int | None) -> int | None:
        """Return the last decision of an unroll that ends in a gap, else None; turn-based games only."""
        if not self.algorithm.spec.turn_based or self.acting(self.steps, agent):
            return None
        return self.last_decision(agent)

    def last_decision(self, agent: int | None) -> int | None:
        """Return the last row with an action; None if the episode ended there or later."""
        for t in range(self.steps - 1, -1, -1):
            if self.rollout.episode_end[t, self.slot]:
                return None
            if self.acting(t, agent):
                return t
        return None

    def loss(self) -> torch.Tensor:
        config = self.config
        total = torch.zeros(())
        central = config.critic != "independent"
        joint = central and config.ratios != "agent"
        each, columns = config.critic_input == "agent", {}
        for k in range(self.agents):
            self.owner = k if each else 0
            columns[k] = self.column(None if central else k, None if joint else k)
        for t in range(self.steps):
            team = self.acting(t, None)
            for k in team:
                logp, entropy = self.logp_and_entropy(t, k)
                total = total - logp * columns[k][1].get(t, 0.0) - config.entropy_cost * entropy
            if each and self.counts(t, None):
                for k in range(self.agents):
                    total = (
                        total + config.value_cost * (columns[k][0][t] - self.value(t, k)) ** 2 / self.agents
                    )
            elif central and self.counts(t, None):
                valued = team or range(self.agents)
                target = (
                    columns[0][0].get(t) if joint else sum(columns[k][0][t] for k in valued) / len(valued)
                )
                if target is not None:
                    total = total + config.value_cost * (target - self.value(t, 0)) ** 2
            elif not central:
                for k in team:
                    if t in columns[k][0]:
                        total = (
                            total
                            + config.value_cost * (columns[k][0][t] - self.value(t, k)) ** 2 / self.agents
                        )
        return total / self.steps


def literal_gradient(algorithm: MATrace, rollouts: list[Rollout]) -> FloatArray:
    """Return the gradient summed over all slots and policies."""
    algorithm._flat.zero_gradient()
    for rollout in rollouts:
        for policy in algorithm.spec.policies:
            for slot in range(rollout.count):
                loss = LiteralMATrace(algorithm, rollout, policy, slot).loss()
                if loss.requires_grad:
                    (-loss).backward()
    return algorithm._flat.gradient.copy()
