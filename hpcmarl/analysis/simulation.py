"""Plots and tables of a simulation.h5: gradients per time, and the objective against virtual time.

matplotlib is an optional dependency; `plots_possible` returns whether it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcmarl.config.file import load_simulation
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.simulation import read_simulation
from hpcmarl.types import Array

# times at which the courses of several seeds are interpolated
GRID = 200
STORED = 50  # times of a course in the condensed result
# figures of each seed that the condensed result keeps
OF_A_SEED = (
    "seed",
    "objective",
    "threshold_times",
    "rounds",
    "used_gradients",
    "gradients_per_time",
    "round_time_mean",
    "round_time_bound",
)
LEGEND_COLUMNS = 2  # plus one for each panel
BAND = (20, 80)  # percentiles of the shaded band, as in arXiv 2509.24305
INSTALL = "plots need matplotlib: pip install 'hpcmarl[analysis]'"


def plots_possible() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def label_of(case: dict[str, Any]) -> str:
    """Return the label of a case: its method and, if the method has several batches, the batch M."""
    return case["method"] if case["batch"] is None else f"{case['method']} M={case['batch']}"


def plot_simulation(path: Path, directory: Path) -> list[Path]:
    """Plot a simulation.h5.

    Writes throughput.png and, if the simulation has an objective, objective.png.

    Args:
        path: The file simulation.h5.
        directory: Existing directory for the plots.

    Returns:
        The files written.
    """
    cases, attributes = read_simulation(path)
    config = load_simulation(str(attributes["config"]) + "\n")
    written = [_save(_throughput(cases), directory / "throughput.png")]
    if "objective" in cases[0]["outcomes"][0]["course"]:
        written.append(
            _save(_objective(cases, config.name, config.sim.thresholds), directory / "objective.png")
        )
    return written


def course_of(case: dict[str, Any], column: str) -> tuple[Array, Array]:
    """Interpolate a column of all seeds to a common grid of virtual times.

    The grid ends at the end of the shortest course.

    Args:
        case: One case of simulation.h5.
        column: Name of a column of the course.

    Returns:
        Times, [GRID], and values, [seeds, GRID].
    """
    courses = [outcome["course"] for outcome in case["outcomes"]]
    times = np.linspace(0.0, min(float(course["time"][-1]) for course in courses), GRID)
    return times, np.array([_interpolated(times, course["time"], course[column]) for course in courses])


def _interpolated(times: Array, known_at: Array, values: Array) -> Array:
    """Interpolate to other times, ignoring NaN; times before the first known value get that value."""
    known = ~np.isnan(values)
    return np.interp(times, known_at[known], values[known]) if known.any() else np.full(len(times), np.nan)


def condensed(path: Path) -> dict[str, Any]:
    """Condense a simulation.h5 to the plain values that docs/results/ stores.

    Args:
        path: The file simulation.h5.

    Returns:
        hpcmarl_version, config, and cases. Each case has its setting, method, batch and tuned values, the
        scores of its trials, and the figures OF_A_SEED of each seed. With an objective it also has a
        `course`: median and band over the seeds at STORED times.
    """
    cases, attributes = read_simulation(path)
    condensed_cases = []
    for case in cases:
        kept = {name: case[name] for name in ("setting", "method", "batch", "tuned")}
        kept["trials"] = [trial | {"objective": _short(trial["objective"])} for trial in case["trials"]]
        kept["outcomes"] = [
            {name: outcome[name] for name in OF_A_SEED if name in outcome} for outcome in case["outcomes"]
        ]
        if "objective" in case["outcomes"][0]["course"]:
            kept["course"] = _stored_course(case)
        condensed_cases.append(kept)
    return {
        "hpcmarl_version": attributes["hpcmarl_version"],
        "config": attributes["config"],
        "cases": condensed_cases,
    }


def _stored_course(case: dict[str, Any]) -> dict[str, list[float]]:
    """Return median and band of the objective over the seeds at STORED times, rounded to four digits."""
    times, values = course_of(case, "objective")
    course = {"time": times, "median": np.median(values, axis=0)}
    course |= {f"percentile_{level}": np.percentile(values, level, axis=0) for level in BAND}
    return {
        name: [float(f"{value:.4g}") for value in column[:: GRID // STORED]]
        for name, column in course.items()
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _figure(
    columns: int, height: float, rows: int = 1, sharey: Literal["none", "row"] = "none"
) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (max(5.0, 4.2 * columns), height)
    return pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", sharex="col", sharey=sharey
    )


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=120))
    pyplot.close(figure)
    return path


def _settings(cases: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(case["setting"] for case in cases))


def _throughput(cases: Sequence[dict[str, Any]]) -> Any:
    """Draw one panel per setting with one bar per method.

    The panels have separate scales, because settings differ by orders of magnitude.
    """
    settings = _settings(cases)
    methods = list(dict.fromkeys(label_of(case) for case in cases))
    figure, axes = _figure(len(settings), 1.2 + 0.34 * len(methods))
    for number, (setting, axis) in enumerate(zip(settings, axes[0], strict=True)):
        own = {label_of(case): case for case in cases if case["setting"] == setting}
        rates = {
            name: [outcome["gradients_per_time"] for outcome in own[name]["outcomes"]]
            for name in methods
            if name in own
        }
        positions = [methods.index(name) for name in rates]
        means = [float(np.mean(values)) for values in rates.values()]
        bars = axis.barh(positions, means, color=[f"C{position % 10}" for position in positions])
        axis.bar_label(bars, labels=[f"{mean:.3g}" for mean in means], padding=3)
        axis.set(
            title=setting, xlabel="gradients per virtual time", xlim=(0, 1.2 * max(means, default=1.0) or 1.0)
        )
        axis.set_yticks(range(len(methods)), methods if number == 0 else [""] * len(methods))
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _objective(cases: Sequence[dict[str, Any]], name: str, thresholds: Sequence[float]) -> Any:
    """Draw one panel per setting with one curve per method: the mean over the seeds and the percentile BAND.

    Sampled returns are drawn as the median over the seeds. Other objectives have a second row of panels with
    the norm of the gradient.
    """
    settings = _settings(cases)
    methods = list(dict.fromkeys(label_of(case) for case in cases))
    course = cases[0]["outcomes"][0]["course"]
    sampled = "gradient_norm" not in course
    shown = ["objective"] if sampled else ["objective", "gradient_norm"]
    figure, axes = _figure(
        len(settings), 3.4 * len(shown) + (0.6 if sampled else 0.0), rows=len(shown), sharey="row"
    )
    for setting, column in zip(settings, axes.T, strict=True):
        for case in (case for case in cases if case["setting"] == setting):
            colour = f"C{methods.index(label_of(case)) % 10}"
            for axis, what in zip(column, shown, strict=True):
                times, values = course_of(case, what)
                axis.plot(
                    times,
                    np.median(values, axis=0) if sampled else values.mean(axis=0),
                    color=colour,
                    label=label_of(case),
                )
                if len(values) > 1:
                    axis.fill_between(
                        times, *np.percentile(values, BAND, axis=0), color=colour, alpha=0.2, linewidth=0
                    )
                axis.spines[["top", "right"]].set_visible(False)
        column[0].set(title=name if setting == "default" else setting)
        column[-1].set(xlabel="virtual time")
        if not sampled:
            column[1].set(yscale="log")
        for threshold in thresholds:
            column[0].axhline(threshold, color="0.5", linestyle=":", linewidth=1)
    axes[0][0].set_ylabel("return" if sampled else "objective")
    if not sampled:
        axes[1][0].set_ylabel("norm of its gradient")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=LEGEND_COLUMNS + len(settings),
        frameon=False,
    )
    return figure
