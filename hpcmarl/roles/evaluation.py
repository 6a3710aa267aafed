"""`hpcmarl eval`: judges the policies of a checkpoint in this process, without a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos import make_algorithm
from hpcmarl.configfile import load_config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.roles.base import group_environment
from hpcmarl.roles.evaluator import Match, summarise


def evaluate_checkpoint(path: str, episodes: int | None = None, greedy: bool | None = None, seed: int | None = None) -> dict[str, Any]:
    """Figures as of `evaluator.summarise`, with the checkpoint's path and version; None takes the run's own setting.

    Groups that had environments of their own are each judged on theirs. Raises ConfigError for a path that does not exist,
    FormatError for one without a checkpoint that verifies."""
    if not Path(path).exists():
        raise ConfigError(f"{path}: no such file or directory; allowed: a run directory or a checkpoint file")
    found = find_checkpoint(path)
    if found is None:
        raise FormatError(f"{path}: no checkpoint in it verifies; allowed: a run directory with checkpoints/checkpoint-*.h5")
    state, attributes = load_checkpoint(found)
    config = load_config(str(attributes["config"]))
    algorithm = make_algorithm(describe(config.env, config.policies), config.algo, config.seed)
    parameters = np.asarray(state["engine"]["optimizer"]["parameters"], np.float32)
    if parameters.size != algorithm.size:
        raise FormatError(f"{found}: {parameters.size} parameters where the configuration in it makes {algorithm.size}; was the environment changed?")
    algorithm.load_parameters(parameters)
    settings = config.eval
    count = episodes or settings.episodes or 100
    environments = [group_environment(config, group) for group in range(len(config.topology.group_list))]
    different = [environment for index, environment in enumerate(environments) if environment not in environments[:index]]
    results = []
    for environment in different:
        match = Match(
            algorithm,
            environment,
            config.policies,
            count,
            settings.environments,
            settings.greedy if greedy is None else greedy,
            settings.seed if seed is None else seed,
        )
        while not match.done:
            match.step()
        match.close()
        results.append(match.episodes)
    figures = summarise(results, [environments.count(environment) for environment in different])
    return {"checkpoint": str(found), "version": int(state["engine"]["rule"]["round"]), **figures}
