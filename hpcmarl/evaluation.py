"""Evaluate the policies of a checkpoint in this process, without an MPI world (`hpcmarl eval`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.algos.model import Model
from hpcmarl.config import Config, EnvConfig, EvalConfig, inference_form
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.replay.recorder import Recorder
from hpcmarl.replay.recording import Origin, Recording
from hpcmarl.roles.base import group_environment
from hpcmarl.roles.evaluator import (
    BAD_EPISODES,
    Match,
    evaluation_environment,
    summarise,
    summarise_agents,
)
from hpcmarl.roles.origin import check_environments_of, load_stored
from hpcmarl.types import EnvironmentSpec

OnProgress = Callable[[int, int], object]  # episodes that are finished, and all of them


def _ignore(done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Trained:
    """Policies of a checkpoint, ready to act.

    Attributes:
        checkpoint: The file.
        version: Version of the parameters.
        config: Configuration of the run.
        spec: Specification of its environment.
        algorithm: Networks with the parameters.
    """

    checkpoint: Path
    version: int
    config: Config
    spec: EnvironmentSpec
    algorithm: Model


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Read the newest checkpoint that verifies.

    Args:
        path: Run directory or checkpoint file.

    Returns:
        The file, the state and the root attributes.

    Raises:
        ConfigError: The path does not exist.
        FormatError: No checkpoint verifies.
    """
    if not Path(path).exists():
        raise ConfigError(f"{path}: no such file or directory; allowed: a run directory or a checkpoint file")
    found = find_checkpoint(path)
    if found is None:
        raise FormatError(
            f"{path}: no checkpoint in it verifies; allowed: a run directory with checkpoints/checkpoint-*.h5"
        )
    return found, *load_checkpoint(found)


def load_trained(found: Path, state: Mapping[str, Any], attributes: Mapping[str, Any]) -> Trained:
    """Load the policies of a checkpoint; the arguments are the results of `read_checkpoint`.

    Raises:
        ConfigError: The checkpoint is of a league, or its environment is not trusted.
        FormatError: It does not fit its own configuration.
    """
    if "league" in state:
        raise ConfigError(
            f"{found}: the checkpoint is of a league, whose policies play against each other; use "
            "hpcmarl league match or show"
        )
    text = attributes.get("config")
    if not isinstance(text, str):
        raise FormatError(
            f"{found}: its attribute config is not a text; the file is damaged, or not from hpcmarl"
        )
    config = load_stored(text, found)
    check_environments_of(found, config)
    spec = describe(config.env, config.policies)
    algorithm = make_model(spec, config.algo, config.seed)
    parameters = np.asarray(state["engine"]["optimizer"]["parameters"], np.float32)
    if parameters.size != algorithm.size:
        raise FormatError(
            f"{found} holds {parameters.size} parameters where its configuration makes {algorithm.size}; "
            "use the version of the environment that the run was trained with"
        )
    algorithm.set_weight_format(inference_form(config, repeatable=True))
    algorithm.load_parameters(parameters)
    return Trained(found, int(state["engine"]["rule"]["round"]), config, spec, algorithm)


def evaluate_checkpoint(
    path: str | os.PathLike[str],
    episodes: int | None = None,
    greedy: bool | None = None,
    seed: int | None = None,
    random_agents: Sequence[str] = (),
    on_progress: OnProgress = _ignore,
) -> dict[str, Any]:
    """Play evaluation episodes with the policies of a checkpoint.

    Each environment of the run's groups is evaluated. Every figure weighs each group equally.

    Args:
        path: Run directory or checkpoint file.
        episodes: Episodes of each environment; None: eval.episodes of the run, or 100 if that is 0.
        greedy: Whether agents act greedily instead of sampling; None: eval.greedy of the run.
        seed: Seed of the episodes; None: eval.seed of the run.
        random_agents: Names of agents that take random actions.
        on_progress: Called after each step of all environments, with finished and all episodes.

    Returns:
        The figures of `evaluator.summarise`, with `checkpoint` (path) and `version`. `agents` holds each
        agent's return_mean and its shares of episodes with a positive, zero and negative return.

    Raises:
        ConfigError: The path does not exist, or the checkpoint is of a league.
        FormatError: No checkpoint verifies, or it does not fit its own configuration.
    """
    trained = load_trained(*read_checkpoint(path))
    settings = trained.config.eval
    chosen = {
        "episodes": episodes or settings.episodes or 100,
        "seed": settings.seed if seed is None else seed,
    }
    settings = settings.model_copy(update=chosen | {"greedy": settings.greedy if greedy is None else greedy})
    figures = _judge(trained.config, settings, trained.algorithm, trained.spec, random_agents, on_progress)
    return {"checkpoint": str(trained.checkpoint), "version": trained.version, **figures}


