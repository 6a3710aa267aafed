"""Export of all parameters as npz, with a JSON description of the networks.

The format is that of `hpcmarl league export` (docs/league.md). The description is in a file beside the
arrays, so that it can be read without numpy.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcmarl.analysis.league_export import write_parameters
from hpcmarl.export.source import Source
from hpcmarl.types import PolicySpec


def describe_policy(source: Source, policy: PolicySpec) -> dict[str, Any]:
    """Return a description of a policy's network as plain values.

    Args:
        source: The run.
        policy: The policy.

    Returns:
        agents, observation_shape, action, has_mask, stages, last_action_one_hot, agent_one_hot and outputs;
        docs/league.md explains them.
    """
    model = source.model
    extras = model.acting_extras(policy.name)
    return {
        "agents": list(policy.agents),
        "observation_shape": list(policy.observation_shape),
        "action": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(policy.action).items()
        },
        "has_mask": policy.has_mask,
        "stages": model.networks()[policy.name],
        "last_action_one_hot": bool(extras["last action"]),
        "agent_one_hot": bool(extras["number of the agent"]),
        "outputs": model.meanings()[policy.name],
    }


def write_npz(source: Source, path: Path, only: PolicySpec | None = None) -> dict[str, Any]:
    """Write parameters by name, and their description to the JSON file of the same name.

    Args:
        source: The run.
        path: The npz file.
        only: Write only the network with which this policy acts; None: all networks, critics included.

    Returns:
        path, description (path of the JSON file), parameters (number of values), bytes (size of the npz
        file).

    Raises:
        StorageError: If a file cannot be written.
    """
    parameters = source.model.named_parameters()
    policies = source.spec.policies if only is None else (only,)
    if only is not None:
        acting = set(source.model.acting_parameters(only.name))
        parameters = {name: values for name, values in parameters.items() if name in acting}
    env = source.config.env
    facts = {
        "run": source.config.name,
        "checkpoint": source.checkpoint.name,
        "updates": source.version,
        "env": env.id,
        "env_kwargs": dict(env.kwargs),
        "algorithm": source.config.algo.name,
    }
    described = {policy.name: describe_policy(source, policy) for policy in policies}
    return write_parameters(path, parameters, {**facts, "policies": described})
