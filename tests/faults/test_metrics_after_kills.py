"""Rows of metrics after real ranks are killed.

No version occurs twice, and the figures of groups are no older than the rows.
"""

import csv

import pytest

from hpcmarl.bench.faults.jobs import Job, Progress, wait_until
from hpcmarl.io.describe import verify_file
from hpcmarl.io.metrics import read_groups
from tests.support.launch import ranks_take_seconds
from tests.support.worlds import SPREAD

pytestmark = [pytest.mark.mpi, ranks_take_seconds]
LONG = "stop.updates=1000000"


def versions_in(directory):
    with (directory / "metrics.csv").open(newline="") as stream:
        return [int(row["version"]) for row in csv.DictReader(stream)]


@pytest.mark.slow("three starts of real ranks")
@pytest.mark.timeout(200)
def test_no_version_is_twice_after_real_kills(tmp_path):
    run = tmp_path / "run"
    (tmp_path / "c.yaml").write_text(SPREAD)
    train = [
        "train",
        str(tmp_path / "c.yaml"),
        "-n",
        "2",
        "--run-dir",
        str(run),
        "logging.every_seconds=0.001",
    ]

    def killed_at(rows, *changes):
        """Kill a start once it has reached version `rows`; return the versions in metrics.csv."""
        job = Job([*train, LONG, *changes], tmp_path / "out")
        try:
            assert wait_until(lambda: Progress(run).version >= rows, 60), job.closing_lines()
        finally:
            job.kill()
        assert verify_file(run / "metrics.csv")["status"] == "good"
        groups, versions = read_groups(run), versions_in(run)
        assert len(versions) - len(groups.version) in (0, 1)
        assert groups.version.tolist() == versions[: len(groups.version)]
        return versions

    first = killed_at(20)  # before the first checkpoint
    assert first == [*range(1, len(first) + 1)]
    job = Job([*train, "stop.updates=8", "--resume", "auto"], tmp_path / "out")
    try:
        assert job.process.wait(60) == 0, job.closing_lines()
    finally:
        job.kill()
    assert versions_in(run) == [*range(1, 9)]
    resumed = killed_at(20, "--resume", "auto")
    assert resumed == [*range(1, len(resumed) + 1)]
