"""Assignment of agents to policies: agents with equal spaces share one, unless the configuration differs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from hpcmarl.config import PolicyConfig
from hpcmarl.envs.observations import ObservationView
from hpcmarl.envs.spaces import ActionView
from hpcmarl.errors import ConfigError
from hpcmarl.types import PolicySpec


@dataclass(frozen=True)
class AgentView:
    """One agent, its spaces and the way they are read.

    Attributes:
        name: Name of the agent.
        observation_space: Its observation space in gymnasium.
        action_space: Its action space in gymnasium.
        observation: How its observations are read.
        action: How its actions are written.
        has_mask: Whether it receives action masks.
    """

    name: str
    observation_space: Any
    action_space: Any
    observation: ObservationView
    action: ActionView
    has_mask: bool

    @property
    def needs(self) -> tuple[Any, ...]:
        """Requirements of the agent on its policy; agents with equal requirements may share one."""
        seen = self.observation
        return (seen.shape, seen.type, seen.parts, self.action.key, self.has_mask)

    def describe(self) -> str:
        """Describe the agent for an error message."""
        mask = ", masked" if self.has_mask else ""
        return f"{self.name} (observation {self.observation_space}, action {self.action_space}{mask})"


def group_agents(agents: Sequence[AgentView], policies: Mapping[str, PolicyConfig]) -> tuple[PolicySpec, ...]:
    """Assign the agents to policies.

    Configured policies take the agents that match their patterns (fnmatch). The remaining agents with equal
    spaces share a policy. Its name is the common prefix of their names, or policy_K.

    Args:
        agents: All agents.
        policies: Configured policies by name.

    Returns:
        Policies, ordered by their first agent. The agents of a policy keep the order of `agents`.

    Raises:
        ConfigError: If a pattern matches no agent, two policies match one agent, or the agents of a policy
            differ.
    """
    chosen = _configured(agents, policies)
    groups: list[tuple[str, list[AgentView]]] = []
    for name in policies:
        members = [agent for agent in agents if chosen.get(agent.name) == name]
        _check_same(name, members)
        groups.append((name, members))
    taken = set(policies)
    for number, members in enumerate(_same_spaces([agent for agent in agents if agent.name not in chosen])):
        name = _name(members, number, taken)
        taken.add(name)
        groups.append((name, members))
    position = {agent.name: number for number, agent in enumerate(agents)}
    groups.sort(key=lambda group: position[group[1][0].name])
    return tuple(
        PolicySpec(
            name,
            tuple(agent.name for agent in members),
            members[0].observation.shape,
            members[0].action.space,
            members[0].has_mask,
            members[0].observation.type,
            members[0].observation.parts,
        )
        for name, members in groups
    )


def teams_of(policies: Sequence[PolicySpec], common_reward: bool) -> tuple[tuple[str, ...], ...]:
    """Return the value of `EnvironmentSpec.teams` for these policies.

    Args:
        policies: All policies.
        common_reward: Whether all agents share one reward. Then the policies form one team; otherwise no team
            is known.
    """
    return (tuple(policy.name for policy in policies),) if common_reward else ()


def _configured(agents: Sequence[AgentView], policies: Mapping[str, PolicyConfig]) -> dict[str, str]:
    """Return agent -> configured policy for the agents that match a pattern."""
    names = [agent.name for agent in agents]
    chosen: dict[str, str] = {}
    for policy, config in policies.items():
        for pattern in config.agents:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise ConfigError(
                    f"policies.{policy}.agents: {pattern!r} matches no agent; the environment's agents are "
                    f"{', '.join(names)}"
                )
            for name in matched:
                if chosen.setdefault(name, policy) != policy:
                    raise ConfigError(
                        f"policies: agent {name} is matched by {chosen[name]} and by {policy}; allowed: one "
                        "policy for each agent; narrow the patterns"
                    )
    return chosen


def _check_same(policy: str, members: Sequence[AgentView]) -> None:
    for member in members[1:]:
        if member.needs != members[0].needs:
            raise ConfigError(
                f"policies.{policy}.agents: {members[0].describe()} and {member.describe()} differ; agents "
                "of one policy need equal spaces; assign them to separate policies"
            )


def _same_spaces(agents: Sequence[AgentView]) -> list[list[AgentView]]:
    groups: list[list[AgentView]] = []
    for agent in agents:
        for group in groups:
            first = group[0]
            if (
                agent.needs == first.needs
                and agent.observation_space == first.observation_space
                and agent.action_space == first.action_space
            ):
                group.append(agent)
                break
        else:
            groups.append([agent])
    return groups


def _name(members: Sequence[AgentView], number: int, taken: set[str]) -> str:
    """Return a name for a policy.

    It is the name of a single agent, or the common prefix of the names without trailing digits and
    separators. If neither works, it is policy_K.
    """
    names = [agent.name for agent in members]
    name = names[0] if len(names) == 1 else _common_beginning(names).rstrip("0123456789").rstrip("_-. ")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    while not name or name in taken:
        name, number = f"policy_{number}", number + 1
    return name


def _common_beginning(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    length = next(
        (number for number, (left, right) in enumerate(zip(first, last, strict=False)) if left != right),
        len(first),
    )
    return first[:length]
