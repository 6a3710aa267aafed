"""Parts of a report: text, tables and plots as plain data. page.py makes HTML of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

DIGITS = 6  # significant digits of numbers in plots


@dataclass
class Text:
    """A paragraph.

    Attributes:
        text: Its text.
        kind: "warning" is emphasised.
    """

    text: str
    kind: Literal["plain", "warning"] = "plain"


@dataclass
class Table:
    """A table.

    Attributes:
        heading: Names of the columns.
        rows: Texts of the cells. The first cell of a row names it.
        caption: What the table shows.
        numeric: Columns that are aligned to the right.
        run_of_row: Number of the run of each row, which gets its colour; empty: no colours.
        folded: Whether the table is hidden until the reader opens it.
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numeric: Sequence[int] = ()
    run_of_row: Sequence[int] = ()
    folded: bool = False


@dataclass
class Plot:
    """A plot, drawn by report.js.

    Attributes:
        title: Its title.
        spec: Data, see report.js: `kind` and what that kind needs.
        caption: What it shows, in a sentence or two.
        table: The same values as a table, for readers who cannot see the plot.
        plot_id: Identifier of its element; the page gives it one.
    """

    title: str
    spec: dict[str, Any]
    caption: str = ""
    table: Table | None = None
    plot_id: str = ""


@dataclass
class Listing:
    """Text with fixed spacing, hidden until the reader opens it.

    Attributes:
        title: What it is.
        text: Its lines.
    """

    title: str
    text: str


Part = Text | Table | Plot | Listing


@dataclass
class Section:
    """A section of the report.

    Attributes:
        title: Its heading.
        anchor: Its name in links.
        parts: What it shows.
    """

    title: str
    anchor: str
    parts: list[Part] = field(default_factory=list)


def numbers(values: ArrayLike) -> list[float | None]:
    """Return numbers for JSON: DIGITS significant digits, None for numbers that are not finite."""
    return [
        float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        for value in np.asarray(values, np.float64).tolist()
    ]


def number(value: float | None, form: str = ",.4g") -> str:
    """Return a number as the text of a cell; a dash for None and numbers that are not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if form == ",.4g":  # no exponent for the sizes that people read
        size = abs(value)
        form = ",.0f" if size >= 1000 else ",.4g" if size >= 1e-3 or size == 0 else ".2e"
    return format(value, form)


def percent(value: float | None) -> str:
    """Return a share as the text of a cell, in percent."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"
