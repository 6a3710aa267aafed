"""Returns of several runs in the JSON layout of marl-eval (github.com/instadeepai/marl-eval).

The layout is environment -> task -> algorithm -> run -> step -> metric. marl-eval needs the same number of
steps in all runs, and the same metrics at all steps. Therefore the only metric is `return`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.config.file import load_config
from hpcmarl.errors import FormatError, UsageError
from hpcmarl.io.metrics import read_metrics, read_summary
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.types import Array

POINTS = 20


class Curve(NamedTuple):
    """Returns over a run.

    Attributes:
        steps: Environment steps, increasing, shape [points].
        values: Returns, shape [points].
    """

    steps: Array
    values: Array


class LabelledRun(NamedTuple):
    """A run with its names in the comparison.

    Attributes:
        algorithm: Name of the algorithm.
        seed: Seed of the run.
        path: The run directory.
    """

    algorithm: str
    seed: int
    path: Path


def marl_eval_tree(runs: Sequence[LabelledRun], points: int = POINTS) -> dict[str, Any]:
    """Return the returns of runs in the layout of marl-eval.

    All runs of a task get the same steps: evenly spaced from the step at which all of them have a value to
    the last step of the shortest run. The value at a step is the newest one. Values are evaluated returns, or
    if a run has fewer than two evaluations, the mean returns of its newest 100 episodes. absolute_metrics
    holds the final evaluation; without one, the last value.

    Args:
        runs: The runs.
        points: Number of steps, at least 2.

    Raises:
        UsageError: Two runs of a task have the same algorithm and seed.
        FormatError: A run has no returns, or its files are damaged.
    """
    by_task: dict[tuple[str, str], list[tuple[LabelledRun, Curve]]] = {}
    for run in runs:
        env = load_config(RunDirectory(run.path).config).env.id
        by_task.setdefault(_names(env), []).append((run, curve_of(run.path)))
    tree: dict[str, Any] = {}
    for (environment, task), members in by_task.items():
        first = max(int(curve.steps[0]) for _, curve in members)
        last = max(min(int(curve.steps[-1]) for _, curve in members), first)
        grid = np.linspace(first, last, points).astype(np.int64)
        own = tree.setdefault(environment, {}).setdefault(task, {})
        for run, curve in members:
            seeds, seed = own.setdefault(run.algorithm, {}), f"seed_{run.seed}"
            if seed in seeds:
                raise UsageError(
                    f"{run.path}: another run of {environment} {task} is also {run.algorithm} with seed "
                    f"{run.seed}; export them separately"
                )
            seeds[seed] = _run_tree(run.path, curve, grid)
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
    # rows repeat the newest evaluation
    evaluated = columns.get("eval_version", nothing)
    known = np.flatnonzero(np.isfinite(evaluated))
    chosen, name = known[np.unique(evaluated[known], return_index=True)[1]], "eval_return_mean"
    if len(chosen) < 2:
        name = "return_mean"
        chosen = np.flatnonzero(np.isfinite(columns.get(name, nothing)))
    if not len(chosen):
        raise FormatError(f"{run}: its metrics have no returns; train until an episode has ended")
    return Curve(columns["env_steps"][chosen], columns[name][chosen])


def _run_tree(run: Path, curve: Curve, grid: Array) -> dict[str, Any]:
    places = np.searchsorted(curve.steps, grid, side="right") - 1
    tree: dict[str, Any] = {
        f"step_{number}": {"step_count": int(step), "return": [float(curve.values[place])]}
        for number, (step, place) in enumerate(zip(grid, places, strict=True), start=1)
    }
    summary = RunDirectory(run).summary
    evaluation = (read_summary(summary).get("evaluation") or {}) if summary.exists() else {}
    final = evaluation.get("return_mean")
    return {**tree, "absolute_metrics": {"return": [float(curve.values[-1] if final is None else final)]}}
