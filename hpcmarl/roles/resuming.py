"""Whether the state in a checkpoint is one that this run can go on from, asked before anything is written.

Called by run.open_run on rank 0. A checksum only says that a file is as it was written; who wrote it, and what, it does not say.
Knows the outline of the state that server, learners and actors give to roles/saving.py; knows no file and no message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config import Config
from hpcmarl.errors import FormatError
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import Engine, make_rule
from hpcmarl.roles.timing import SUMS

LARGEST_VERSION = 1 << 62  # headers carry 64 bits


def check_state(config: Config, state: dict[str, Any], size: int, source: Path) -> None:
    """`size`: parameters of this run's network. Raises FormatError, one line that names the file and the part."""
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
            raise FormatError(f"{source}: its state/{part} is not that of a run ({words}); resume from another checkpoint") from error


def _check_engine(config: Config, state: dict[str, Any], size: int) -> None:
    """Loads it into an engine like the server's, and looks at what came of it."""
    groups = len(config.topology.group_list)
    optimizer = make_optimizer(config.optimizer, np.zeros(size, np.float32), ())
    engine = Engine(make_rule(config.rounds.rule, groups, config.rounds.batch or groups, config.rounds.initial_batch), optimizer)
    engine.load_state_dict(state)
    if getattr(config.algo, "sparse", None) is not None and np.shape(state["optimizer"]["topology"]["mask"]) != (size,):
        raise ValueError("optimizer/topology/mask is of another network")
    for name, value in optimizer.state_dict().items():
        if isinstance(value, np.ndarray) and value.shape != (size,):
            raise ValueError(f"optimizer/{name} has shape {list(value.shape)}, not [{size}]")
    for name, number in {"rule/round": engine.version, "optimizer/updates": optimizer.updates, "used": engine.used, "wasted": engine.wasted}.items():
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
