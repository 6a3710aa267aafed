"""Check, before a run writes anything, whether it can resume from the state in a checkpoint.

A checksum only proves that a file is unchanged. It does not prove the origin or the kind of its contents. The
checks follow the layout of the state that roles/server/checkpointing.py assembles from server, learners and
actors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.comm.topology import Topology
from hpcmarl.config import Config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.optim import make_optimizer, optimizer_class
from hpcmarl.optim.rounds import Engine, make_rule
from hpcmarl.roles.timing import SUMS

LARGEST_VERSION = 1 << 62  # headers carry 64 bits


def check_fits(config: Config, state: dict[str, Any], attributes: dict[str, Any], source: Path) -> None:
    """Refuse a checkpoint of another network, optimizer, algorithm or state format.

    Args:
        config: Configuration of the run.
        state: State in the checkpoint.
        attributes: Attributes of the file.
        source: The file, for messages.

    Raises:
        ConfigError: The checkpoint is valid but does not fit the configuration.
        FormatError: The file holds no valid state of a training run.
    """
    from hpcmarl.algos import make_model

    if "league" in state:
        raise ConfigError(
            f"--resume {source}: the checkpoint is of a league; use its configuration (config.yaml beside "
            "its checkpoints)"
        )
    try:
        saved = state["engine"]["optimizer"]
        size = int(saved["parameters"].size)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{source}: holds no state of a training run ({error}); resume from a file in a run's "
            "checkpoints/"
        ) from error
    algorithm = make_model(describe(config.env, config.policies), config.algo, config.seed)
    expected = algorithm.size
    if size != expected:
        raise ConfigError(
            f"--resume {source}: the checkpoint holds {size} parameters of "
            f"{attributes.get('env', 'its environment')}, the configuration "
            f"makes {expected}; use the configuration of that run (config.yaml beside its checkpoints)"
        )
    if not set(optimizer_class(config.optimizer.name).state_keys) <= set(saved):
        raise ConfigError(
            f"--resume {source}: the checkpoint was written with another optimizer than optimizer.name: "
            f"{config.optimizer.name}; use the configuration of that run (config.yaml beside its checkpoints)"
        )
    check_state(config, state, expected, source)
    for group, own in state["roles"]["learner"].items():
        try:
            algorithm.load_state_dict(own.get("algorithm", {}))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise FormatError(
                f"{source}: the state of learner {group} does not fit algo.name: {config.algo.name} "
                f"({words}); resume from another checkpoint"
            ) from error


def check_same_actors(config: Config, topology: Topology, state: dict[str, Any], source: Path) -> None:
    """Refuse to resume a deterministic run if it cannot continue bit for bit.

    Args:
        config: Configuration of the run.
        topology: Ranks of the run.
        state: State in the checkpoint.
        source: The file, for messages.

    Raises:
        ConfigError: States are missing, or the number of actors or of their slots has changed.
    """
    if not config.deterministic:
        return
    remedy = "resume an older checkpoint, or set deterministic: false"
    if missing := state.get("missing"):
        raise ConfigError(
            f"--resume {source}: deterministic: true, but the checkpoint lacks the state of "
            f"{', '.join(missing)}; {remedy}"
        )
    actors, saved = len(topology.actors), state["roles"]["actor"]
    if len(saved) != actors:
        raise ConfigError(
            f"--resume {source}: deterministic: true, but {len(saved)} actors wrote the checkpoint and there "
            f"are {actors} now; {remedy}"
        )
    slots = config.topology.environments_per_actor
    if other := next((own["slots"] for own in saved.values() if own["slots"] != slots), None):
        raise ConfigError(
            f"--resume {source}: deterministic: true, but topology.environments_per_actor was {other} and is "
            f"{slots} now; {remedy}"
        )


def check_state(config: Config, state: dict[str, Any], size: int, source: Path) -> None:
    """Check the parts of a checkpoint's state.

    Args:
        config: Configuration of the run.
        state: State in the checkpoint.
        size: Number of parameters of the run's network.
        source: The file, for the message.

    Raises:
        FormatError: A part is not valid. The message is one line that names the file and the part.
    """
    checks: dict[str, Callable[[Any], None]] = {
        "engine": lambda own: _check_engine(config, own, size),
        "recorder": _check_recorder,
        "roles": _check_roles,
    }
    for part, check in checks.items():
        try:
            check(state[part])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise FormatError(
                f"{source}: state/{part} is not the state of a run ({words}); resume from another checkpoint"
            ) from error


def _check_engine(config: Config, state: dict[str, Any], size: int) -> None:
    """Load the state into an engine like the server's, and check the result."""
    groups = len(config.topology.group_list)
    optimizer = make_optimizer(config.optimizer, np.zeros(size, np.float32), ())
    engine = Engine(
        make_rule(config.rounds.rule, groups, config.rounds.batch or groups, config.rounds.initial_batch),
        optimizer,
    )
    engine.load_state_dict(state)
    if config.algo.sparse_training is not None and np.shape(state["optimizer"]["topology"]["mask"]) != (
        size,
    ):
        raise ValueError(f"optimizer/topology/mask does not have shape [{size}]")
    for name, value in optimizer.state_dict().items():
        if isinstance(value, np.ndarray) and value.shape != (size,):
            raise ValueError(f"optimizer/{name} has shape {list(value.shape)}, not [{size}]")
    for name, number in {
        "rule/round": engine.version,
        "optimizer/updates": optimizer.updates,
        "used": engine.used,
        "wasted": engine.wasted,
    }.items():
        if not 0 <= number < LARGEST_VERSION:
            raise ValueError(f"{name} is {number}")


def _check_recorder(state: dict[str, Any]) -> None:
    for name, total in state["totals"].items():
        if not math.isfinite(total):
            raise ValueError(f"totals/{name} is {total}")
    np.asarray(state["recent"], np.float64)
    if state["best"] is not None:
        float(state["best"])
    for count in state["groups"]:
        int(count)
    if (times := state.get("times")) is not None:
        groups = len(times["slots"])
        for name, shape in {"sums": (groups, SUMS), "shortest": (groups,), "server": (2,)}.items():
            if np.asarray(times[name], np.float64).shape != shape:
                raise ValueError(f"times/{name} has shape {list(np.shape(times[name]))}, not {list(shape)}")


def _check_roles(state: dict[str, Any]) -> None:
    for role in ("learner", "actor"):
        for name, own in state[role].items():
            if not isinstance(own, dict):
                raise TypeError(f"{role}/{name} is {type(own).__name__}, not a group")
    for name, own in state["actor"].items():
        if type(own["slots"]) is not int:
            raise TypeError(f"actor/{name}/slots is {own['slots']!r}")
        np.asarray(own["environment"]["episode"], np.int64)
