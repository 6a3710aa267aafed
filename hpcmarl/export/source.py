"""The run that is exported: its checkpoint, the specification of its environment and its networks.

Nothing here builds the environment. The specification comes from the checkpoint, or else from a trajectory
file of the run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.algos.model import Model
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError, FormatError, MissingPackageError, UsageError
from hpcmarl.io.checkpoint import load_checkpoint, load_newest, spec_of_state
from hpcmarl.io.run_directory import home_of
from hpcmarl.io.trajectories.layout import ENVIRONMENT
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec

EXTRA = "pip install 'hpcmarl[export]'"


@dataclass(frozen=True)
class Source:
    """A trained run in memory.

    Attributes:
        checkpoint: The checkpoint file.
        run: The run directory; None for a checkpoint outside a run directory.
        config: Configuration in the checkpoint.
        version: Version of the parameters.
        facts: Root attributes of the checkpoint.
        spec: Specification of the environment.
        model: The networks, with the checkpoint's parameters.
    """

    checkpoint: Path
    run: Path | None
    config: Config
    version: int
    facts: dict[str, Any]
    spec: EnvironmentSpec
    model: Model


def load_source(path: Path, describe: Callable[[Path, Config], EnvironmentSpec] | None = None) -> Source:
    """Load a checkpoint, or the newest checkpoint of a run that verifies.

    Args:
        path: Run directory or checkpoint file.
        describe: Returns the specification of the environment of a checkpoint, given its configuration, for
            checkpoints that have none; None: refuse those.

    Raises:
        ConfigError: The path does not exist, or the checkpoint is of a league.
        FormatError: No checkpoint verifies, or it does not fit its own configuration.
    """
    found, state, attributes = _load(path)
    if "league" in state:
        raise ConfigError(
            f"{found}: the checkpoint is of a league; name the directory of one of its members, or use "
            "hpcmarl league export"
        )
    text = attributes.get("config")
    if not isinstance(text, str):
        raise FormatError(
            f"{found}: its attribute config is not a text; the file is damaged, or not from hpcmarl"
        )
    # load_config takes a text with a line break as YAML, and a single line as the name of a file
    config = load_config(text + "\n")
    run = home_of(found)
    spec = spec_of_state(found, state) or _spec_of_shards(run, config)
    if spec is None and describe is None:
        raise FormatError(
            f"{found}: an earlier version of hpcmarl wrote no spaces into it; add --from-environment, which "
            "imports the environment and takes them from there"
        )
    spec = spec or describe(found, config)  # type: ignore[misc]
    try:
        parameters = np.asarray(state["engine"]["optimizer"]["parameters"], np.float32)
    except (KeyError, TypeError) as error:
        raise FormatError(
            f"{found}: has no parameters of an optimizer; name a checkpoint that hpcmarl train wrote"
        ) from error
    model = make_model(spec, config.algo, None)
    if parameters.shape != (model.size,):
        raise FormatError(
            f"{found} holds {parameters.size} parameters where its configuration makes {model.size}; use the "
            "version of hpcmarl that the run was trained with"
        )
    model.load_parameters(parameters)
    return Source(found, run, config, int(attributes.get("version", 0)), attributes, spec, model)


def _load(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    if path.is_file():
        return path, *load_checkpoint(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or directory; allowed: a run directory or a checkpoint file")
    found = load_newest(path)
    if found is None:
        raise FormatError(
            f"{path}: no checkpoint in it verifies; allowed: a run directory with checkpoints/checkpoint-*.h5"
        )
    return found


def _spec_of_shards(run: Path | None, config: Config) -> EnvironmentSpec | None:
    """Return the specification in the run's first trajectory file; None if it has none.

    The file does not keep the order of several policies, on which the places of their parameters depend.
    """
    shards = [] if run is None else list_shards(run)
    if not shards:
        return None
    with ShardReader(shards[0]) as reader:
        spec = spec_of_reader(reader, config.env.id)
    return spec if len(spec.policies) == 1 else None


def spec_of_reader(reader: ShardReader, env: str) -> EnvironmentSpec:
    """Return the specification of the environment whose steps a trajectory file holds.

    Policies are in alphabetical order. The file does not say whether the game is turn-based or constant-sum.

    Args:
        reader: The open file.
        env: Name of the environment.

    Raises:
        FormatError: If a policy lacks its actions, observations or names of agents.
    """
    policies = []
    for path, group in reader.layout.items():
        name = path.removeprefix("steps/")
        if name in (path, ENVIRONMENT):
            continue
        try:
            action, observation = group.columns["action"], group.columns["obs"]
            facts = action.attributes
            space = ActionSpace(
                facts["action_kind"],
                tuple(int(size) for size in facts["action_sizes"]),
                tuple(float(bound) for bound in facts.get("action_low", ())),
                tuple(float(bound) for bound in facts.get("action_high", ())),
            )
            agents = tuple(label.rstrip(b"\0").decode() for label in group.labels["agent"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{reader.path}: /{path} has no actions, observations or names of agents "
                f"({type(error).__name__}: {error}); the file is damaged or foreign"
            ) from error
        policies.append(
            PolicySpec(name, agents, observation.sizes[1:], space, "action_mask" in group.columns)
        )
    state = reader.layout[f"steps/{ENVIRONMENT}"].columns.get("state")
    return EnvironmentSpec(env, tuple(policies), None if state is None else state.sizes[0], turn_based=False)


def choose_policy(source: Source, name: str | None) -> PolicySpec:
    """Return the named policy, or the only one.

    Raises:
        UsageError: If the run has several policies and none is named, or not this one.
    """
    names = [policy.name for policy in source.spec.policies]
    if name is None and len(names) > 1:
        raise UsageError(
            f"{source.checkpoint} has {len(names)} policies; name one with --policy: {', '.join(names)}"
        )
    if name is not None and name not in names:
        raise UsageError(
            f"--policy {name}: {source.checkpoint} has no such policy; allowed: {', '.join(names)}"
        )
    return source.spec.policy(name or names[0])


def check_new(option: str, path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Check that an output can be made, before any work starts.

    Args:
        option: Option that names the output.
        path: The file or directory.
        suffixes: Allowed endings of the name; empty: all.

    Raises:
        UsageError: If the output exists, has another ending, or its directory does not exist.
    """
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
    if path.exists() or path.is_symlink():
        raise UsageError(f"{option} {path}: exists; choose another name or delete it first")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: directory {path.parent} does not exist; create it first")


def need(option: str, *packages: str) -> None:
    """Check that optional packages can be imported.

    Raises:
        MissingPackageError: If one is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            words = " ".join(str(error).split())[:100]
            raise MissingPackageError(
                f"{option} needs the package {package} ({words}); install it with {EXTRA}"
            ) from error
