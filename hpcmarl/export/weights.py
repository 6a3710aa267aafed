"""Export of all parameters as npz, with a JSON description of the networks.

The format is that of `hpcmarl league export` (docs/export.md). The description is in a file beside the
arrays, so that it can be read without numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcmarl.algos.description import describe_policies
from hpcmarl.analysis.league_export import write_parameters
from hpcmarl.evaluation import Trained


def write_npz(trained: Trained, path: Path) -> dict[str, Any]:
    """Write parameters by name, critics included, and their description to the JSON file of the same name.

    Args:
        trained: The policies.
        path: The npz file.

    Returns:
        path, description (path of the JSON file), parameters (number of values), bytes (size of the npz
        file).

    Raises:
        StorageError: If a file cannot be written.
    """
    env = trained.config.env
    facts = {
        "run": trained.config.name,
        "checkpoint": trained.checkpoint.name,
        "updates": trained.version,
        "env": env.id,
        "env_kwargs": dict(env.kwargs),
        "algorithm": trained.config.algo.name,
        "policies": describe_policies(trained.algorithm),
    }
    return write_parameters(path, trained.algorithm.named_parameters(), facts)
