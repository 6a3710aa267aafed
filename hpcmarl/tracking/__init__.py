"""Trackers: the metrics of a run in TensorBoard and Weights & Biases, besides metrics.csv.

One rank, that of the server, writes them. Each tracker has a background thread with a bounded queue, and a
tracker that fails ends alone (background.py).
"""

from __future__ import annotations

import re
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from hpcmarl import plugins
from hpcmarl.config.run import LoggingConfig, TrackerConfig
from hpcmarl.errors import MissingPackageError
from hpcmarl.tracking.background import Trackers, TrackerThread
from hpcmarl.tracking.base import Place, Tracker

OLDEST_WANDB = (0, 31)  # the first version that resumes offline runs
__all__ = ["Place", "Trackers", "check_trackers", "make_trackers"]


def check_trackers(config: LoggingConfig) -> None:
    """Check that the packages of all trackers are installed, without importing them.

    Raises:
        MissingPackageError: A package is missing or too old.
    """
    if config.wandb is None:
        return
    try:
        found = find_spec("wandb")
    except (ImportError, ValueError):  # for instance a module whose __spec__ is None
        found = None
    # A directory named wandb, which wandb itself makes, looks like a package without an origin.
    if found is None or found.origin is None:
        raise MissingPackageError(
            f"logging.wandb: {config.wandb.mode} needs the package wandb, which is not installed; "
            "pip install 'hpcmarl[wandb]', or set logging.wandb to null"
        )
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:  # no distribution, but a module on the path
        return
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_WANDB:
        raise MissingPackageError(
            f"logging.wandb: {config.wandb.mode} needs wandb {'.'.join(map(str, OLDEST_WANDB))} or later, "
            f"but {version} is installed; pip install -U 'hpcmarl[wandb]', or set logging.wandb to null"
        )


def _outside(config: TrackerConfig, place: Place) -> Tracker:
    """Return a tracker outside hpcmarl."""
    tracker: Tracker = plugins.need("trackers", config.name)(config, place)
    return tracker


def make_trackers(config: LoggingConfig, place: Place, values: dict[str, Any]) -> Trackers:
    """Start the trackers of a run. It returns at once.

    Args:
        config: Which trackers to start.
        place: The run and its present start.
        values: The configuration of the run, for the trackers.

    Returns:
        The trackers, each with its own thread; none if the configuration has none.
    """
    threads = []
    if config.tensorboard:
        from hpcmarl.tracking.tensorboard import TensorBoard

        threads.append(TrackerThread("TensorBoard", lambda: TensorBoard(place), place.guard))
    if (options := config.wandb) is not None:
        from hpcmarl.tracking.wandb import Wandb, set_environment

        set_environment(place)
        threads.append(TrackerThread("wandb", lambda: Wandb(options, place), place.guard))
    threads += [
        TrackerThread(settings.name, partial(_outside, settings, place), place.guard)
        for settings in config.trackers
    ]
    trackers = Trackers(threads)
    trackers.config(values)
    return trackers
