"""Which tests may run beside each other where there are several workers (`pytest -n 3 --dist loadscope`, as tools/test does)."""

from pathlib import PurePosixPath
from typing import Any

import pytest

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
