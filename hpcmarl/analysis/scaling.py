"""Plot of `hpcmarl bench scale`: efficiency against the number of ranks, by rule and reduction.

The input is the rows of the benchmark's result. matplotlib is an optional dependency (see `INSTALL` in
analysis/simulation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcmarl.analysis.simulation import INSTALL, plots_possible
from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import write_atomically

FORMATS = (".svg", ".png")


def check_plot(path: Path) -> None:
    """Check that `plot_scaling` can write this file, before anything is measured.

    Raises:
        UsageError: If the suffix is not in FORMATS, the directory does not exist, or matplotlib is missing.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--plot {path}: allowed: a name that ends with {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: directory {path.absolute().parent} does not exist; create it first")
    if not plots_possible():
        raise UsageError(f"--plot {path}: {INSTALL}")


def curve_of(rows: Sequence[Mapping[str, Any]], rule: str, reduce: str) -> list[Mapping[str, Any]]:
    """Return the rows of one rule and reduction, sorted by number of ranks."""
    return sorted(
        (row for row in rows if (row["rule"], row["reduce"]) == (rule, reduce)), key=lambda row: row["ranks"]
    )


def plot_scaling(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw measured efficiency with its standard deviation and predicted efficiency, one panel per reduction.

    Args:
        rows: Rows of the benchmark: `rule`, `reduce`, `ranks`, `efficiency_mean`, `efficiency_std` (None:
            unknown) and `predicted_efficiency` (None: unknown).
        path: File to write, with a suffix in FORMATS.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    reductions = list(dict.fromkeys(row["reduce"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(reductions), figsize=(4.5 * len(reductions), 3.5), sharey=True, squeeze=False
    )
    for axis, reduce in zip(axes[0], reductions, strict=True):
        for number, rule in enumerate(rules):
            if not (curve := curve_of(rows, rule, reduce)):
                continue
            ranks, spread = [row["ranks"] for row in curve], [row["efficiency_std"] or 0.0 for row in curve]
            axis.errorbar(
                ranks,
                [row["efficiency_mean"] for row in curve],
                spread,
                color=f"C{number}",
                marker="o",
                capsize=3,
                label=rule,
            )
            if all(row["predicted_efficiency"] is not None for row in curve):
                axis.plot(
                    ranks, [row["predicted_efficiency"] for row in curve], color=f"C{number}", linestyle=":"
                )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.set(title=f"rounds.reduce: {reduce}", xlabel="ranks", ylim=(0, 1.05))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("efficiency (dotted: predicted)")
    axes[0][0].legend()
    figure.tight_layout()
    write_atomically(path, lambda partial: figure.savefig(partial, format=path.suffix[1:], dpi=120))
    pyplot.close(figure)
