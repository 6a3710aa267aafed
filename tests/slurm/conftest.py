"""One cluster for all tests of this directory.

The cluster is always stopped at the end, even if pytest is killed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import CONFIG, ROOT, TOOL, Cluster, missing_programs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if reason := missing_programs():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("slurm")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "OMPI_", "PMI", "OMP_"))
    }
    environ |= {
        "SLURM_CONF": str(directory / "cluster" / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    (directory / "tiny.yaml").write_text(CONFIG)
    command = [TOOL, "start", directory / "cluster", "--nodes", "3", "--until-end-of", str(os.getpid())]
    started = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    try:
        assert started.returncode == 0, started.stderr
        yield Cluster(directory, environ)
    finally:
        stopped = subprocess.run(
            [TOOL, "stop", directory / "cluster"], capture_output=True, text=True, timeout=60, check=False
        )
    assert stopped.returncode == 0, stopped.stderr
