"""The environment in words: spaces, masks and state, and agents that no configured pattern covers."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from hpcmarl.config import PolicyConfig
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec

SHOWN_AGENTS = 6
SHOWN_NUMBERS = 4


def describe_policy(policy: PolicySpec) -> str:
    """Return the agents, observations, actions and masks of a policy in one line."""
    agents = _listed(policy.agents)
    count = f"{len(policy.agents)} agent{'s' if len(policy.agents) > 1 else ''}"
    masks = "with action masks" if policy.has_mask else "no action masks"
    seen, actions = describe_observations(policy), describe_actions(policy.action)
    return f"{count} ({agents}), observations {seen}, actions {actions}, {masks}"


def describe_observations(policy: PolicySpec) -> str:
    """Return the shape of an observation in words, with its type unless it is float32.

    Entries of a record are named by their keys.
    """
    if not policy.observation_parts:
        return _shaped(policy.observation_shape, policy.observation_type)
    return ", ".join(f"{part.key} {_shaped(part.shape, part.dtype)}" for part in policy.observation_parts)


def _shaped(shape: tuple[int, ...], dtype: str) -> str:
    sizes = "x".join(map(str, shape)) or "1"
    return sizes if dtype == "float32" else f"{sizes} {dtype}"


def describe_actions(action: ActionSpace) -> str:
    """Return the kind, size and bounds of an action space in words."""
    if action.kind == "continuous":
        bounds = sorted(set(zip(action.low, action.high, strict=True)))
        shown = ", ".join(f"{low:g} to {high:g}" for low, high in bounds[:SHOWN_NUMBERS])
        return f"continuous {action.sizes[0]} in {shown}{' ...' if len(bounds) > SHOWN_NUMBERS else ''}"
    return f"{action.kind.replace('_', '-')} {'x'.join(map(str, action.sizes))}"


def describe_state(spec: EnvironmentSpec) -> str:
    """Return whether the environment has a state for central critics and mixers, and its size."""
    if spec.state_size is None:
        return "none; critics and mixers use the observations of all agents (joint_observation)"
    return f"{spec.state_size} numbers (algo.critic: state, algo.mixer_state: state)"


def uncovered_remark(spec: EnvironmentSpec, policies: Mapping[str, PolicyConfig]) -> str:
    """Return one line on agents that match no configured pattern; empty if all match or none is configured.

    Args:
        spec: The environment.
        policies: Configured policies by name.
    """
    patterns = [pattern for policy in policies.values() for pattern in policy.agents]
    left = {
        policy.name: [
            agent for agent in policy.agents if not any(fnmatchcase(agent, pattern) for pattern in patterns)
        ]
        for policy in spec.policies
    }
    parts = [f"{_listed(agents)} (policy {name})" for name, agents in left.items() if agents]
    if not patterns or not parts:
        return ""
    return (
        f"no pattern of policies covers {', '.join(parts[:SHOWN_AGENTS])}; agents without a pattern share a "
        "policy if their spaces are equal"
    )


def _listed(agents: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(map(str, agents[:SHOWN_AGENTS]))
    left = len(agents) - SHOWN_AGENTS
    return f"{shown} and {left} more" if left > 0 else shown
