"""Sweeps: the trials, and their results against each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcmarl.config.yaml_text import inline
from hpcmarl.errors import HpcmarlError
from hpcmarl.report.blocks import Part, Plot, Section, Table, Text, number, numbers
from hpcmarl.report.runs import ReportedRun
from hpcmarl.sweeps.directory import Outcome, SweepDirectory, best_of, is_sweep, outcomes

MOST_UNFOLDED = 40  # trials whose table is shown at once


def sweep_section(runs: Sequence[ReportedRun]) -> Section | None:
    """Return the results of the sweeps that the runs belong to."""
    parents = dict.fromkeys(run.path.absolute().parent for run in runs)
    parts: list[Part] = []
    for parent in parents:
        if is_sweep(parent):
            parts += _sweep(parent, runs)
    return Section("Sweeps", "sweeps", parts) if parts else None


def _sweep(path: Path, runs: Sequence[ReportedRun]) -> list[Part]:
    directory = SweepDirectory(path)
    try:
        sweep = directory.read_sweep()
        found = list(outcomes(directory, sweep))
    except HpcmarlError as error:
        return [Text(str(error), "warning")]
    runs_of = {run.path.absolute(): place for place, run in enumerate(runs)}
    sign = -1.0 if sweep.goal == "maximise" else 1.0
    ranked = sorted(found, key=lambda each: (each.value is None, sign * (each.value or 0.0)))
    keys = list(sweep.parameters)
    rows = [
        [
            str(each.trial.number),
            number(each.value),
            each.state,
            *(inline(each.trial.values[key]) if key in each.trial.values else "–" for key in keys),
            str(each.trial.seed),
            number(each.updates, ",.0f"),
            number(each.seconds, ",.0f"),
        ]
        for each in ranked
    ]
    best = best_of(sweep, found)
    caption = f"{path.name}: trials, the best first ({sweep.metric}, {sweep.goal}; search: {sweep.search})"
    parts: list[Part] = [
        Table(
            ["trial", sweep.metric, "state", *keys, "seed +", "updates", "training time, s"],
            rows,
            caption,
            numeric=(1, *range(len(keys) + 3, len(keys) + 6)),
            folded=len(rows) > MOST_UNFOLDED,
        )
    ]
    if best is not None:
        shown = [each for each in found if each.value is not None]
        parts += [_against(path, key, sweep.metric, shown, runs_of, directory) for key in keys]
    return parts


def _against(
    path: Path,
    key: str,
    metric: str,
    found: Sequence[Outcome],
    runs_of: dict[Path, int],
    directory: SweepDirectory,
) -> Plot:
    """Return the results of the trials against one parameter."""
    values = [each.trial.values[key] for each in found]
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    spec: dict[str, Any] = {
        "kind": "scatter",
        "x": numbers(values) if plain else [inline(value) for value in values],
        "y": numbers([each.value for each in found if each.value is not None]),
        "log": plain and min(values) > 0 and max(values) / min(values) > 30,
        "runs": [runs_of.get(directory.run_of(each.trial.number).absolute()) for each in found],
        "text": [f"trial {each.trial.number}, {each.state}" for each in found],
        "hollow": [each.state == "pruned" for each in found],
        "x_title": key,
        "unit": metric,
    }
    rows = [
        [str(each.trial.number), inline(value), number(each.value)]
        for each, value in zip(found, values, strict=True)
    ]
    table = Table(["trial", key, metric], rows, key, numeric=(1, 2), folded=True)
    return Plot(f"{path.name}: {key}", spec, "Each point is a trial. Hollow: it was cut short.", table)
