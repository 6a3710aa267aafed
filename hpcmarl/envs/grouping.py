"""Which agents share a policy: by their spaces, unless the configuration says otherwise.

Called by probe.py. Knows names and descriptions of spaces; must not know environments or slots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from hpcmarl.config import PolicyConfig
from hpcmarl.envs.spaces import ActionView, ObservationView
from hpcmarl.errors import ConfigError
from hpcmarl.types import PolicySpec


@dataclass(frozen=True)
class AgentView:
    """One agent: its name, its gymnasium spaces, how they are read, and whether it is given action masks."""

    name: str
    observation_space: Any
    action_space: Any
    observation: ObservationView
    action: ActionView
    has_mask: bool

    @property
    def needs(self) -> tuple[Any, ...]:
        """What a policy must provide for it; agents that need the same may share one."""
        return (self.observation.shape, self.action.key, self.has_mask)

    def describe(self) -> str:
        mask = ", masked" if self.has_mask else ""
        return f"{self.name} (observation {self.observation_space}, action {self.action_space}{mask})"


def group_agents(agents: Sequence[AgentView], policies: Mapping[str, PolicyConfig]) -> tuple[PolicySpec, ...]:
    """Share out the agents. Policies are ordered by their first agent, agents in a policy as in `agents`.

    Configured policies take the agents that their patterns (fnmatch) match. The others: agents with equal
    spaces share a policy that is named by the common beginning of their names, or policy_K. Raises
    ConfigError naming `policies`.
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
        )
        for name, members in groups
    )


def teams_of(policies: Sequence[PolicySpec], common_reward: bool) -> tuple[tuple[str, ...], ...]:
    """Return what EnvironmentSpec.teams says of these policies: with a common reward they are one team, else
    no team is known."""
    return (tuple(policy.name for policy in policies),) if common_reward else ()


def _configured(agents: Sequence[AgentView], policies: Mapping[str, PolicyConfig]) -> dict[str, str]:
    """Agent -> configured policy, for the agents that a pattern matches."""
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
                        "policy an agent; narrow the patterns"
                    )
    return chosen


def _check_same(policy: str, members: Sequence[AgentView]) -> None:
    for member in members[1:]:
        if member.needs != members[0].needs:
            raise ConfigError(
                f"policies.{policy}.agents: {members[0].describe()} and {member.describe()} differ; agents "
                "of one policy need equal spaces; give them policies of their own"
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
    """The agents' common beginning without trailing digits and separators; a lone agent's own name; policy_K
    where that fails."""
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
