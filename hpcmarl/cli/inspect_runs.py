"""The table of `hpcmarl data inspect` with several runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmarl.cli.common import finite, print_columns, print_json, printable
from hpcmarl.cli.progress import Progress

if TYPE_CHECKING:
    from hpcmarl.report.runs import ReportedRun

HEADING = (
    "run",
    "state",
    "seed",
    "algorithm",
    "updates",
    "env steps",
    "return",
    "evaluated",
    "training time",
)


def runs_to_compare(paths: Sequence[Path]) -> list[Path]:
    """Return the runs that paths name together.

    Args:
        paths: Files and directories.

    Returns:
        Run directories; empty if a path is a file or a directory without runs, or if the only path is a run.
    """
    from hpcmarl.report.runs import find_runs, is_run

    if not all(path.is_dir() for path in paths) or (len(paths) == 1 and is_run(paths[0])):
        return []
    if not all(is_run(path) or any(map(is_run, path.iterdir())) for path in paths):
        return []
    return find_runs(paths)


def show_runs(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print a row for each run, and what could not be read on standard error.

    Args:
        paths: Run directories.
        as_json: Print one JSON object, {"runs": [...]}.
    """
    from hpcmarl.report.runs import read_runs

    with Progress("runs") as progress:
        runs = read_runs(paths, progress.at)
    rows = [row_of(run) for run in runs]
    if as_json:
        print_json(finite({"runs": rows}))
    else:
        print_columns([_cells(row) for row in rows], HEADING, right=(2, 4, 5, 6, 7))
    for run in runs:
        for problem in run.problems:
            print(printable(problem), file=sys.stderr)


def row_of(run: ReportedRun) -> dict[str, Any]:
    """Return the figures of a run.

    Returns:
        run (short name), path, state, seed, algorithm ("league" for a league), updates, env_steps,
        return_mean (newest training episodes), eval_return_mean (newest evaluation) and seconds (training
        time). None: not known.
    """
    seed = run.setting("seed")
    return {
        "run": run.label,
        "path": str(run.path),
        "state": run.state.state,
        "seed": int(seed) if seed.isdecimal() else None,
        "algorithm": "league" if run.league is not None else run.setting("algo.name") or None,
        "updates": _whole(run.last("updates") or run.last("version")),
        "env_steps": _whole(run.last("env_steps")),
        "return_mean": run.last("return_mean"),
        "eval_return_mean": run.last("eval_return_mean"),
        "seconds": run.last("seconds"),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _cells(row: dict[str, Any]) -> list[str]:
    from hpcmarl.io.limits import duration

    def shown(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    return [
        row["run"],
        row["state"],
        shown("seed", "d"),
        row["algorithm"] or "-",
        shown("updates", ",d"),
        shown("env_steps", ",d"),
        shown("return_mean", ".5g"),
        shown("eval_return_mean", ".5g"),
        "-" if row["seconds"] is None else duration(row["seconds"]),
    ]
