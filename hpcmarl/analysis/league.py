"""Pictures of a league: who beats whom, ratings over training, and which snapshot trained against which.
Called by `hpcmarl league show --plots`.

Reads the plain values of league/core/summary.py and knows no league itself. matplotlib is an extra
(analysis/simulation.py says how to get it).
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
# Okabe and Ito's colours, which the colour-blind tell apart; then again with other strokes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
STROKES = ("-", "--", "-.", ":")
NUMBERS_UP_TO = 14  # snapshots an axis with numbers in the cells
MOST_LABELS = 30  # an axis
# of the lineage: in all, while each snapshot has one, and from each snapshot
MOST_EDGES, MOST_EDGES_EACH = (
    90,
    3,
)
NEVER = "#d9d9d9"
MOST_SOURCES = 150  # snapshots whose arrows are drawn: the newest
HIGHEST_ARC = 0.36  # of the way to the next row


def plot_league(result: Result, directory: Path) -> list[Path]:
    """Writes payoff.png, lineage.png and, where there are ratings, ratings.png into `directory`, which is
    made; returns what was written.

    Raises StorageError."""
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
    """The snapshots of a side by member and age."""
    places = {member["name"]: place for place, member in enumerate(result["members"])}
    own = [number for number, each in enumerate(result["snapshots"]) if each["side"] == side]
    return sorted(own, key=lambda number: (places[result["snapshots"][number]["member"]], number))


# ---- who beats whom


def payoff_picture(result: Result) -> Any:
    """Mean scores, rows against columns; grey where no game was played. Each member's snapshots together,
    oldest first."""
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
    axis.set_title(_title(result, "who beats whom, by member and term"), loc="left", fontsize=10, pad=10)
    bar = figure.colorbar(image, ax=axis, fraction=0.05, pad=0.03, shrink=min(1.0, 2.4 / height + 0.4))
    bar.set_label(
        "mean score of the row" + (" (grey: never played)" if np.isnan(scores).any() else ""), fontsize=8
    )
    bar.ax.tick_params(labelsize=8)
    figure.draw_without_rendering()  # the layout sees the outer labels the second time only
    return figure


def _write_numbers(axis: Any, scores: Array) -> None:
    for (row, column), value in np.ndenumerate(scores):
        if not np.isnan(value):
            words = f"{value:.2f}".lstrip("0") if value < 1 else "1"
            colour = "white" if abs(value - 0.5) > 0.33 else "black"
            axis.text(column, row, words, ha="center", va="center", fontsize=7, color=colour)


def _member_axis(axis: Any, result: Result, numbers: list[int], *, vertical: bool) -> None:
    """Terms beside the cells, the members' names once each further out, a line between members."""
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
    """Elo with intervals of 95 % over a member's environment steps, one line a member, broken where it began
    anew."""
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
    """A member's snapshots, apart where it began anew."""
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


# ---- who trained against whom


def lineage_picture(result: Result) -> Any:
    """Snapshots over time, a row a member; arrows to those that each term met most, the wider the larger
    their share of the term's known games.

    A member's line breaks, and a cross stands, where it began anew from initial weights."""
    pyplot = _pyplot()
    members, snapshots = [member["name"] for member in result["members"]], result["snapshots"]
    row = {name: place for place, name in enumerate(members)}
    numbers = {each["name"]: number for number, each in enumerate(snapshots)}
    minutes = np.array([each["seconds"] for each in snapshots]) / 60.0
    rows = np.array([row[each["member"]] for each in snapshots], np.float64)
    width, height = 9.0, float(np.clip(1.4 + 0.85 * len(members), 2.4, 12.0))
    figure, axis = pyplot.subplots(figsize=(width, height), layout="constrained")
    # a minute, a row: about
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
    resets = ", x: began anew" if any(each["generation"] > 1 for each in snapshots) else ""
    which = "each" if len(drawn) == len(snapshots) else f"each of the newest {len(drawn)}"
    axis.set_title(
        _title(result, f"snapshots, and whom {which} met most in training{resets}"), loc="left", fontsize=10
    )
    return figure


def _arrow(axis: Any, ends: Array, inches: Array, share: float, colour: str) -> None:
    """From a snapshot to one that it met, ends [2, 2]: minute and row. Within a row an arc above it, between
    rows a slight bow; neither is higher than HIGHEST_ARC of a row."""
    length = float(np.linalg.norm((ends[1] - ends[0]) * inches))
    steepest = 0.5 if ends[0][1] == ends[1][1] else 0.12
    # an arc's height is half its bend times its length
    bend = min(steepest, 2 * HIGHEST_ARC * float(inches[1]) / max(length, 1e-9))
    # above the row, also where the other snapshot is the younger one
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
