"""How fast the runs were, what their roles and ranks did, and how rounds went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.io.activity import IDLE, RankActivity
from hpcmarl.maths.round_times import malenia_bound, rennala_bound
from hpcmarl.report.blocks import Part, Plot, Section, Table, number, numbers, percent
from hpcmarl.report.curves import Curves
from hpcmarl.report.runs import ReportedRun
from hpcmarl.report.sections.overview import mean_speed
from hpcmarl.types import Array

REST = "rest"  # time that no activity claims: messages, files and short waits
MOST_BARS = 40  # ranks with a bar of their own
MOST_CELLS = 6_000  # of one heat map
MOST_COLUMNS = 120
MOST_GROUPS = 64  # groups with a row in the table
# Metrics of rounds: column, title, unit, caption.
ROUNDS = (
    (
        "staleness_mean",
        "Staleness",
        "updates",
        "Versions between sampling and use of a trajectory; mean since the beginning of the run.",
    ),
)


def speed_section(runs: Sequence[ReportedRun], curves: Curves) -> Section | None:
    """Return throughput, its share of bare stepping, and the time of each role."""
    parts: list[Part] = []
    plot = curves.plot("env_steps_per_second", "Environment steps a second", "steps/s", least=0.0)
    if plot is None:
        return None
    rows, shares = [], []
    for run in runs:
        bare, processes = (run.summary.get(name) for name in ("bare_env_steps_per_second", "bare_processes"))
        speed = run.columns.get("env_steps_per_second")
        shares.append(None if not bare or not processes or speed is None else speed / (bare * processes))
        updates, seconds = run.last("version"), run.last("seconds")
        rows.append(
            [
                run.label,
                number(mean_speed(run), ",.0f"),
                number(bare, ",.0f"),
                number(processes, ",.0f"),
                percent(run.summary.get("share_of_bare")),
                number(1000.0 * seconds / updates if updates and seconds else None),
                number(run.last("episodes"), ",.0f"),
            ]
        )
    heading = ["run", "steps/s", "bare steps/s", "processes", "of bare", "ms an update", "episodes"]
    caption = (
        "Speed over the whole run. Bare: environment steps a second of one process that only steps the "
        "environment with random actions, and how many such processes the machine has room for. It is known "
        "when a run with logging.progress has ended."
    )
    parts.append(Table(heading, rows, caption, numeric=range(1, 7), run_of_row=range(len(runs))))
    parts.append(plot)
    share = curves.plot(
        "env_steps_per_second",
        "Share of bare stepping",
        "share",
        "Environment steps a second, divided by those of all cores if they only stepped environments.",
        values=shares,
        least=0.0,
    )
    parts += [each for each in (share, _by_role(runs)) if each is not None]
    return Section("Speed", "speed", parts)


def role_of(rank: str) -> str:
    """Return the roles in the name of a rank: "actor" of "actor (node3)"."""
    return rank.rpartition(" (")[0] or rank


def _totals(activity: RankActivity) -> Array:
    """Return the share of the whole start that each rank spent on each activity and the rest, [rank, A+1]."""
    if len(activity.seconds) < 2:
        return np.zeros((len(activity.ranks), len(activity.activities) + 1))
    ends = RankActivity(
        activity.seconds[[0, -1]], activity.spent[[0, -1]], activity.activities, activity.ranks
    )
    shares = ends.shares()[0]
    rest = np.maximum(0.0, 1.0 - shares.sum(axis=1, keepdims=True))
    totals: Array = np.concatenate([shares, rest], axis=1)
    return totals


def _by_role(runs: Sequence[ReportedRun]) -> Plot | None:
    """Return how each role of each run spent its time, as bars."""
    labels: list[str] = []
    of_rows: list[int] = []
    shares = []
    names: list[str] = []
    for place, run in enumerate(runs):
        activity = run.newest_activity
        if activity is None or len(activity.seconds) < 2:
            continue
        names = [*activity.activities, REST]
        totals, roles = _totals(activity), [role_of(rank) for rank in activity.ranks]
        for role in dict.fromkeys(roles):
            chosen = [index for index, each in enumerate(roles) if each == role]
            labels.append(f"{run.label}: {role}" + (f" × {len(chosen)}" if len(chosen) > 1 else ""))
            shares.append(totals[chosen].mean(axis=0))
            of_rows.append(place)
    if not labels:
        return None
    return _bars(
        "Time by role",
        labels,
        np.array(shares),
        names,
        "Shares of the newest start's training time, over all ranks of a role. Waiting: the rank slept, "
        "since it had no work. Held: an actor stood still for its learner. Rest: messages, files and short "
        "waits; of a worker also the wait for its actor.",
        of_rows,
    )


def _bars(
    title: str, labels: list[str], shares: Array, names: Sequence[str], caption: str, of_rows: list[int]
) -> Plot:
    used = [index for index in range(len(names)) if (shares[:, index] > 0).any()]
    stacks = [{"name": names[index], "x": numbers(shares[:, index])} for index in used]
    rows = [
        [label, *(percent(row[index]) for index in used)] for label, row in zip(labels, shares, strict=True)
    ]
    heading = ["", *(names[index] for index in used)]
    table = Table(heading, rows, title, numeric=range(1, len(heading)), run_of_row=of_rows, folded=True)
    return Plot(title, {"kind": "bars", "labels": labels, "stacks": stacks, "runs": of_rows}, caption, table)


def ranks_section(runs: Sequence[ReportedRun]) -> Section | None:
    """Return the timeline of the ranks of each run, and a bar for each rank."""
    parts: list[Part] = []
    for place, run in enumerate(runs):
        activity = run.newest_activity
        if activity is None or len(activity.seconds) < 3:
            continue
        shown, remark = chosen_ranks(activity, MOST_CELLS // 30)
        parts.append(_heat(run, place, activity, shown, remark))
        shown, remark = chosen_ranks(activity, MOST_BARS)
        labels = [f"{rank} {activity.ranks[rank]}" for rank in shown]
        parts.append(
            _bars(
                f"{run.label}: time of each rank",
                labels,
                _totals(activity)[shown],
                [*activity.activities, REST],
                "Shares of the newest start's training time. " + remark,
                [place] * len(shown),
            )
        )
    return Section("Ranks", "ranks", parts) if parts else None


def work_shares(activity: RankActivity) -> Array:
    """Return the share of each interval in which each rank worked, [T - 1, rank]."""
    working = [name not in IDLE for name in activity.activities]
    shares: Array = activity.shares()[:, :, working].sum(axis=2)
    return shares


def chosen_ranks(activity: RankActivity, most: int) -> tuple[list[int], str]:
    """Choose the ranks that are shown.

    Args:
        activity: What the ranks have done.
        most: Largest number of ranks.

    Returns:
        The ranks, and a sentence about those that are left out; empty if none is. Of each role the busiest
        and idlest ranks are kept.
    """
    count = len(activity.ranks)
    if count <= most:
        return list(range(count)), ""
    work = 1.0 - _totals(activity)[:, -1]
    idle = [activity.activities.index(name) for name in IDLE if name in activity.activities]
    work -= _totals(activity)[:, idle].sum(axis=1)
    by_role: dict[str, list[int]] = {}
    for rank in np.argsort(work, kind="stable").tolist():
        by_role.setdefault(role_of(activity.ranks[rank]), []).append(rank)
    chosen: list[int] = []
    while len(chosen) < most and any(by_role.values()):
        for ranks in by_role.values():
            chosen += [ranks.pop(0)] if ranks and len(chosen) < most else []
            chosen += [ranks.pop()] if ranks and len(chosen) < most else []
    return sorted(chosen), f"The busiest and idlest {most} of {count} ranks are shown, of each role."


def _heat(run: ReportedRun, place: int, activity: RankActivity, shown: list[int], remark: str) -> Plot:
    """Return the timeline of the ranks: how much of each interval a rank worked."""
    columns = max(2, min(MOST_COLUMNS, MOST_CELLS // len(shown), len(activity.seconds) - 1))
    rows = np.unique(np.linspace(0, len(activity.seconds) - 1, columns + 1).astype(int))
    part = RankActivity(
        activity.seconds[rows], activity.spent[rows][:, shown], activity.activities, activity.ranks
    )
    shares, work = part.shares(), work_shares(part)
    spec: dict[str, Any] = {
        "kind": "heat",
        "run": place,
        "x": numbers(part.seconds),  # ends of the intervals, one more than columns
        "x_title": "training time, seconds",
        "y": [f"{rank} {activity.ranks[rank]}" for rank in shown],
        "z": [numbers(row) for row in work.T],
        "text": [[_most(each, part.activities) for each in rank] for rank in shares.transpose(1, 0, 2)],
    }
    averages = _totals(activity)[shown]
    heading = ["rank", *activity.activities, REST]
    table = Table(
        heading,
        [[spec["y"][index], *(percent(share) for share in row)] for index, row in enumerate(averages)],
        "Mean shares over the start",
        numeric=range(1, len(heading)),
        folded=True,
    )
    caption = (
        "Dark: the rank works all the time. Light: it waits or stands still. A straggler is a dark row among "
        "light ones. Points name the largest activities. " + remark
    )
    return Plot(f"{run.label}: ranks over time", spec, caption, table)


def _most(shares: Array, activities: Sequence[str]) -> str:
    """Return the largest activities of an interval as text."""
    order = np.argsort(-shares, kind="stable")[:3]
    return ", ".join(
        f"{activities[index]} {100 * shares[index]:.0f} %" for index in order if shares[index] > 0.005
    )


def rounds_section(runs: Sequence[ReportedRun], curves: Curves) -> Section | None:
    """Return durations of rounds beside the rule's bound, staleness, wasted work, and the groups."""
    bounds = [round_bound(run) for run in runs]
    lines = [
        {"run": place, "y": bound, "text": f"bound, {runs[place].label}"}
        for place, bound in enumerate(bounds)
        if bound is not None
    ]
    plots = [
        curves.plot(
            "version",
            "Duration of a round",
            "seconds",
            "Time between two rows, divided by the updates in between. Dotted: upper bound of a round under "
            "the run's rule, from the measured durations of trajectories, without learning and exchange.",
            values=[_durations(run) for run in runs],
            least=0.0,
            lines=lines,
        ),
        *(curves.plot(*figure, least=0.0) for figure in ROUNDS),
        curves.plot(
            "wasted_gradients",
            "Wasted trajectories",
            "share",
            "Share of all trajectories that came too late for their round, since the beginning of the run.",
            values=[_wasted(run) for run in runs],
            least=0.0,
        ),
        curves.plot("dropped_rollouts", "Dropped trajectories", "trajectories", least=0.0),
    ]
    parts: list[Part] = [plot for plot in plots if plot is not None]
    parts += [table for run in runs if (table := _groups(run)) is not None]
    return Section("Rounds", "rounds", parts) if parts else None