def record_episodes(
    trained: Trained,
    episodes: int,
    greedy: bool | None = None,
    seed: int | None = None,
    on_progress: OnProgress = _ignore,
) -> list[Recording]:
    """Play episodes with trained policies, one after the other, and record all steps.

    Args:
        trained: The policies.
        episodes: Episodes of each environment of the run's groups.
        greedy: Whether agents act greedily instead of sampling; None: eval.greedy of the run.
        seed: Seed of the episodes; None: eval.seed of the run.
        on_progress: Called after each step, with finished and all episodes.

    Returns:
        The episodes, environment by environment.

    Raises:
        EnvironmentFailure: The environment fails too often.
    """
    config = trained.config
    given = {"seed": seed, "greedy": greedy}
    settings = config.eval.model_copy(
        update={
            **{name: value for name, value in given.items() if value is not None},
            "episodes": episodes,
            "environments": 1,
        }
    )
    found: list[Recording] = []
    different = _different(_environments(config))
    for index, environment in enumerate(different):
        batch = evaluation_environment(
            environment,
            config.policies,
            settings,
            trained.algorithm.needs_state,
            index,
            spec=trained.spec,
            skip_bad_numbers=True,
        )
        origin = Origin((environment,), config.policies, settings.seed, index, 0)
        # An episode that its environment cuts off is recorded, but is not among those that count.
        recorder = Recorder(trained.spec, origin, most=BAD_EPISODES * episodes)
        match = Match(
            trained.algorithm,
            batch,
            episodes,
            settings.greedy,
            settings.seed,
            index=index,
            recorder=recorder,
        )
        try:
            _play(match, index * episodes, len(different) * episodes, on_progress)
        finally:
            match.close()
        found += recorder.recordings
    for number, recording in enumerate(found):
        recording.facts |= {
            "source": f"played episode {number} of {len(found)}",
            "version": trained.version,
            "actions": "most probable" if settings.greedy else "sampled",
            "seed": settings.seed,
            "checkpoint": trained.checkpoint.name,
        }
    return found


def _play(match: Match, before: int, total: int, on_progress: OnProgress) -> None:
    """Play a match to its end.

    Args:
        match: The match.
        before: Episodes of the matches before it.
        total: Episodes of all matches.
        on_progress: Called after each step.
    """
    while not match.done:
        match.step()
        on_progress(before + len(match.episodes), total)


def _environments(config: Config) -> list[EnvConfig]:
    """Return the environment of each group."""
    return [group_environment(config, group) for group in range(len(config.topology.group_list))]


def _different(environments: Sequence[EnvConfig]) -> list[EnvConfig]:
    """Return each environment once, in order."""
    return [
        environment
        for index, environment in enumerate(environments)
        if environment not in environments[:index]
    ]


def _judge(
    config: Config,
    settings: EvalConfig,
    algorithm: Model,
    spec: EnvironmentSpec,
    random_agents: Sequence[str],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Play the episodes of each distinct environment of the groups and summarise them."""
    environments = _environments(config)
    different = _different(environments)
    results, earned = [], []
    for index, environment in enumerate(different):
        batch = evaluation_environment(
            environment, config.policies, settings, algorithm.needs_state, index, spec=spec
        )
        match = Match(
            algorithm,
            batch,
            settings.episodes,
            settings.greedy,
            settings.seed,
            random_agents,
            index,
            by_agent=True,
        )
        _play(match, index * settings.episodes, len(different) * settings.episodes, on_progress)
        match.close()
        results.append(match.episodes)
        earned.append(match.agent_returns)
    weights = [environments.count(environment) for environment in different]
    return {**summarise(results, weights), "agents": summarise_agents(earned, weights)}
