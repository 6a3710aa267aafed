"""Lanes of the test suite, and which tests may run beside each other (tools/test: `pytest -n 3 --dist loadgroup`).

Folders say what a test needs:

- unit: no process and no run; enforced here.
- runs: whole runs on virtual ranks, in the test's own process.
- process: other processes, but no MPI ranks.
- mpi: real ranks. slurm: a throw-away Slurm cluster. faults: killed and frozen ranks. learning: runs that must learn.

Lanes (`--lane`) say what is run: `quick` only tests/unit, `default` everything but tests marked `long`, `all` these too.
"""

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from hpcmarl.launch.threads import VARIABLES

pytest_plugins = ["tests.support.fixtures"]

# For MPI's ranks and for virtual ones, which live in the tests' own process, whatever the user has set: so they add up in the same order.
os.environ.update(dict.fromkeys(VARIABLES, "1"))

LANES = ("quick", "default", "all")
QUICK = ("unit", "test_layers.py")
ORDER = ("slurm", "faults", "mpi", "learning", "process", "runs", "unit")  # what waits most begins first
SLOW_SECONDS = 10.0  # a test of the default lane that takes longer says why: @pytest.mark.slow("reason")
STARTS_PROCESS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "pty.spawn")

_guarded: list[str] = []  # the unit test that is running


def folder_of(nodeid: str) -> str:
    """The folder, or file, below tests/ of a test."""
    return PurePosixPath(nodeid.partition("::")[0]).parts[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lane", choices=LANES, default="default", help="quick: tests/unit alone; default: all but tests marked long; all: everything")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the lane's tests, group those that share something costly, and begin with those that wait most."""
    lane = config.getoption("--lane")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        for name in ("long", "slow"):
            marker = item.get_closest_marker(name)
            if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
                raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{name} needs its reason: @pytest.mark.{name}('why')")
        is_long = item.get_closest_marker("long") is not None
        chosen = not is_long if lane == "default" else folder_of(item.nodeid) in QUICK and not is_long if lane == "quick" else True
        (kept if chosen else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    for item in kept:
        if (group := group_of(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))
    place = {name: number for number, name in enumerate(ORDER)}
    items[:] = sorted(kept, key=lambda item: place.get(folder_of(item.nodeid), len(ORDER)))


def group_of(item: pytest.Item) -> str | None:
    """The group whose tests one worker runs one after the other; None for a test that may run anywhere.

    tests/slurm shares one cluster; tests marked `timing` would disturb each other; a file with a module's fixture would make it again
    in every worker.
    """
    if folder_of(item.nodeid) == "slurm":
        return "slurm"
    if item.get_closest_marker("timing") is not None:
        return "timing"
    if item.get_closest_marker("xdist_group") is not None:
        return None  # it has one
    fixtures = getattr(item, "_fixtureinfo", None)
    definitions = [] if fixtures is None else [each for several in fixtures.name2fixturedefs.values() for each in several]
    return item.nodeid.partition("::")[0] if any(each.scope == "module" for each in definitions) else None


# ---- unit tests start no process


def _importing() -> bool:
    """Whether a package is being imported: one of ours needs a package that asks another interpreter which library it would find."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _refuse_processes(event: str, arguments: Any) -> None:
    if _guarded and event in STARTS_PROCESS and not _importing():
        raise AssertionError(f"{_guarded[0]} starts a process ({event}: {arguments[0]!r}); it belongs into tests/process")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch a unit test, its fixtures included."""
    if folder_of(item.nodeid) == "unit":
        _guarded.append(item.nodeid)
    try:
        return (yield)
    finally:
        _guarded.clear()


# ---- slow tests say why


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the tests that took longer than SLOW_SECONDS without a reason."""
    seconds: dict[str, float] = {}
    explained = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
                if {"slow", "long"} & set(report.keywords):
                    explained.add(report.nodeid)
    unexplained = sorted((name for name in seconds if seconds[name] > SLOW_SECONDS and name not in explained), key=seconds.__getitem__)
    if unexplained:
        terminalreporter.section(f"tests over {SLOW_SECONDS:g} s that do not say why (@pytest.mark.slow)")
        for name in reversed(unexplained):
            terminalreporter.write_line(f"{seconds[name]:6.1f} s  {name}")
