"""System calls that fail on one rank, in real processes.

The other ranks continue, and the run reports the lost data.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from hpcmarl.io.describe import run_files, verify_file
from tests.support.launch import Job, mpi_command, ranks_take_seconds, run
from tests.support.worlds import SPREAD, summary

pytestmark = [
    pytest.mark.mpi,
    ranks_take_seconds,
    pytest.mark.skipif(
        shutil.which("cc") is None, reason="needs a C compiler, cc, to interpose system calls"
    ),
]
SOURCE = Path(__file__).parents[1] / "support" / "failing_calls.c"
KEPT = (
    "trajectories={enabled: true, shard_seconds: 0.3}",
    "checkpoint.every_updates=5",
    "logging.every_seconds=0.001",
    "stop.updates=60",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that interposes the system calls."""
    path = tmp_path_factory.mktemp("interposed") / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE), "-ldl"], check=True)
    return path


def train(
    tmp_path: Path, library: Path, rank: int, number: int, text: str, *changes: str, after: int = 0
) -> Job:
    config = tmp_path / "config.yaml"
    config.write_text(SPREAD)
    arguments = ["-m", "hpcmarl", "train", str(config), "--run-dir", str(tmp_path / "run"), *KEPT, *changes]
    command, environment = mpi_command("openmpi", 3, [sys.executable, *arguments])
    failing = {
        "FAILING_RANK": str(rank),
        "FAILING_PATH": text,
        "FAILING_ERRNO": str(number),
        "FAILING_AFTER": str(after),
    }
    return run(command, {**environment, **failing, "LD_PRELOAD": str(library)}, limit=120)


@pytest.mark.parametrize(
    "number",
    [
        errno.EIO,
        errno.ENOSPC,
        errno.ESTALE,
        pytest.param(errno.EROFS, marks=pytest.mark.long("one more error")),
    ],
)
def test_actor_that_cannot_write_holds_nobody_up(number: int, tmp_path: Path, library: Path) -> None:
    job = train(tmp_path, library, 2, number, "/trajectories/rank-0002/", after=20)
    assert job.code == 0, job.text
    assert summary(tmp_path / "run")["status"] == "finished"
    assert all(
        verify_file(path)["status"] == "good"
        for path in run_files(tmp_path / "run")
        if path.suffix != ".partial"
    )
    assert list((tmp_path / "run").glob("trajectories/rank-0001/*.h5"))
    assert "cannot write trajectories" in (tmp_path / "run" / "logs" / "rank-0002.log").read_text()


@pytest.mark.parametrize(
    "number", [errno.ESTALE, pytest.param(errno.EIO, marks=pytest.mark.long("one more error"))]
)
def test_server_that_cannot_write_checkpoints_fails_at_the_end(
    number: int, tmp_path: Path, library: Path
) -> None:
    job = train(tmp_path, library, 0, number, "/checkpoints/", after=120)
    assert job.code == 1, job.text
    told = summary(tmp_path / "run")
    assert told["checkpoint_error"]
    assert "the last checkpoint is not written" in job.text
    for path in list_checkpoints(tmp_path / "run"):
        load_checkpoint(path)


def test_server_that_cannot_write_metrics_finishes(tmp_path: Path, library: Path) -> None:
    job = train(tmp_path, library, 0, errno.EIO, "/metrics.csv", after=10)
    assert job.code == 0, job.text
    assert "metrics.csv: cannot write" in job.text
    assert summary(tmp_path / "run")["updates"] == 60
