"""`hpcmarl bench faults` with a few kills of the whole job.

The job recovers from every kill, and no process is left running.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmarl.bench.faults.jobs import Job, Progress, wait_until
from hpcmarl.io.describe import run_files, verify_file
from tests.support.launch import ranks_take_seconds

pytestmark = [pytest.mark.mpi, ranks_take_seconds]

ROOT = Path(__file__).parents[2]
TEST_MARK = "HPCMARL_TEST_CAMPAIGN"
CONFIG = """
env: {id: mpe2.simple_spread_v3}
algo: {unroll: 5, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {seconds: 600}
logging: {progress: false, every_seconds: 0.001}
"""


@pytest.fixture
def campaign_environment(tmp_path):
    """Return environment variables for a campaign; all of its jobs inherit them."""
    return {**os.environ, TEST_MARK: str(tmp_path)}


def processes_of(environment):
    """Return the ids of living processes that have inherited the environment of a campaign."""
    wanted, found = f"{TEST_MARK}={environment[TEST_MARK]}".encode(), []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(entry.parent.name)] if wanted in entry.read_bytes().split(b"\0") else []
        except OSError:
            continue
    return found


LONG = pytest.mark.long("a kill campaign")


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("kills", "ranks", "reduce"),
    [(2, 2, "server"), pytest.param(3, 4, "server", marks=LONG), pytest.param(3, 3, "mpi", marks=LONG)],
)
def test_killed_job_is_resumed_after_each_kill(tmp_path, campaign_environment, kills, ranks, reduce):
    options = [
        "--kills",
        str(kills),
        "-n",
        str(ranks),
        "--seed",
        "7",
        "--what",
        "job",
        "--run-dir",
        str(tmp_path),
        "--json",
        "--reduce",
        reduce,
    ]
    command = [sys.executable, "-m", "hpcmarl", "bench", "faults", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=270, env=campaign_environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    assert (result["injected"], result["survived"], result["resumed"], result["corrupt_files"]) == (
        kills,
        0,
        kills,
        0,
    )
    assert result["failures"] == []
    assert result["exit_code"] == 75
    assert result["files_verified"] >= 1 + kills
    assert result["recovery_seconds_median"] > 0
    assert result["lost_updates_max"] >= result["lost_updates_median"] >= 0
    assert result["updates"] > kills
    assert all(verify_file(path)["status"] == "good" for path in run_files(tmp_path / "run"))
    assert not processes_of(campaign_environment)


def test_bench_faults_rejects_running_inside_mpirun(run, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    code, _, err = run("bench", "faults")
    assert code == 2
    assert "outside mpirun" in err


def test_job_that_cannot_start_is_reported_in_one_line(run, tmp_path):
    (tmp_path / "run").write_text("in the way")
    code, _, err = run("bench", "faults", "--kills", "1", "--run-dir", tmp_path)
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "a file, not a directory" in err


def test_terminated_campaign_leaves_no_processes(tmp_path, campaign_environment):
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "bench",
        "faults",
        "--kills",
        "5",
        "--run-dir",
        str(tmp_path),
        "--json",
    ]
    campaign = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=campaign_environment
    )
    try:
        assert wait_until(lambda: len(processes_of(campaign_environment)) > 3, 60)
        campaign.terminate()
        output, _ = campaign.communicate(timeout=60)
    finally:
        campaign.kill()
    assert campaign.returncode == 1
    assert json.loads(output)["injected"] == 0
    assert not processes_of(campaign_environment)


def test_corrupt_files_are_counted(tmp_path):
    """The campaign counts a file once if it has a final name but does not verify."""
    import numpy as np

    from hpcmarl.bench.faults.campaign import Campaign

    campaign = Campaign(tmp_path, "job", 4, np.random.default_rng(0))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "checkpoint-0000000001.h5").write_bytes(b"\x89HDF half a file")
    (tmp_path / "run" / "checkpoints" / "checkpoint-0000000002.h5.partial").write_bytes(b"half")
    campaign._judge()
    campaign._judge()
    assert len(campaign.tally.corrupt) == 1
    assert "checkpoint-0000000001.h5" in campaign.tally.corrupt[0]
    assert campaign.checkpoint == (None, 0)


def test_kill_ends_the_job_and_all_its_ranks(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    job = Job(["train", str(tmp_path / "c.yaml"), "-n", "2", "--run-dir", str(run)], tmp_path / "out")
    try:
        assert wait_until(lambda: Progress(run).version > 1, 120), job.closing_lines()
        processes = job.processes()
        assert sorted(rank for rank in processes.values() if rank is not None) == [0, 1]
        assert job.process.pid in processes
    finally:
        job.kill()
    assert job.processes() == {}
    assert not job.running
