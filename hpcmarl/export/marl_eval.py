"""Returns of several runs in the JSON layout of marl-eval (github.com/instadeepai/marl-eval).

The layout is environment -> task -> algorithm -> seed -> step -> metric. marl-eval aggregates over runs and
tasks, and needs the same steps in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.config.file import load_config
from hpcmarl.errors import FormatError
from hpcmarl.io.metrics import read_metrics, read_summary
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.types import Array

POINTS = 20


class Curve(NamedTuple):
    """A metric over a run.

    Attributes:
        steps: Environment steps, increasing, shape [points].
        seconds: Training time, shape [points].
        values: Shape [points].
    """

    steps: Array
    seconds: Array
    values: Array


class LabelledRun(NamedTuple):
    """A run with its names in the comparison.

    Attributes:
        algorithm: Name of the algorithm or experiment.
        seed: Seed of the run.
        path: The run directory.
    """

    algorithm: str
    seed: int
    path: Path


def marl_eval_tree(runs: Sequence[LabelledRun], points: int = POINTS) -> dict[str, Any]:
    """Return the returns of runs in the layout of marl-eval.

    All runs of a task get the same `points` steps: evenly spaced between the step at which all runs have a
    value and the last step of the shortest run. The value at a step is the newest one. Values are evaluated
    returns, or if a run has fewer than two evaluations, the mean returns of its newest 100 episodes.
    absolute_metrics holds the evaluation at the end of the run.

    Args:
        runs: The runs.
        points: Number of steps, at least 2.

    Raises:
        FormatError: A run has no returns, or its files are damaged.
    """
    by_task: dict[tuple[str, str], list[tuple[LabelledRun, Curve]]] = {}
    for run in runs:
        env = load_config(RunDirectory(run.path).config).env.id
        by_task.setdefault(_names(env), []).append((run, curve_of(run.path)))
    tree: dict[str, Any] = {}
    for (environment, task), members in by_task.items():
        own = tree.setdefault(environment, {}).setdefault(task, {})
        first = max(int(curve.steps[0]) for _, curve in members)
        last = max(min(int(curve.steps[-1]) for _, curve in members), first)
        grid = np.linspace(first, last, points).astype(np.int64)
        for run, curve in members:
            own.setdefault(run.algorithm, {})[f"seed_{run.seed}"] = _run_tree(run.path, curve, grid)
    return tree


def _names(env: str) -> tuple[str, str]:
    """Split the name of an environment into suite and task, as smax:3m into smax and 3m."""
    parts = re.split(r"[:.](?=[^:.]*$)", env)
    return (parts[0], parts[1]) if len(parts) == 2 else (env, env)


def curve_of(run: Path) -> Curve:
    """Return the returns of a run over environment steps.

    Args:
        run: The run directory.

    Raises:
        FormatError: It has no returns, or its metrics are damaged.
    """
    columns = read_metrics(run)
    nothing = np.full(len(columns["version"]), np.nan)
    evaluated = columns.get("eval_version", nothing)
    known = np.flatnonzero(np.isfinite(evaluated))
    _, places = np.unique(evaluated[known], return_index=True)
    chosen, name = known[places], "eval_return_mean"
    if len(chosen) < 2:
        name = "return_mean"
        chosen = np.flatnonzero(np.isfinite(columns.get(name, nothing)))
    if not len(chosen):
        raise FormatError(f"{run}: its metrics have no returns; train until an episode has ended")
    return Curve(columns["env_steps"][chosen], columns["seconds"][chosen], columns[name][chosen])


def _run_tree(run: Path, curve: Curve, grid: Array) -> dict[str, Any]:
    places = np.maximum(np.searchsorted(curve.steps, grid, side="right") - 1, 0)
    tree: dict[str, Any] = {
        f"step_{number}": {
            "step_count": int(step),
            "elapsed_time": float(curve.seconds[place]),
            "return": [float(curve.values[place])],
        }
        for number, (step, place) in enumerate(zip(grid, places, strict=True))
    }
    summary = RunDirectory(run).summary
    evaluation = (read_summary(summary).get("evaluation") or {}) if summary.exists() else {}
    names = {"return_mean": "return", "win_rate": "win_rate"}
    absolute = {
        name: [float(evaluation[key])] for key, name in names.items() if evaluation.get(key) is not None
    }
    tree["absolute_metrics"] = absolute or {"return": [float(curve.values[-1])]}
    return tree
