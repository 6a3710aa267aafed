"""Plots of a league: payoff matrix, ratings over training, and the opponents of each snapshot.

The input is the plain result of `hpcmarl.league.core.summary.summarise`. matplotlib is an optional dependency
(see `INSTALL` in analysis/simulation.py).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import StorageError
from hpcmarl.io.atomic import storage_error, write_atomically
from hpcmarl.types import Array

Result = dict[str, Any]
# Okabe and Ito's palette, which colour-blind readers can distinguish. Further members reuse
# the colours with other strokes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
STROKES = ("-", "--", "-.", ":")
# cells show their scores if no axis has more snapshots than this
NUMBERS_UP_TO = 14
MOST_LABELS = 30  # tick labels per axis
# arrows in the lineage plot: about 90 in total, but at least one and at most three per snapshot
MOST_EDGES, MOST_EDGES_EACH = 90, 3
NEVER = "#d9d9d9"  # colour of pairs that never played
MOST_SOURCES = 150  # arrows are drawn from the newest snapshots only, at most this many
HIGHEST_ARC = 0.36  # height of an arc, as a fraction of the distance between two rows


def plot_league(result: Result, directory: Path) -> list[Path]:
    """Write payoff.png, lineage.png and, if the league has ratings, ratings.png.

    Args:
        result: Summary of the league, with `name` and `env` of the run.
        directory: Directory for the files; created if it does not exist.

    Returns:
        The files written.

    Raises:
        StorageError: If the directory or a file cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(directory, "make the directory", error) from error
    written = [
        _save(payoff_picture(result), directory / "payoff.png"),
        _save(lineage_picture(result), directory / "lineage.png"),
    ]
    if result["ratings"] is not None:
        written.append(_save(ratings_picture(result), directory / "ratings.png"))
    return written


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> Path:
    try:
        write_atomically(
            path, lambda partial: figure.savefig(partial, format="png", dpi=130, bbox_inches="tight")
        )
    except OSError as error:
        raise StorageError(f"{path}: cannot write: {error}") from error
    finally:
        _pyplot().close(figure)
    return path


def _title(result: Result, what: str) -> str:
    return f"{result['name']} ({result['env']}): {what}"


def ordered(result: Result, side: str) -> list[int]:
    """Return the numbers of the snapshots of a side, sorted by member and then by age, oldest first."""
    places = {member["name"]: place for place, member in enumerate(result["members"])}
    own = [number for number, each in enumerate(result["snapshots"]) if each["side"] == side]
    return sorted(own, key=lambda number: (places[result["snapshots"][number]["member"]], number))


# ---- payoff matrix


def payoff_picture(result: Result) -> Any:
    """Draw the mean scores of the row's snapshot against the column's; pairs that never played are grey.

    The snapshots of a member stand together, oldest first.
    """
    pyplot = _pyplot()
    rows, columns = ordered(result, result["sides"][0]), ordered(result, result["sides"][-1])
    scores = np.array(
        [[result["payoff"][row][column] for column in columns] for row in rows], np.float64
    ).reshape(len(rows), len(columns))
    width, height = (float(np.clip(0.32 * len(numbers), 2.6, 9.0)) for numbers in (columns, rows))
    figure, axis = pyplot.subplots(figsize=(width + 2.6, height + 1.5), layout="constrained")
    colours = pyplot.get_cmap("RdBu").with_extremes(bad=NEVER)
    image = axis.imshow(
        np.ma.masked_invalid(scores),
        cmap=colours,
        vmin=0.0,
        vmax=1.0,
        aspect="equal",
        interpolation="nearest",
    )
    if max(scores.shape) <= NUMBERS_UP_TO:
        _write_numbers(axis, scores)
    _member_axis(axis, result, rows, vertical=True)
    _member_axis(axis, result, columns, vertical=False)
    axis.set_title(_title(result, "payoffs by member and term"), loc="left", fontsize=10, pad=10)
    bar = figure.colorbar(image, ax=axis, fraction=0.05, pad=0.03, shrink=min(1.0, 2.4 / height + 0.4))
    bar.set_label(
        "mean score of the row" + (" (grey: never played)" if np.isnan(scores).any() else ""), fontsize=8
    )
    bar.ax.tick_params(labelsize=8)
    # the constrained layout takes the outer labels into account only in the second pass
    figure.draw_without_rendering()
    return figure


