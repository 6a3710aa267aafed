"""Base class of trackers, which show the metrics of a run in other tools."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hpcmarl.config.run import TrackerConfig


@dataclass(frozen=True)
class Place:
    """Identity of a run and of its present start.

    Attributes:
        directory: Directory of the run.
        name: Name of the run.
        run: Identifier of the run, equal in all its starts.
        start: Number of this start of the run, from 1.
        version: Version of the checkpoint that this start resumed from; None: no checkpoint.
        env_steps: Environment steps at that version.
        guard: Raises HpcmarlError if nothing may be written any more, because another job owns the directory;
            None: no check.
    """

    directory: Path
    name: str
    run: str
    start: int = 1
    version: int | None = None
    env_steps: int = 0
    guard: Callable[[], object] | None = None

    @property
    def supersedes(self) -> bool:
        """Whether earlier rows may exist that this start replaces."""
        return self.start > 1 or self.version is not None


class Tracker(ABC):
    """Writes the metrics of one run in the format of one tool.

    A background thread calls the methods (background.py). They may block and raise. A tracker outside hpcmarl
    is built with its configuration and the place: `Mine(config, place)`.

    Attributes:
        config_class: Keys of a tracker outside hpcmarl in `logging.trackers`.
    """

    config_class: ClassVar[type[TrackerConfig]] = TrackerConfig

    @abstractmethod
    def row(self, version: int, env_steps: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Write a row of metrics.

        Args:
            version: Version of the row. A second row of one version replaces the first.
            env_steps: Environment steps of the whole run.
            seconds: Training time of the whole run, seconds.
            figures: Other metrics by name; finite only.
        """

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> None:
        """Write the configuration of the run."""

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """Write the results of the run."""

    @abstractmethod
    def close(self) -> None:
        """Finish the files."""


def finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are finite numbers."""
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def without_nonfinite(tree: Any) -> Any:
    """Return nested dictionaries and lists with None in place of non-finite numbers."""
    if isinstance(tree, Mapping):
        return {str(name): without_nonfinite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_nonfinite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
