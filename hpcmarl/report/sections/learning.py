"""What was learned: returns, evaluations, win rates, and what the learners report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.io.metric_reference import find_column
from hpcmarl.report.blocks import Part, Section, Table, Text, number
from hpcmarl.report.curves import Curves
from hpcmarl.report.grouping import RunGroup
from hpcmarl.report.runs import ReportedRun
from hpcmarl.report.statistics import Interval, interval

LAST_SHARE = 0.1  # of a run's rows, whose mean is its final training return
RETURNS = "Mean return of the newest 100 training episodes; exploration included."
EVALUATED = "Mean return of an evaluation, which plays separate episodes without exploration."
BANDS = " Thick lines: interquartile mean of the runs of a configuration, with its 95 % interval."


def learning_section(
    runs: Sequence[ReportedRun], groups: Sequence[RunGroup], curves: Curves
) -> Section | None:
    """Return curves of returns and win rates, and the final figures of each configuration."""
    several = BANDS if any(len(group.runs) > 1 for group in groups) else ""
    plots = [
        curves.plot("return_mean", "Return of training episodes", "return", RETURNS + several, bands=True),
        curves.plot(
            "eval_return_mean",
            "Return of evaluations",
            "return",
            EVALUATED + several,
            only_new=True,
            bands=True,
        ),
        curves.plot("win_rate", "Win rate of training episodes", "share of episodes", least=0.0, bands=True),
        curves.plot(
            "eval_win_rate",
            "Win rate of evaluations",
            "share of episodes",
            only_new=True,
            bands=True,
            least=0.0,
        ),
    ]
    for column in _columns(runs, "return/", "return_worker_kind/"):
        title = f"Return of {column.partition('/')[2]}"
        if column.startswith("return_worker_kind/"):
            title = f"Return in the environments of workers of kind {column.partition('/')[2]}"
        plots.append(curves.plot(column, title, "return"))
    drawn: list[Part] = [plot for plot in plots if plot is not None]
    if not drawn:
        return None
    return Section("Learning", "learning", [_finals(runs, groups), *drawn])


def _columns(runs: Sequence[ReportedRun], *beginnings: str) -> list[str]:
    """Return the columns of any run with one of these beginnings, in the order of the metrics."""
    names = dict.fromkeys(name for run in runs for name in run.columns)
    return [name for name in names if name.startswith(beginnings)]


def final_return(run: ReportedRun) -> float:
    """Return the mean of the last tenth of the training returns; NaN if there are none."""
    values = run.columns.get("return_mean", np.zeros(0))
    values = values[np.isfinite(values)]
    return float(values[-max(1, round(LAST_SHARE * len(values))) :].mean()) if values.size else float("nan")


def _finals(runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> Table:
    rows = []
    for group in groups:
        own = [runs[number] for number in group.runs]
        last = [run.last("eval_return_mean") for run in own]
        wins = [run.last("eval_win_rate") for run in own]
        rows.append(
            [
                group.name,
                str(len(own)),
                _cell(interval([final_return(run) for run in own])),
                _cell(interval([np.nan if value is None else value for value in last])),
                _cell(interval([np.nan if value is None else value for value in wins])),
            ]
        )
    return Table(
        ["configuration", "runs", "training return", "evaluated return", "evaluated win rate"],
        rows,
        "Final figures: interquartile mean over the runs of a configuration, with its 95 % bootstrap "
        "interval. Training return: mean over the last tenth of the rows. Evaluated: the last evaluation.",
        numeric=(1, 2, 3, 4),
    )


def _cell(found: Interval | None) -> str:
    if found is None:
        return "–"
    if found.runs < 2:
        return number(found.mean)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def losses_section(runs: Sequence[ReportedRun], curves: Curves) -> Section | None:
    """Return curves of everything that learners report, and of the update's norm."""
    parts: list[Part] = []
    for column in (*_columns(runs, "learner/"), "direction_norm"):
        found = find_column(column)
        unit, meaning = ("1", "") if found is None else (found[1].unit, found[1].meaning)
        title = column.removeprefix("learner/").replace("_", " ")
        caption = meaning.replace("`", "")
        plot = curves.plot(column, title[:1].upper() + title[1:], "" if unit == "1" else unit, caption)
        if plot is not None:
            parts.append(plot)
    if not parts:
        return None
    note = Text("Each point is the mean of the rows between it and the point before.")
    return Section("Learners", "learners", [note, *parts])
