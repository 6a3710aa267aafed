"""Lanes of the test suite, and groups of tests that must not run in parallel.

The folder of a test shows its needs:

- unit: no other process and no run; enforced here.
- runs: whole runs on virtual ranks, in the process of the test.
- process: other processes, but no MPI ranks.
- mpi: real ranks.
- slurm: a throw-away Slurm cluster.
- faults: killed and frozen ranks.
- learning: runs that must learn.

The lane (`--lane`) selects tests:

- quick: only tests/unit.
- default: everything except tests/slurm and tests marked `long`.
- ci: also tests/slurm.
- all: everything.

tools/test runs pytest with `-n N --dist loadscope`.
"""

import functools
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from hpcmarl.threads import VARIABLES

pytest_plugins = ["tests.support.fixtures"]

# One thread for MPI ranks and for virtual ranks, which live in the process of the test. Settings of the user
# are overridden, so that sums are always added in the same order.
os.environ.update(dict.fromkeys(VARIABLES, "1"))

LANES = ("quick", "default", "ci", "all")
QUICK = ("unit", "test_layers.py")
# folders in the order of their start: tests that mostly wait begin first
ORDER = ("slurm", "faults", "mpi", "learning", "process", "runs", "unit")
# a longer test of the default lane must give a reason: @pytest.mark.slow("reason")
SLOW_SECONDS = 10.0
STARTS_PROCESS = (
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "pty.spawn",
)

_guarded: list[str] = []  # node id of the running unit test


def folder_of(nodeid: str) -> str:
    """Return the folder, or the file, below tests/ that contains a test."""
    return PurePosixPath(nodeid.partition("::")[0]).parts[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option --lane."""
    about = (
        "quick: only tests/unit; default: all except tests/slurm and tests marked long; "
        "ci: also tests/slurm; all: everything"
    )
    parser.addoption("--lane", choices=LANES, default="default", help=about)


def is_chosen(item: pytest.Item, lane: str, named: Sequence[str]) -> bool:
    """Return whether a test belongs to a lane or is named on the command line.

    A test can be named by its node id, and the tests of tests/slurm also by their folder.
    """
    folder = folder_of(item.nodeid)
    if lane == "all" or any("::" in name or (folder == "slurm" and "tests/slurm" in name) for name in named):
        return True
    if item.get_closest_marker("long") is not None or (lane == "quick" and folder not in QUICK):
        return False
    return folder != "slurm" or lane == "ci"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests of the lane and sort those that mostly wait to the front."""
    lane = config.getoption("--lane")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        for name in ("long", "slow"):
            marker = item.get_closest_marker(name)
            if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
                raise pytest.UsageError(
                    f"{item.nodeid}: @pytest.mark.{name} needs a reason: @pytest.mark.{name}('reason')"
                )
        (kept if is_chosen(item, lane, config.args) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    place = {name: number for number, name in enumerate(ORDER)}
    items[:] = sorted(kept, key=lambda item: place.get(folder_of(item.nodeid), len(ORDER)))


def group_of(nodeid: str) -> str:
    """Return the group of a test; one worker runs the tests of a group in sequence.

    Most tests have their own group. The exceptions:

    - tests/slurm: all tests share a cluster.
    - tests/faults: failures are detected by seconds of silence.
    - test_shared_ranks.py: the checks of one MPI library share a world.
    - Files with module fixtures: every worker would make the fixture again.
    """
    path = nodeid.partition("::")[0]
    if folder_of(nodeid) in ("slurm", "faults"):
        return folder_of(nodeid)
    if path.endswith("/test_shared_ranks.py"):
        return nodeid.partition("[")[2].partition("-")[0] or nodeid
    return path if _has_module_fixture(path) else nodeid


@functools.cache
def _has_module_fixture(path: str) -> bool:
    return 'scope="module"' in (Path(__file__).parents[1] / path).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give one group of tests at a time, in order, to the next free worker.

    The marks of xdist's loadgroup are no alternative: they are written into node ids, which pytest 9.2 does
    not read any more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


# ---- unit tests start no process


def _importing() -> bool:
    """Return whether an import is in progress.

    While it is imported, a dependency of the package runs another interpreter to find a library. This is
    allowed.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _refuse_processes(event: str, arguments: Any) -> None:
    if _guarded and event in STARTS_PROCESS and not _importing():
        raise AssertionError(
            f"{_guarded[0]} starts a process ({event}: {arguments[0]!r}); move it to tests/process"
        )


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch a unit test, including its fixtures."""
    if folder_of(item.nodeid) == "unit":
        _guarded.append(item.nodeid)
    try:
        return (yield)
    finally:
        _guarded.clear()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop watching before session fixtures end.

    Session fixtures end with the last test, in any folder. One of them starts a program that stops a Slurm
    cluster.
    """
    if nextitem is None:
        _guarded.clear()
    return (yield)


# ---- slow tests must give a reason


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the tests that took longer than SLOW_SECONDS without a reason."""
    seconds: dict[str, float] = {}
    explained = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
                if {"slow", "long"} & set(report.keywords):
                    explained.add(report.nodeid)
    unexplained = sorted(
        (name for name in seconds if seconds[name] > SLOW_SECONDS and name not in explained),
        key=seconds.__getitem__,
    )
    if unexplained:
        terminalreporter.section(f"tests over {SLOW_SECONDS:g} s without a reason (@pytest.mark.slow)")
        for name in reversed(unexplained):
            terminalreporter.write_line(f"{seconds[name]:6.1f} s  {name}")
