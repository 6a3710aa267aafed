"""One thread for each process of the tests; and which of them may run beside each other (`pytest -n 3 --dist loadscope`, as tools/test does)."""

import os
from pathlib import PurePosixPath
from typing import Any

import pytest

from hpcmarl.launch.threads import VARIABLES

# For MPI's ranks and for virtual ones, which live in the tests' own process, whatever the user has set: so they add up in the same order.
os.environ.update(dict.fromkeys(VARIABLES, "1"))

# One cluster serves all of tests/slurm; of each other room that starts MPI ranks one test runs at a time. Unit tests go anywhere.
# These rooms come first in the alphabet, hence first of all (--no-loadscope-reorder): each takes minutes, much of them waiting.
TOGETHER = ("faults", "mpi", "slurm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker for all tests of a room in TOGETHER, one for each other file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            room = PurePosixPath(path).parts[1]
            return room if room in TOGETHER else path

    return ByRoom(config, log)
