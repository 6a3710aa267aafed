"""A run with the real wandb offline: no connection, files in the run directory, and one identity."""

import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.launch import run
from tests.support.waiting import has_ended, wait_until
from tests.support.wandb_files import history, without_network
from tests.support.worlds import SPREAD, summary

pytest.importorskip("wandb")


def command(tmp_path, *changes):
    (tmp_path / "run.yaml").write_text(SPREAD)
    often = "logging.every_seconds=0.0001"
    start = [sys.executable, "-m", "hpcmarl", "train", str(tmp_path / "run.yaml"), "logging.wandb=offline"]
    return [*start, often, "--run-dir", str(tmp_path / "run"), *changes]


def prefix_without_network():
    """Return a command prefix for a network namespace without any network; empty if it is not allowed."""
    prefix = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        return []
    return prefix


def test_offline_run_connects_to_nothing_and_resumes(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {**without_network(tmp_path), "HOME": str(home)}
    prefix = prefix_without_network()
    first = run([*prefix, *command(tmp_path)], environment)
    assert first.code == 0, first.text
    assert "wandb stops" not in first.text
    place = tmp_path / "run"
    [found] = (place / "wandb").glob("offline-run-*/")
    rows = history(place)
    assert [row["_step"] for row in rows] == list(range(1, 7))
    assert rows[-1]["env_steps"] == summary(place)["env_steps"]
    assert all(isinstance(value, int | float) for row in rows for value in row.values())
    assert not [path for path in home.rglob("*") if path.is_file() and "wandb" in path.as_posix()]
    second = run([*prefix, *command(tmp_path, "stop.updates=9", "--resume", str(place))], environment)
    assert second.code == 0, second.text
    assert "wandb stops" not in second.text
    starts = sorted((place / "wandb").glob("offline-run-*/"))
    assert len(starts) == 2
    assert len({path.name.rpartition("-")[2] for path in starts}) == 1
    assert found in starts
    # The first row of the second start is that of its checkpoint or a later one.
    assert {row["_step"] for row in history(place)} == set(range(1, 10))


@pytest.mark.parametrize("victim", ["rank", "wandb-core"])
def test_killed_rank_or_service_leaves_the_other_unharmed(tmp_path, victim):
    environment = without_network(tmp_path)
    process = subprocess.Popen(
        command(tmp_path, "stop.updates=null", "stop.seconds=600"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )

    def service():
        done = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "wandb-core"], capture_output=True, text=True
        )
        return int(done.stdout) if done.stdout.strip() else None

    try:
        wait_until(lambda: list((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")) or process.poll())
        core = service()
        assert core is not None
        if victim == "rank":
            process.kill()
            process.wait()
            wait_until(lambda: has_ended(core))
            return
        subprocess.run(["kill", "-9", str(core)], check=True)
        assert any("wandb stops: " in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
