"""Description of trained policies as plain values, for files that other programs read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hpcmarl.algos.model import Model


def describe_policies(model: Model) -> dict[str, dict[str, Any]]:
    """Describe the acting network of each policy.

    Args:
        model: The networks.

    Returns:
        Policy -> agents, observation_shape, action, has_mask, stages, last_action_one_hot, agent_one_hot and
        outputs; docs/export.md explains them.
    """
    networks, meanings = model.networks(), model.meanings()
    described = {}
    for policy in model.spec.policies:
        extras = model.acting_extras(policy.name)
        described[policy.name] = {
            "agents": list(policy.agents),
            "observation_shape": list(policy.observation_shape),
            "observation_type": policy.observation_type,
            "observation_parts": [
                {"key": part.key, "shape": list(part.shape), "dtype": part.dtype}
                for part in policy.observation_parts
            ],
            "action": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(policy.action).items()
            },
            "has_mask": policy.has_mask,
            "stages": networks[policy.name],
            "last_action_one_hot": bool(extras["last action"]),
            "agent_one_hot": bool(extras["number of the agent"]),
            "outputs": meanings[policy.name],
        }
    return described
