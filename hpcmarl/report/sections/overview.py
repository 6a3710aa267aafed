"""The runs of the report, and what their configurations differ in."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from hpcmarl import plugins
from hpcmarl.config.file import load_config
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.judgement import judge, shares_of
from hpcmarl.io.run_state import RunState
from hpcmarl.report.blocks import Part, Section, Table, Text, number, percent
from hpcmarl.report.grouping import NOT_COMPARED, UNKNOWN, RunGroup, differing_keys
from hpcmarl.report.runs import ReportedRun

HEADING = (
    "run",
    "configuration",
    "state",
    "began",
    "environment",
    "algorithm",
    "ranks",
    "updates",
    "environment steps",
    "training time, s",
    "steps/s",
    "of bare stepping",
    "training return",
    "evaluated return",
    "win rate",
)
MOST_SIDE_BY_SIDE = 12  # configurations whose differing values stand side by side
MOST_UNFOLDED = 10  # keys of some configurations that are shown at once


def runs_section(runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> Section:
    """Return the table of all runs."""
    names = {number: group.name for group in groups for number in group.runs}
    rows = [[run.label, names[place], *_figures(run)] for place, run in enumerate(runs)]
    parts: list[Part] = [
        Table(
            HEADING,
            rows,
            "Each run as it stands. Training return: mean of the newest 100 training episodes.",
            numeric=range(6, len(HEADING)),
            run_of_row=range(len(runs)),
        )
    ]
    parts += [
        Text(f"{run.label}: {run.state.state}: {reason}", "warning")
        for run in runs
        if (reason := _reason(run.state))
    ]
    parts += [Text(problem, "warning") for run in runs for problem in run.problems]
    parts += [Text(f"{run.label}: {finding}.") for run in runs for finding in findings(run)]
    return Section("Runs", "runs", parts)


def _reason(state: RunState) -> str:
    return str((state.summary or {}).get("error") or "")


def findings(run: ReportedRun) -> list[str]:
    """Return findings on lost work and waiting roles, with the keys to change; empty before the run's end.

    Classes that the configuration names by a path are not imported, so such a run has no findings.
    """
    if not run.summary.get("time_shares") or run.league is not None:
        return []
    try:
        with plugins.only_known(f"{run.path}/config.yaml", ()):
            config = load_config(run.config_text)
    except HpcmarlError:
        return []
    return judge(shares_of(run.summary, config))


def _figures(run: ReportedRun) -> list[str]:
    evaluated = number(run.last("eval_return_mean"))
    error = (run.summary.get("evaluation") or {}).get("return_sem")
    if error is not None:
        evaluated += f" ± {number(error)}"
    win_rate = run.last("eval_win_rate")
    return [
        run.state.state,
        "–" if run.state.began is None else time.strftime("%d %b %H:%M", time.localtime(run.state.began)),
        run.setting("env.id") or "–",
        "league" if run.league is not None else run.setting("algo.name") or "–",
        number(_ranks(run), ",.0f"),
        number(run.last("updates") or run.last("version"), ",.0f"),
        number(run.last("env_steps"), ",.0f"),
        number(run.last("seconds"), ",.0f"),
        number(mean_speed(run), ",.0f"),
        percent(run.summary.get("share_of_bare")),
        number(run.last("return_mean")),
        evaluated,
        percent(run.last("win_rate") if win_rate is None else win_rate),
    ]


def _ranks(run: ReportedRun) -> float | None:
    if run.newest_activity is not None:
        return len(run.newest_activity.ranks)
    return run.summary.get("ranks")


def mean_speed(run: ReportedRun) -> float:
    """Return the environment steps per second over the whole training time; NaN if unknown."""
    seconds, steps = run.last("seconds"), run.last("env_steps")
    return steps / seconds if seconds and steps else math.nan


def differences_section(runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> Section | None:
    """Return the configuration keys that differ between groups, and those that differ within one."""
    known = [run for run in runs if run.settings]
    if len(known) < 2:
        return None
    parts: list[Part] = []
    shown = [group for group in groups if group.settings]
    keys = differing_keys([group.settings for group in shown])
    common = [key for key in keys if all(key in group.settings for group in shown)]
    others = [key for key in keys if key not in common]
    if not keys:
        parts.append(Text("The runs do not differ in anything that changes what is learned."))
    if common:
        parts.append(_values(shown, common, "Keys of the configuration whose values differ."))
    if others:
        caption = "Keys that only some of the configurations have."
        parts.append(_values(shown, others, caption, folded=len(others) > MOST_UNFOLDED))
    ignored = [key for key in differing_keys([run.settings for run in known]) if key.startswith(NOT_COMPARED)]
    if ignored:
        rows = [[run.label, *(run.setting(key) or "–" for key in ignored)] for run in known]
        caption = "Keys that differ but do not change what is learned, and the seed."
        numbers = [place for place, run in enumerate(runs) if run.settings]
        parts.append(Table(["run", *ignored], rows, caption, run_of_row=numbers, folded=len(known) > 4))
    if len(known) < len(runs):
        parts.append(Text(f"{len(runs) - len(known)} runs have an {UNKNOWN}.", "warning"))
    return Section("Differences", "differences", parts)


def _values(groups: Sequence[RunGroup], keys: Sequence[str], caption: str, *, folded: bool = False) -> Table:
    """Return the values of keys in all groups: side by side, or one below the other if there are many."""
    if len(groups) <= MOST_SIDE_BY_SIDE:
        heading = ["key", *(f"{group.name} ({_count(len(group.runs))})" for group in groups)]
        rows = [[key, *(group.settings.get(key, "–") for group in groups)] for key in keys]
    else:
        heading = ["configuration", *keys]
        rows = [[group.name, *(group.settings.get(key, "–") for key in keys)] for group in groups]
    return Table(heading, rows, caption, folded=folded)


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"
