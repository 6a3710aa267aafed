"""Which tests may run beside each other where there are several workers (`pytest -n 2 --dist loadscope`, as tools/test does)."""

from pathlib import PurePosixPath
from typing import Any

import pytest

# One cluster serves all of tests/slurm; jobs of MPI ranks take all cores, so they come one after the other. Unit tests go anywhere.
TOGETHER = {"slurm": "slurm", "mpi": "ranks", "faults": "ranks", "test_readme.py": "ranks"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker for all tests of a room in TOGETHER, one for each other file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return TOGETHER.get(PurePosixPath(path).parts[1], path)

    return ByRoom(config, log)
