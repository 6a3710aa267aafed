"""Follow a run through its files alone: from another shell or node, before it starts and after its end.

The files are read again at every look, and nothing is written, so that any number of people can watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.curve import Curve
from hpcmarl.io.limits import duration, seconds_left, share_done
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.run_state import RunState, read_run_state
from hpcmarl.types import Array

ENDED = ("finished", "interrupted", "failed", "killed")
RESTARTABLE = ("interrupted", "killed")
RECENT_ROWS = 20  # rows that give the present speed


@dataclass(frozen=True)
class View:
    """What one look at a run shows.

    Attributes:
        state: State of the run.
        columns: Metrics so far, column -> [row]; empty: none yet.
        share: Progress towards the nearest limit of `stop`, 0 to 1; None: unknown.
        seconds_left: Estimate of the training time left, seconds; None: unknown.
    """

    state: RunState
    columns: dict[str, Array]
    share: float | None
    seconds_left: float | None

    @property
    def ended(self) -> bool:
        """Whether the newest start of the run has ended."""
        return self.state.state in ENDED

    def line(self) -> str:
        """Return the view in one line."""
        parts = [self.state.sentence()]
        if len(self.columns.get("version", ())):
            last = {name: values[-1] for name, values in self.columns.items()}
            parts.append(f"version {last['version']:,.0f}")
            parts.append(f"{last['env_steps']:,.0f} environment steps ({self.speed():,.0f}/s)")
            if np.isfinite(last.get("return_mean", np.nan)):
                parts.append(f"return {last['return_mean']:.2f}")
            if np.isfinite(last.get("eval_return_mean", np.nan)):
                parts.append(f"evaluated {last['eval_return_mean']:.2f}")
            if last.get("lost_ranks", 0) > 0:
                parts.append(f"{last['lost_ranks']:.0f} ranks lost")
        if self.share is not None and self.state.state == "running":
            left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
            parts.append(f"{100 * self.share:.0f} %{left}")
        return "; ".join(parts)

    def speed(self) -> float:
        """Return the environment steps per second over the newest rows."""
        seconds, steps = (self.columns[name][-RECENT_ROWS:] for name in ("seconds", "env_steps"))
        passed = float(seconds[-1] - seconds[0])
        return float(steps[-1] - steps[0]) / passed if passed > 0 else 0.0

    def curve(self, width: int) -> str:
        """Return the returns over training time as a text plot; empty if there are too few.

        Args:
            width: Characters per line.
        """
        curve = Curve()
        columns = self.columns
        for seconds, value in zip(columns.get("seconds", ()), columns.get("return_mean", ()), strict=True):
            curve.add(float(seconds), float(value))
        return curve.text(width)


def look(directory: Path) -> View:
    """Look at a run once. A file that is missing or is being replaced counts as empty."""
    state = read_run_state(directory)
    columns: dict[str, Array] = {}
    config: Config | None = None
    try:
        columns = read_metrics(directory)
        config = load_config(directory / "config.yaml")
    except HpcmarlError:
        pass
    if config is None or not len(columns.get("seconds", ())):
        return View(state, columns, None, None)
    last = {name: float(values[-1]) for name, values in columns.items() if len(values)}
    rows = len(columns["seconds"])
    before = {
        name: float(values[-RECENT_ROWS]) if rows >= RECENT_ROWS else 0.0 for name, values in columns.items()
    }
    return View(state, columns, share_done(config.stop, last), seconds_left(config.stop, last, before))


def follow(
    directory: Path,
    seconds: float,
    show: Callable[[View], None],
    *,
    through_restarts: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> View:
    """Look at a run again and again until it has ended.

    A run that does not exist yet is waited for, as of a queued job.

    Args:
        directory: The run directory.
        seconds: Time between two looks, seconds.
        show: Called with each view.
        through_restarts: Go on after an interruption or a kill, since the job may be requeued.
        sleep: Function that waits.

    Returns:
        The last view.
    """
    while True:
        view = look(directory)
        show(view)
        if view.ended and not (through_restarts and view.state.state in RESTARTABLE):
            return view
        sleep(seconds)
