"""Print the result of `hpcmarl league show` as tables."""

from __future__ import annotations

from typing import Any

import typer

from hpcmarl.cli.common import print_columns, printable

MOST_SHOWN = 12  # rows and columns of the printed payoff matrix
MOST_MET = 5  # printed opponents of a member
Result = dict[str, Any]


def print_league(result: Result) -> None:
    """Print all parts, each under a heading."""
    sides = "" if len(result["sides"]) == 1 else f", sides {' and '.join(result['sides'])}"
    typer.echo(printable(f"league {result['name']} of {result['env']}{sides}: {result['checkpoint']}"))
    typer.echo(
        f"{len(result['snapshots'])} snapshots, {result['evaluation_games']:,} games in "
        f"{result['matches']:,} matches"
    )
    if bad := [each["name"] for each in result["snapshots"] if each["bad"]]:
        typer.echo(f"excluded, because their files do not verify: {', '.join(bad)}")
    _members(result)
    for rows, columns in _printed(result):
        _payoff(result, rows, columns)
    _trained_against(result)
    _exploitability(result)
    for name, reason in result["reasons"].items():
        typer.echo(
            f"no {'exact ' if name == 'exploitability' and result[name] is not None else ''}{name}: "
            f"{printable(reason)}"
        )


def _members(result: Result) -> None:
    typer.echo(
        "\nmembers, by their newest snapshot (rating in Elo points, 95 % interval; mean score over its "
        "opponents in matches)"
    )
    rows = []
    for member in result["members"]:
        low, high = member["rating_elo_low"], member["rating_elo_high"]
        rows.append(
            (
                member["name"],
                member["kind"] or member["matchmaking"] or "frozen",
                member["newest"] or "-",
                f"{member['updates']:,}",
                f"{member['env_steps']:,}",
                _number(member["rating_elo"], "+.0f"),
                "-" if low is None else f"{low:+.0f} to {high:+.0f}",
                _number(member["mean_score"], ".3f"),
                f"{member['games']:,}",
            )
        )
    heading = ("member", "kind", "newest", "updates", "env steps", "rating", "95 %", "score", "games")
    print_columns(rows, heading, right=range(3, 9))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _printed(result: Result) -> list[tuple[list[int], list[int]]]:
    """Return the rows and columns of the printed matrix; with two sides the columns are the other side."""
    sides = result["sides"]
    chosen = [_printed_snapshots(result, side) for side in sides]
    return [(chosen[0], chosen[-1])]


def _printed_snapshots(result: Result, side: str) -> list[int]:
    """Return the snapshots of a side that are printed.

    If there are many, these are the newest of each member and then the highest rated (without ratings: the
    newest).
    """
    own = [
        number for number, each in enumerate(result["snapshots"]) if each["side"] == side and not each["bad"]
    ]
    if len(own) <= MOST_SHOWN:
        return own
    newest = {member["newest"] for member in result["members"]}

    def worth(number: int) -> tuple[bool, float]:
        rating = None if result["ratings"] is None else result["ratings"][number]["rating_elo"]
        missing = number if result["ratings"] is None else float("-inf")
        return result["snapshots"][number]["name"] in newest, missing if rating is None else rating

    return sorted(sorted(own, key=worth, reverse=True)[:MOST_SHOWN])


def _payoff(result: Result, rows: list[int], columns: list[int]) -> None:
    snapshots = result["snapshots"]
    typer.echo("\npayoff: mean score of the row against the column (- : never played)")
    whole = [
        sum(each["side"] == side and not each["bad"] for each in snapshots)
        for side in (result["sides"][0], result["sides"][-1])
    ]
    if (len(rows), len(columns)) != tuple(whole):
        kept = (
            "the newest of each member and the highest rated"
            if result["ratings"] is not None
            else "the newest of each member and of all"
        )
        typer.echo(
            f"showing {len(rows)} of {whole[0]} rows and {len(columns)} of {whole[1]} columns, {kept}; "
            "--json has all"
        )
    names = (
        [str(number + 1) for number in range(len(columns))]
        if rows == columns
        else [snapshots[column]["name"] for column in columns]
    )
    table = []
    for place, row in enumerate(rows):
        label = f"{place + 1} {snapshots[row]['name']}" if rows == columns else snapshots[row]["name"]
        table.append((label, *(_number(result["payoff"][row][column], ".2f") for column in columns)))
    print_columns(table, ("", *names), right=range(1, len(columns) + 1))


def _trained_against(result: Result) -> None:
    typer.echo("\ntrained against (most games first; live score: the member's recent mean score)")
    rows = []
    frozen = {member["name"] for member in result["members"] if not member["trains"]}
    for name, met in ((name, met) for name, met in result["trained_against"].items() if name not in frozen):
        most = [f"{each['snapshot']} {each['games']:,} ({each['live_score']:.2f})" for each in met[:MOST_MET]]
        rows.append(
            (name, f"{sum(each['games'] for each in met):,}", str(len(met)), ", ".join(most) or "itself only")
        )
    print_columns(
        rows,
        ("member", "games", "snapshots", "games (live score) against the most frequent opponents"),
        right=(1, 2),
    )


def _exploitability(result: Result) -> None:
    found = result["exploitability"]
    if found is None:
        return
    if found["game_range"] is not None:
        _exact(found)
    _trained(found["trained"])


def _trained(rows: list[Result]) -> None:
    """Print the results of `hpcmarl league exploit`."""
    if not rows:
        return
    typer.echo(
        "\nexploitability by a trained response, a lower bound, in returns (a better response may gain more)"
    )
    table = []
    for each in rows:
        gain, interval = f"{each['gain']:.4f}", f"{each['gain_low']:.4f} to {each['gain_high']:.4f}"
        own = (
            f"{each['return_mean']:.4f}",
            f"{each['score']:.3f}",
            f"{each['updates']:,}",
            f"{each['env_steps']:,}",
        )
        table.append((each["target"], gain, interval, each["baseline"], *own))
    heading = ("policy", "gain", "95 %", "over", "return", "score", "updates", "env steps")
    print_columns(table, heading, right=(1, 2, 4, 5, 6, 7))


def _exact(found: Result) -> None:
    typer.echo(
        "\nexploitability, exact: half of the best responses' gain, in returns (range of the game "
        f"{found['game_range']:g})"
    )
    named = [(" and ".join(each["snapshots"]), each) for each in found["members"]]
    named += [
        (text, found[key])
        for key, text in (("uniform", "uniform mixture of the pool"), ("nash", "Nash mixture of the payoffs"))
        if found[key]
    ]
    rows = [
        (text, f"{each['exploitability']:.4f}", f"{100 * each['share_of_range']:.1f} %")
        for text, each in named
    ]
    print_columns(rows, ("policy", "exploitability", "of the range"), right=(1, 2))
    if found["left_out"]:
        typer.echo(f"left out, because their files do not verify: {', '.join(found['left_out'])}")
    for name, reason in found["reasons"].items():
        typer.echo(f"no exploitability of {name}: {reason}")
