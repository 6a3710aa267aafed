"""Curves of metrics over environment steps, updates and training time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.report.blocks import Plot, Table, number, numbers
from hpcmarl.report.grouping import RunGroup
from hpcmarl.report.runs import ReportedRun
from hpcmarl.report.statistics import band
from hpcmarl.types import Array

# Name of an axis in the page -> column of the metrics.
AXES = {"steps": "env_steps", "updates": "version", "time": "seconds"}
AXIS_TITLES = {"steps": "environment steps", "updates": "updates", "time": "training time, seconds"}
MOST_POINTS = 400  # of one run's curve
TABLE_ROWS = 6  # of the table beside a plot


def bins_of(rows: int) -> Array:
    """Return the first row of each bin of a curve, so that there are at most MOST_POINTS."""
    return np.unique(np.linspace(0, rows, min(rows, MOST_POINTS), endpoint=False).astype(np.int64))


def thinned(values: Array) -> Array:
    """Return the mean of the finite values of each bin, NaN for a bin without one."""
    if not len(values):
        return values
    starts, finite = bins_of(len(values)), np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), starts)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def positions(run: ReportedRun) -> dict[str, list[float | None]]:
    """Return the positions of a run's points on each axis; each is that of the last row of its bin."""
    if not run.rows:
        return {axis: [] for axis in AXES}
    last = np.append(bins_of(run.rows)[1:], run.rows) - 1
    return {
        axis: numbers(run.columns[column][last]) for axis, column in AXES.items() if column in run.columns
    }


class Curves:
    """Makes plots of columns, with one line for each run and one band for each group of several runs.

    Args:
        runs: The runs of the report.
        groups: Their groups.
    """

    def __init__(self, runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> None:
        self.runs, self.groups = runs, groups

    def having(self, column: str) -> list[int]:
        """Return the numbers of the runs with a finite value in a column."""
        return [number for number, run in enumerate(self.runs) if run.last(column) is not None]

    def plot(
        self,
        column: str,
        title: str,
        unit: str,
        caption: str = "",
        *,
        values: Sequence[Array | None] | None = None,
        only_new: bool = False,
        bands: bool = False,
        least: float | None = None,
        lines: Sequence[dict[str, Any]] = (),
    ) -> Plot | None:
        """Return the plot of one column.

        Args:
            column: The column.
            title: Title of the plot.
            unit: Unit of the vertical axis.
            caption: What the plot shows.
            values: Values of each run in place of the column, [row]; None for a run without.
            only_new: Whether the column repeats its value until a new one comes, as those of evaluations do.
                Only the new ones are shown, with marks.
            bands: Whether groups of several runs have a mean with an interval, see statistics.py.
            least: Lower end of the vertical axis; None: that of the values.
            lines: Horizontal lines: `run`, `y` and `text`.

        Returns:
            The plot; None if no run has a finite value.
        """
        if values is None:
            values = [run.columns.get(column) for run in self.runs]
        known = [each is not None and bool(np.isfinite(each).any()) for each in values]
        if not any(known):
            return None
        if only_new:
            values = [
                None if each is None else _new_ones(each, run.columns.get("eval_version"))
                for each, run in zip(values, self.runs, strict=True)
            ]
        drawn = [
            self._own_line(number, values[number], only_new)
            for number in range(len(self.runs))
            if known[number] and values[number] is not None
        ]
        spec: dict[str, Any] = {
            "kind": "curves",
            "unit": unit,
            "lines": drawn,
            "bands": self._bands(values) if bands else [],
            "horizontal": list(lines),
            "least": least,
        }
        return Plot(title, spec, caption, self._table(title, values))

    def _own_line(self, number: int, values: Array | None, only_new: bool) -> dict[str, Any]:
        assert values is not None
        run = self.runs[number]
        if not only_new:
            return {"run": number, "y": numbers(thinned(values))}
        rows = np.flatnonzero(np.isfinite(values))
        axes = {axis: numbers(run.columns[column][rows]) for axis, column in AXES.items()}
        return {"run": number, "y": numbers(values[rows]), "x": axes, "marks": True}

    def _bands(self, values: Sequence[Array | None]) -> list[dict[str, Any]]:
        bands = []
        for place, group in enumerate(self.groups):
            axes: dict[str, Any] = {}
            for axis, column in AXES.items():
                curves = [
                    (self.runs[number].columns[column], each)
                    for number in group.runs
                    if (each := values[number]) is not None
                ]
                if (found := band(curves)) is not None:
                    axes[axis] = {name: numbers(part) for name, part in found._asdict().items()}
            if axes:
                bands.append({"group": place, "axes": axes})
        return bands

    def _table(self, title: str, values: Sequence[Array | None]) -> Table:
        """Return some values of each run, evenly over its rows."""
        rows, of_rows = [], []
        for place, (run, each) in enumerate(zip(self.runs, values, strict=True)):
            finite = np.zeros(0, int) if each is None else np.flatnonzero(np.isfinite(each))
            if each is None or not finite.size:
                continue
            chosen = finite[np.unique(np.linspace(0, finite.size - 1, TABLE_ROWS).astype(int))]
            for row in chosen:
                cells = [number(run.columns[column][row], ",.0f") for column in AXES.values()]
                rows.append([run.label, *cells, number(each[row])])
                of_rows.append(place)
        heading = ["run", *AXIS_TITLES.values(), title]
        return Table(heading, rows, title, numeric=(1, 2, 3, 4), run_of_row=of_rows, folded=True)


def _new_ones(values: Array, version: Array | None) -> Array:
    """Return values with NaN at the rows that repeat an earlier one.

    Args:
        values: Values by row.
        version: Version that each row's value judged; None: unknown, so that equal values repeat.
    """
    judged = values if version is None else version
    new = np.isfinite(values) & np.append(True, judged[1:] != judged[:-1])
    return np.where(new, values, np.nan)