def _durations(run: ReportedRun) -> Array | None:
    if run.rows < 2 or run.league is not None:
        return None
    versions, seconds = (np.diff(run.columns[name]) for name in ("version", "seconds"))
    durations = np.where(versions > 0, seconds / np.maximum(versions, 1.0), np.nan)
    whole: Array = np.append(np.nan, durations)
    return whole


def _wasted(run: ReportedRun) -> Array | None:
    used, wasted = run.columns.get("used_trajectories"), run.columns.get("wasted_gradients")
    if used is None or wasted is None:
        return None
    shares: Array = wasted / np.maximum(used + wasted, 1.0)
    return shares


def _last_figures(run: ReportedRun) -> dict[str, Array]:
    if run.groups is None or not len(run.groups.version):
        return {}
    return {name: values[-1] for name, values in run.groups.figures.items()}


def round_bound(run: ReportedRun) -> float | None:
    """Return the upper bound of the duration of a round under the run's rule, seconds.

    The workers of the bound are environment slots, each with the mean duration of its group's trajectories.

    Returns:
        The bound. None for rules without one, and if durations are unknown.
    """
    figures = _last_figures(run)
    if not {"slots", "trajectory_seconds"} <= set(figures) or not run.setting("rounds.batch").isdecimal():
        return None
    known = np.isfinite(figures["slots"]) & (figures["trajectory_seconds"] > 0)
    slots, seconds = figures["slots"][known].astype(int), figures["trajectory_seconds"][known]
    if not slots.sum():
        return None
    batch, compute = int(run.setting("rounds.batch")), np.repeat(seconds, slots)
    if run.setting("rounds.rule") == "rennala":
        return rennala_bound(compute, batch)
    return malenia_bound(compute, batch) if run.setting("rounds.rule") == "malenia" else None


def _groups(run: ReportedRun) -> Table | None:
    """Return the newest figures of each group; None for a run with one group."""
    figures = _last_figures(run)
    count = len(figures.get("trajectories", ()))
    if count < 2:
        return None
    names = [name for name in figures if np.isfinite(figures[name]).any()]
    order = np.argsort(-figures["trajectories"])
    if count > MOST_GROUPS:
        order = np.concatenate([order[: MOST_GROUPS // 2], order[-MOST_GROUPS // 2 :]])
    rows = [[str(group), *(number(figures[name][group]) for name in names)] for group in order.tolist()]
    remark = (
        f" The {MOST_GROUPS} of {count} groups with most and fewest trajectories."
        if count > MOST_GROUPS
        else ""
    )
    heading = ["group", *(name.replace("_", " ") for name in names)]
    return Table(
        heading,
        rows,
        f"{run.label}: newest figures of its groups.{remark}",
        numeric=range(len(heading)),
        folded=count > 8,
    )
