"""Leagues: members, payoffs, ratings, and the opponents of each snapshot in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcmarl.report.blocks import Part, Plot, Section, Table, Text, number, numbers
from hpcmarl.report.curves import Curves
from hpcmarl.report.runs import ReportedRun

Result = dict[str, Any]
MOST_SNAPSHOTS = 80  # of one axis of the payoff table: the newest
MOST_LINKS = 4  # opponents of a snapshot that its lines lead to


def league_section(runs: Sequence[ReportedRun], curves: Curves) -> Section | None:
    """Return the pages of all leagues."""
    parts: list[Part] = []
    for place, run in enumerate(runs):
        if (league := run.league) is None:
            continue
        parts.append(_members(run, league))
        plots = (_payoff(run, place, league), _ratings(run, place, league), _lineage(run, place, league))
        parts += [plot for plot in plots if plot is not None]
        parts += [
            Text(f"{run.label}: no {name.replace('_', ' ')}: {reason}")
            for name, reason in league["reasons"].items()
        ]
    if not parts:
        return None
    for column, title in (("snapshots", "Frozen policies"), ("matches", "Evaluation matches")):
        if (plot := curves.plot(column, title, column)) is not None:
            parts.append(plot)
    return Section("Leagues", "leagues", parts)


def _members(run: ReportedRun, league: Result) -> Table:
    rows = []
    for member in league["members"]:
        low, high = member["rating_elo_low"], member["rating_elo_high"]
        rows.append(
            [
                member["name"],
                member["kind"] or member["matchmaking"] or "frozen",
                member["newest"] or "–",
                number(member["updates"], ",.0f"),
                number(member["env_steps"], ",.0f"),
                number(member["rating_elo"], "+.0f"),
                "–" if low is None or high is None else f"{low:+.0f} to {high:+.0f}",
                number(member["mean_score"], ".3f"),
                number(member["games"], ",.0f"),
            ]
        )
    heading = [
        "member",
        "kind",
        "newest",
        "updates",
        "env steps",
        "rating, Elo",
        "95 %",
        "mean score",
        "games",
    ]
    caption = (
        f"{run.label}: members by their newest snapshot. Mean score: over the opponents it met in matches."
    )
    return Table(heading, rows, caption, numeric=range(3, 9))


def _payoff(run: ReportedRun, place: int, league: Result) -> Plot | None:
    """Return the payoff table as a heat map; None before the first match."""
    sides = league["sides"]
    rows, columns = (
        [index for index, each in enumerate(league["snapshots"]) if each["side"] == side][-MOST_SNAPSHOTS:]
        for side in (sides[0], sides[-1])
    )
    cells = [[league["payoff"][row][column] for column in columns] for row in rows]
    if all(cell is None for row in cells for cell in row):
        return None
    games = [[league["games"][row][column] for column in columns] for row in rows]
    names = [each["name"] for each in league["snapshots"]]
    spec: dict[str, Any] = {
        "kind": "matrix",
        "run": place,
        "x": [names[column] for column in columns],
        "y": [names[row] for row in rows],
        "z": cells,
        "z_title": "mean score of the row",
        "text": [[f"{count:,.0f} games" for count in row] for row in games],
    }
    total = len(league["snapshots"])
    remark = "" if total == len(rows) or len(sides) > 1 else f" The newest {len(rows)} of {total} snapshots."
    caption = f"Mean score of the row's snapshot against the column's. Empty: they never played.{remark}"
    table = Table(
        ["", *spec["x"]],
        [[spec["y"][index], *(number(cell, ".2f") for cell in row)] for index, row in enumerate(cells)],
        "Mean scores",
        numeric=range(1, len(columns) + 1),
        folded=True,
    )
    return Plot(f"{run.label}: payoffs", spec, caption, table)


def _ratings(run: ReportedRun, place: int, league: Result) -> Plot | None:
    """Return the ratings of all snapshots over their members' environment steps."""
    if league["ratings"] is None:
        return None
    series, rows = [], []
    for member in league["members"]:
        own = [
            index
            for index, each in enumerate(league["snapshots"])
            if each["member"] == member["name"] and league["ratings"][index]["rating_elo"] is not None
        ]
        if not own:
            continue
        rated = [league["ratings"][index] for index in own]
        steps = [float(league["snapshots"][index]["env_steps"]) for index in own]
        series.append(
            {
                "name": member["name"],
                "x": numbers(steps),
                "y": numbers([each["rating_elo"] for each in rated]),
                "low": numbers([_or_nan(each["rating_elo_low"]) for each in rated]),
                "high": numbers([_or_nan(each["rating_elo_high"]) for each in rated]),
                "text": [league["snapshots"][index]["name"] for index in own],
            }
        )
        rows += [
            [
                league["snapshots"][index]["name"],
                f"{at:,.0f}",
                rating_text(each["rating_elo"]),
                f"{rating_text(each['rating_elo_low'])} to {rating_text(each['rating_elo_high'])}",
            ]
            for index, at, each in zip(own, steps, rated, strict=True)
        ]
    if not series:
        return None
    spec = {
        "kind": "points",
        "run": place,
        "series": series,
        "x_title": "environment steps of the member",
        "y_title": "rating, Elo",
    }
    table = Table(
        ["snapshot", "environment steps", "rating", "95 %"], rows, "Ratings", (1, 2, 3), folded=True
    )
    caption = "Elo rating of each snapshot from all matches, with its 95 % interval."
    return Plot(f"{run.label}: ratings", spec, caption, table)


def rating_text(value: float | None) -> str:
    """Return a rating as the text of a cell."""
    return number(value, "+.0f")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _lineage(run: ReportedRun, place: int, league: Result) -> Plot | None:
    """Return which snapshots each one trained against most."""
    snapshots = league["snapshots"]
    if len(snapshots) < 2:
        return None
    members = [member["name"] for member in league["members"]]
    places = {each["name"]: (order, members.index(each["member"])) for order, each in enumerate(snapshots)}
    links, rows = [], []
    for each in snapshots:
        met = sorted(each["met_most"], key=lambda opponent: -opponent["games"])
        total = sum(opponent["games"] for opponent in met)
        links += [
            [*places[opponent["snapshot"]], *places[each["name"]], opponent["games"] / max(1, total)]
            for opponent in met[:MOST_LINKS]
        ]
        text = ", ".join(f"{opponent['snapshot']} ({opponent['games']:,})" for opponent in met[:MOST_LINKS])
        rows.append([each["name"], each["member"], f"{each['updates']:,}", text or "–"])
    spec = {
        "kind": "lineage",
        "run": place,
        "members": members,
        "points": [[*places[each["name"]], each["name"]] for each in snapshots],
        "links": links,
    }
    caption = (
        "Snapshots in the order in which they were frozen. Lines lead from opponents to the "
        "snapshots that trained against them."
    )
    table = Table(
        ["snapshot", "member", "updates", "trained most against (games)"], rows, "Lineage", (2,), folded=True
    )
    return Plot(f"{run.label}: lineage", spec, caption, table)
