"""Groups of runs that differ in nothing but their seed, and the differences between the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpcmarl.report.runs import ReportedRun

# Keys that do not change what is learned. Runs that differ in these alone are of one group.
NOT_COMPARED = ("seed", "name", "logging.", "slurm.", "checkpoint.", "trajectories.")
MOST_IN_NAME = 3  # differing keys that the name of a group can have
LONGEST_VALUE = 40  # characters of a value in a name
UNKNOWN = "unknown configuration"


@dataclass
class RunGroup:
    """Runs of one configuration.

    Attributes:
        name: Short name, such as "optimizer.step_size: 0.003".
        runs: Its runs, as numbers of the report's list.
        settings: Compared values by dotted key.
    """

    name: str = ""
    runs: list[int] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


def compared(run: ReportedRun) -> dict[str, str]:
    """Return the settings that decide on the group of a run."""
    return {key: value for key, value in run.settings.items() if not key.startswith(NOT_COMPARED)}


def group_runs(runs: Sequence[ReportedRun]) -> list[RunGroup]:
    """Group runs by configuration, in order of their first run. A run without a configuration is alone."""
    groups: list[RunGroup] = []
    for number, run in enumerate(runs):
        settings = compared(run)
        same = next((group for group in groups if settings and group.settings == settings), None)
        if same is None:
            groups.append(RunGroup(runs=[number], settings=settings))
        else:
            same.runs.append(number)
    _name(groups, runs)
    return groups


def _name(groups: Sequence[RunGroup], runs: Sequence[ReportedRun]) -> None:
    keys = differing_keys([group.settings for group in groups if group.settings])
    for number, group in enumerate(groups):
        letter = chr(ord("A") + number) if number < 26 else f"A{number}"
        names = {runs[place].setting("name") or runs[place].label for place in group.runs}
        if not group.settings:
            group.name = f"{UNKNOWN} ({runs[group.runs[0]].label})"
        elif len(groups) == 1:
            group.name = min(names)
        elif 0 < len(keys) <= MOST_IN_NAME:
            group.name = ", ".join(f"{key}: {_short(group.settings.get(key, '-'))}" for key in keys)
        else:
            group.name = f"{letter}: {min(names)}"


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - 1] + "…"


def differing_keys(settings: Sequence[dict[str, str]]) -> list[str]:
    """Return the keys whose values are not the same everywhere, in the order in which they first appear."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]
