"""The runs of a report, read from their directories. Whatever is missing or damaged is left out and named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config.differences import flat
from hpcmarl.config.yaml_text import parse
from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.activity import RankActivity, activity_files, read_activity
from hpcmarl.io.atomic import read_bytes
from hpcmarl.io.metrics import CSV, HDF5, GroupHistory, read_groups, read_metrics
from hpcmarl.io.run_state import RunState, read_run_state
from hpcmarl.io.starts import DIRECTORY as STARTS
from hpcmarl.io.starts import Start, read_starts
from hpcmarl.league.commands.reader import read_league
from hpcmarl.league.core.summary import summarise
from hpcmarl.types import Array

LARGEST_CONFIG = 1 << 20  # bytes


@dataclass
class ReportedRun:
    """What a report knows about one run.

    Attributes:
        path: The run directory.
        label: Short name, unique in the report.
        state: Whether it is running, finished, interrupted, failed or killed.
        config_text: config.yaml; empty if it is missing.
        settings: Values of config.yaml by dotted key, in YAML's short form.
        columns: Metrics, column -> [row].
        groups: Figures of single groups; None: there are none.
        starts: Its starts, oldest first.
        activity: Number of a start -> what its ranks have spent their time on.
        league: Summary of the league; None: the run is none.
        problems: Files that could not be read, one line each.
    """

    path: Path
    label: str
    state: RunState
    config_text: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Array] = field(default_factory=dict)
    groups: GroupHistory | None = None
    starts: list[Start] = field(default_factory=list)
    activity: dict[int, RankActivity] = field(default_factory=dict)
    league: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """Figures at the end of the run (summary.json); empty if it has not ended."""
        return self.state.summary or {}

    @property
    def rows(self) -> int:
        """Number of metrics rows."""
        return len(self.columns.get("version", ()))

    def last(self, column: str) -> float | None:
        """Return the newest finite value of a column; None: there is none."""
        values = self.columns.get(column, np.zeros(0))
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else None

    def setting(self, key: str) -> str:
        """Return a value of the configuration as text; empty if it has none."""
        return self.settings.get(key, "")

    @cached_property
    def newest_activity(self) -> RankActivity | None:
        """What the ranks of the newest start have spent their time on; None: unknown."""
        return self.activity[max(self.activity)] if self.activity else None


def is_run(path: Path) -> bool:
    """Return whether a directory holds a run, or the beginning of one."""
    return any((path / name).exists() for name in ("config.yaml", CSV, HDF5, STARTS))


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run directories that paths name.

    Args:
        paths: Run directories, or directories that hold run directories.

    Raises:
        FormatError: If a path is no run and holds none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FormatError(f"{path}: no such directory")
        if not path.is_dir():
            raise FormatError(f"{path}: a file; name the directory of a run, or one that holds runs")
        inner = [path] if is_run(path) else [each for each in sorted(path.iterdir()) if is_run(each)]
        if not inner:
            raise FormatError(f"{path}: not a run directory, and holds none")
        found += [each for each in inner if each not in found]
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths: as few as make all of them differ."""
    whole = [Path(os.path.abspath(path)).parts for path in paths]
    longest = max(map(len, whole), default=1)
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_runs(
    paths: Sequence[Path], on_progress: Callable[[int, int], object] = lambda done, total: None
) -> list[ReportedRun]:
    """Read run directories.

    Args:
        paths: Directories of runs (`find_runs`).
        on_progress: Called at the beginning and after each run, with the numbers of runs read and of all.
    """
    runs = list[ReportedRun]()
    on_progress(0, len(paths))
    for path, label in zip(paths, short_names(paths), strict=True):
        runs.append(read_run(path, label))
        on_progress(len(runs), len(paths))
    return runs


def read_run(path: Path, label: str) -> ReportedRun:
    """Read a run directory. Nothing is raised for files that are missing, damaged or being replaced.

    Args:
        path: The run directory.
        label: Name of the run in the report.
    """
    run = ReportedRun(path, label, read_run_state(path))

    def attempt(read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except (HpcmarlError, OSError) as error:
            run.problems.append(str(error))
            return otherwise

    run.config_text = attempt(lambda: _config_text(path / "config.yaml"), "")
    run.settings = attempt(lambda: flat(parse(run.config_text, f"{path}/config.yaml")[0]), {})
    if run.state.state == "empty":
        return run
    if (path / CSV).exists() or (path / HDF5).exists():
        run.columns = attempt(lambda: read_metrics(path), {})
        run.groups = attempt(lambda: read_groups(path), None)
    elif run.state.state != "running":
        run.problems.append(f"{path}: has neither {CSV} nor {HDF5}: no update was made")
    starts: dict[int, Start] = attempt(lambda: read_starts(path), {})
    run.starts = [starts[number] for number in sorted(starts)]
    for number, file in activity_files(path).items():
        if (activity := attempt(partial(read_activity, file), None)) is not None:
            run.activity[number] = activity
    if any(key.startswith("league.") for key in run.settings) and (path / "pool").is_dir():
        run.league = attempt(lambda: summarise(read_league(str(path)).state), None)
    return run


def _config_text(path: Path) -> str:
    try:
        return read_bytes(path, LARGEST_CONFIG).decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is no text: {error}") from error