def _write_numbers(axis: Any, scores: Array) -> None:
    for (row, column), value in np.ndenumerate(scores):
        if not np.isnan(value):
            words = f"{value:.2f}".lstrip("0") if value < 1 else "1"
            colour = "white" if abs(value - 0.5) > 0.33 else "black"
            axis.text(column, row, words, ha="center", va="center", fontsize=7, color=colour)


def _member_axis(axis: Any, result: Result, numbers: list[int], *, vertical: bool) -> None:
    """Label one axis: terms beside the cells, each member's name once further out, lines between members."""
    snapshots = result["snapshots"]
    owners = [snapshots[number]["member"] for number in numbers]
    every = -(-len(numbers) // MOST_LABELS)
    ends = [
        place
        for place in range(len(owners))
        if place + 1 == len(owners) or owners[place] != owners[place + 1]
    ]
    starts = [0, *(end + 1 for end in ends[:-1])]
    shown = [
        place
        for start, end in zip(starts, ends, strict=True)
        for place in range(start, end + 1)
        if (place - start) % every == 0
    ]
    draw, line = (axis.set_yticks, axis.axhline) if vertical else (axis.set_xticks, axis.axvline)
    draw(shown, [str(snapshots[numbers[place]]["term"]) for place in shown], fontsize=7)
    for end in ends[:-1]:
        line(end + 0.5, color="black", linewidth=1.0)
    names = [owners[end] for end in ends]
    middles = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    outer = axis.secondary_yaxis(-0.0) if vertical else axis.secondary_xaxis(-0.0)
    crowded = not vertical and max(map(len, names)) * len(names) * 0.085 > 0.32 * len(numbers) + 1
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    (outer.set_yticks if vertical else outer.set_xticks)(middles, names, fontsize=8, **turn)
    outer.tick_params(length=0, pad=18 if vertical else 17)
    outer.spines[:].set_visible(False)


# ---- ratings over training


def ratings_picture(result: Result) -> Any:
    """Draw Elo ratings with 95 % intervals over the environment steps of each member.

    Each member has one line, broken where a new generation began from initial weights.
    """
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(7.2, 4.4), layout="constrained")
    for place, member in enumerate(result["members"]):
        own = [number for number, each in enumerate(result["snapshots"]) if each["member"] == member["name"]]
        known = [number for number in own if result["ratings"][number]["rating_elo"] is not None]
        if not known:
            continue
        style = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": STROKES[place // len(COLOURS) % len(STROKES)],
        }
        for part, generation in enumerate(_generations(result, known)):
            steps = [result["snapshots"][number]["env_steps"] for number in generation]
            rated = [result["ratings"][number] for number in generation]
            label = member["name"] if part == 0 else None
            axis.plot(
                steps,
                [each["rating_elo"] for each in rated],
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=label,
                **style,
            )
            band = ([each["rating_elo_low"] for each in rated], [each["rating_elo_high"] for each in rated])
            axis.fill_between(steps, *band, color=style["color"], alpha=0.15, linewidth=0)
            if len(generation) == 1:
                axis.vlines(steps, *band, color=style["color"], alpha=0.3, linewidth=3)
    axis.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    axis.set(xlabel="environment steps of the member", ylabel="rating (Elo points; mean 0)")
    axis.xaxis.set_major_formatter(pyplot.matplotlib.ticker.EngFormatter(sep=""))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(_title(result, "ratings, 95 %"), loc="left", fontsize=10)
    if len(result["members"]) > 1:
        figure.legend(
            loc="outside right upper", frameon=False, fontsize=8, ncols=-(-len(result["members"]) // 24)
        )
    return figure


def _generations(result: Result, numbers: list[int]) -> list[list[int]]:
    """Split the snapshots of a member, given in order, into its generations."""
    generations: list[list[int]] = []
    for number in numbers:
        if (
            generations
            and result["snapshots"][number]["generation"]
            == result["snapshots"][generations[-1][-1]]["generation"]
        ):
            generations[-1].append(number)
        else:
            generations.append([number])
    return generations


# ---- opponents in training


def lineage_picture(result: Result) -> Any:
    """Draw the snapshots over time, one row per member, with arrows to the opponents met most in each term.

    The width of an arrow grows with that opponent's share of the term's games against the listed opponents.
    Where a member was reset to initial weights, its line breaks and a cross marks the gap.
    """
    pyplot = _pyplot()
    members, snapshots = [member["name"] for member in result["members"]], result["snapshots"]
    row = {name: place for place, name in enumerate(members)}
    numbers = {each["name"]: number for number, each in enumerate(snapshots)}
    minutes = np.array([each["seconds"] for each in snapshots]) / 60.0
    rows = np.array([row[each["member"]] for each in snapshots], np.float64)
    width, height = 9.0, float(np.clip(1.4 + 0.85 * len(members), 2.4, 12.0))
    figure, axis = pyplot.subplots(figsize=(width, height), layout="constrained")
    # approximate inches per minute and per row
    inches = np.array(
        [(width - 1.5) / max(float(np.ptp(minutes)), 1e-9), (height - 1.1) / (len(members) + 0.2)]
    )
    most = int(np.clip(MOST_EDGES // max(1, len(snapshots)), 1, MOST_EDGES_EACH))
    drawn = range(max(0, len(snapshots) - MOST_SOURCES), len(snapshots))
    for number in drawn:
        each = snapshots[number]
        total = sum(met["games"] for met in each["met_most"])
        for met in each["met_most"][:most]:
            other = numbers[met["snapshot"]]
            ends = np.array([[minutes[number], rows[number]], [minutes[other], rows[other]]])
            _arrow(axis, ends, inches, met["games"] / total, COLOURS[int(rows[number]) % len(COLOURS)])
    for place, name in enumerate(members):
        own = [number for number, each in enumerate(snapshots) if each["member"] == name]
        generations = _generations(result, own)
        for generation in generations:
            axis.plot(
                minutes[generation],
                rows[generation],
                color=COLOURS[place % len(COLOURS)],
                linewidth=1.6,
                marker="o",
                markersize=5,
                zorder=3,
            )
        for before, after in pairwise(generations):
            axis.plot(
                (minutes[before[-1]] + minutes[after[0]]) / 2,
                place,
                "x",
                color="black",
                markersize=7,
                zorder=4,
            )
    axis.set_yticks(range(len(members)), members, fontsize=9)
    axis.set_ylim(len(members) - 0.6, -0.6)
    axis.margins(x=0.03)
    axis.set_xlabel("minutes since the league began")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    resets = "; x: reset to initial weights" if any(each["generation"] > 1 for each in snapshots) else ""
    drawn_part = "" if len(drawn) == len(snapshots) else f" (arrows: newest {len(drawn)})"
    axis.set_title(
        _title(result, f"snapshots and their most frequent opponents{drawn_part}{resets}"),
        loc="left",
        fontsize=10,
    )
    return figure


def _arrow(axis: Any, ends: Array, inches: Array, share: float, colour: str) -> None:
    """Draw an arrow from a snapshot to an opponent.

    Within a row it is an arc above the row; between rows it is slightly bowed. Neither rises above
    HIGHEST_ARC of the distance between rows.

    Args:
        axis: Axes to draw on.
        ends: Start and end of the arrow, each as minute and row, [2, 2].
        inches: Inches per minute and per row, [2].
        share: Share of the games, 0 to 1; sets the width of the line.
        colour: Colour of the arrow.
    """
    length = float(np.linalg.norm((ends[1] - ends[0]) * inches))
    steepest = 0.5 if ends[0][1] == ends[1][1] else 0.12
    # the height of an arc is half its bend times its length
    bend = min(steepest, 2 * HIGHEST_ARC * float(inches[1]) / max(length, 1e-9))
    # keep the arc above the row even if the opponent is the younger snapshot
    bend = bend if ends[1][0] <= ends[0][0] else -bend
    look = {
        "arrowstyle": "-|>,head_width=0.18,head_length=0.35",
        "shrinkA": 3,
        "shrinkB": 3,
        "linewidth": 0.4 + 1.6 * share,
        "alpha": 0.55,
    }
    way = {**look, "color": colour, "connectionstyle": f"arc3,rad={bend}"}
    axis.annotate("", xy=tuple(ends[1]), xytext=tuple(ends[0]), arrowprops=way, zorder=2)
