"""Which tests may run beside each other where there are several workers (`pytest -n 2 --dist loadgroup`, as tools/test does)."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# One cluster serves all of tests/slurm; jobs of MPI ranks take all cores, so they come one after the other. Unit tests go anywhere.
TOGETHER = {"slurm": "slurm", "mpi": "ranks", "faults": "ranks", "test_readme.py": "ranks"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if group := TOGETHER.get(item.path.relative_to(TESTS).parts[0]):
            item.add_marker(pytest.mark.xdist_group(group))
