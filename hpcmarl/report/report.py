"""Make a report about runs and write it, once or again and again while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import write_text
from hpcmarl.report.blocks import Section
from hpcmarl.report.curves import AXIS_TITLES, Curves, positions
from hpcmarl.report.grouping import RunGroup, group_runs
from hpcmarl.report.page import GENERATOR, page
from hpcmarl.report.runs import ReportedRun, find_runs, read_runs
from hpcmarl.report.sections.health import configuration_section, faults_section, sparsity_section
from hpcmarl.report.sections.league import league_section
from hpcmarl.report.sections.learning import learning_section, losses_section
from hpcmarl.report.sections.overview import differences_section, runs_section
from hpcmarl.report.sections.speed import ranks_section, rounds_section, speed_section
from hpcmarl.report.sections.sweep import sweep_section

HEAD_BYTES = 4096  # of a file, which are searched for the mark of a report
LIVE = ("running", "empty")


@dataclass(frozen=True)
class Written:
    """A written report.

    Attributes:
        path: The file.
        runs: Directories of its runs.
        states: State of each run.
        file_bytes: Size of the file, bytes.
        problems: Files of the runs that could not be read, one line each.
    """

    path: Path
    runs: list[str]
    states: list[str]
    file_bytes: int
    problems: list[str]

    @property
    def live(self) -> bool:
        """Whether a run has not ended."""
        return any(state in LIVE for state in self.states)


def sections_of(runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> list[Section]:
    """Return all sections that have something to show, differences first."""
    curves = Curves(runs, groups)
    sections = [
        differences_section(runs, groups),
        runs_section(runs, groups),
        sweep_section(runs),
        learning_section(runs, groups, curves),
        speed_section(runs, curves),
        ranks_section(runs),
        rounds_section(runs, curves),
        losses_section(runs, curves),
        league_section(runs, curves),
        sparsity_section(runs),
        faults_section(runs, curves),
        configuration_section(runs, groups),
    ]
    return [section for section in sections if section is not None]


def html(runs: Sequence[ReportedRun], title: str, *, refresh: float | None = None) -> str:
    """Return the report about runs as HTML.

    Args:
        runs: The runs.
        title: Title of the page.
        refresh: Seconds after which the browser reads the file again; None: never.
    """
    groups = group_runs(runs)
    group_of = {number: place for place, group in enumerate(groups) for number in group.runs}
    data: dict[str, Any] = {
        "runs": [
            {"label": run.label, "group": group_of[number], "axes": positions(run)}
            for number, run in enumerate(runs)
        ],
        "groups": [{"name": group.name, "runs": group.runs} for group in groups],
        "axis_titles": AXIS_TITLES,
    }
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    facts = (
        f"{count}, {len(groups)} configurations; made {made}" if len(groups) > 1 else f"{count}; made {made}"
    )
    return page(title, facts, sections_of(runs, groups), data, refresh=refresh)


def check_target(path: Path) -> None:
    """Check that a report may be written to a file.

    Raises:
        UsageError: If the name does not end with .html, its directory does not exist, or the file exists and
            is no report.
    """
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {path}: allowed: a name that ends with .html")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise UsageError(f"--out {path}: a directory; name a file")
    if path.exists():
        with path.open("rb") as stream:
            if GENERATOR.encode() not in stream.read(HEAD_BYTES):
                raise UsageError(f"--out {path}: exists and is no report; choose another name or delete it")


def write_report(
    paths: Sequence[Path],
    target: Path,
    title: str | None = None,
    *,
    refresh: float | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Written:
    """Read runs and write the report about them.

    Args:
        paths: Run directories, or directories that hold runs.
        target: File to write; a report in its place is replaced.
        title: Title of the page; None: made from the names of the runs.
        refresh: Seconds after which the browser reads the file again; None: never.
        on_progress: Called after each run that was read, with its number and that of all runs.

    Raises:
        FormatError: If a path holds no run.
        StorageError: If the file cannot be written.
        MissingPackageError: If a package is not installed.
    """
    runs = read_runs(find_runs(paths), on_progress)
    names = sorted({run.setting("name") or run.label for run in runs})
    default = names[0] if len(names) == 1 else f"{len(runs)} runs: {', '.join(names)}"
    live = any(run.state.state in LIVE for run in runs)
    text = html(runs, title or default[:100], refresh=refresh if live else None)
    write_text(target, text)
    return Written(
        target,
        [str(run.path) for run in runs],
        [run.state.state for run in runs],
        len(text.encode()),
        [problem for run in runs for problem in run.problems],
    )


def follow_report(
    paths: Sequence[Path],
    target: Path,
    title: str | None,
    seconds: float,
    show: Callable[[Written], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Written:
    """Write a report again and again until all runs have ended.

    Args:
        paths: As of `write_report`.
        target: File to write.
        title: Title of the page.
        seconds: Time between two reports, seconds; the browser reads the file again as often.
        show: Called after each report.
        sleep: Function that waits.

    Returns:
        The last report.
    """
    while True:
        written = write_report(paths, target, title, refresh=seconds)
        show(written)
        if not written.live:
            return written
        sleep(seconds)
