"""Whole runs on disks that fail: full, read-only, gone, without locks. Training goes on or stops as configured, and what is there is good."""

import errno
import logging
import os
import shutil
import subprocess
import threading
import time

import h5py
import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import FormatError, StorageError
from hpcmarl.io import trajectory
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import CheckpointWriter, find_checkpoint, list_checkpoints, load_checkpoint
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.shard import ShardFile
from hpcmarl.io.shard_reader import ShardReader, list_shards
from hpcmarl.io.trajectory import TrajectoryWriter
from hpcmarl.roles.logfile import LogFile
from tests.rollouts import make_spec, random_rollout
from tests.worlds import run_world, summary

KEPT = ("trajectories={enabled: true, shard_seconds: 0.5}", "checkpoint.every_updates=1", "logging.every_seconds=0.001")
LONG = ("stop.updates=60",)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 MB of its own: small enough to fill up, too large for the runs here to do so."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs root and the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(place, left):
    """A file that leaves `left` bytes free."""
    ballast = place / "ballast"
    with ballast.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(place).free - left)))
    return ballast


class Reaction(logging.Handler):
    """Does something at the first record that contains some words."""

    def __init__(self, words, act):
        super().__init__()
        self.words, self.act, self.done = words, act, False

    def emit(self, record):
        if not self.done and self.words in record.getMessage():
            self.done = True
            self.act()


def all_good(directory):
    found = [verify_file(path) for path in run_files(directory)]
    return [item for item in found if item["status"] == "bad"] == []


def test_a_full_disk_is_told_survived_and_written_again_once_there_is_space(small_disk, caplog, monkeypatch):
    monkeypatch.setattr(trajectory, "RETRY_SECONDS", 0.05)
    run = small_disk / "run"
    ballast = fill_up(small_disk, 120_000)
    versions = []

    def free():
        versions.append(max((load_checkpoint(path)[1]["version"] for path in list_checkpoints(run)), default=0))
        assert all_good(run)
        ballast.unlink()

    reaction = Reaction("cannot write: No space left on device; the disk is full", free)
    logging.getLogger().addHandler(reaction)
    try:
        run_world(1, run, *KEPT, "stop={seconds: 4}")
    finally:
        logging.getLogger().removeHandler(reaction)
    assert reaction.done
    told = summary(run)
    assert told["status"] == "finished"
    assert told["checkpoint_error"] is None
    assert load_checkpoint(find_checkpoint(run))[1]["version"] == told["updates"] > versions[0]
    assert read_metrics(run)["version"][-1] == told["updates"]
    assert all_good(run)
    assert not list((run / "checkpoints").glob("*" + PARTIAL))
    assert all("Traceback" not in record.getMessage() for record in caplog.records)


def test_a_disk_that_stays_full_leaves_the_last_good_checkpoint(small_disk, caplog):
    run_world(1, small_disk / "run", *KEPT)
    before = find_checkpoint(small_disk / "run")
    fill_up(small_disk, 4096)
    run_world(1, small_disk / "run", *KEPT, "stop.updates=20", resume="auto")
    assert find_checkpoint(small_disk / "run") == before
    assert all_good(small_disk / "run")
    assert not list((small_disk / "run" / "checkpoints").glob("*" + PARTIAL))
    assert "free some space" in caplog.text


@pytest.mark.parametrize("key", ["checkpoint.on_error=stop", "trajectories.on_error=stop"])
def test_a_full_disk_stops_the_run_where_that_is_asked_for(small_disk, key):
    fill_up(small_disk, 120_000)
    with pytest.raises(StorageError, match=r"^[^\n]*No space left on device; the disk is full: free some space[^\n]*$"):
        run_world(1, small_disk / "run", *KEPT, *LONG, key)
    assert all_good(small_disk / "run")


NUMBERS = {
    errno.EROFS: "read-only: use --run-dir",
    errno.EACCES: "permission is denied: use --run-dir",
    errno.EDQUOT: "quota is used up",
    errno.ESTALE: "network file system",
    errno.EAGAIN: "HDF5_USE_FILE_LOCKING=FALSE",
    errno.ENOLCK: "HDF5_USE_FILE_LOCKING=FALSE",
    524: "HDF5_USE_FILE_LOCKING=FALSE",
}


def break_writing(monkeypatch, number):
    """From now on HDF5 cannot make files, as it words it."""
    true_file = h5py.File

    def file(name, mode="r", **options):
        if mode == "w":
            raise OSError(f"Unable to synchronously create file (unable to lock file, errno = {number}, error message = 'x')")
        return true_file(name, mode, **options)

    monkeypatch.setattr(h5py, "File", file)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_kind_of_failure_names_its_remedy_and_is_survived(tmp_path, monkeypatch, caplog, number):
    run_world(1, tmp_path / "run", *KEPT)
    before = find_checkpoint(tmp_path / "run")
    break_writing(monkeypatch, number)
    run_world(1, tmp_path / "run", *KEPT, "stop.updates=12", resume="auto")
    assert summary(tmp_path / "run")["updates"] == 12
    assert NUMBERS[number] in summary(tmp_path / "run")["checkpoint_error"]
    for words in ("training goes on, the last good checkpoint is untouched", "trajectories"):
        assert any(words in record.getMessage() and NUMBERS[number] in record.getMessage() for record in caplog.records), words
    assert find_checkpoint(tmp_path / "run") == before
    with pytest.raises(StorageError, match=NUMBERS[number]):
        run_world(1, tmp_path / "run", *KEPT, "stop.updates=40", "checkpoint.on_error=stop", resume="auto")
    monkeypatch.undo()
    assert all_good(tmp_path / "run")


def test_the_last_checkpoint_failing_stops_too(tmp_path, monkeypatch):
    break_writing(monkeypatch, errno.EROFS)
    with pytest.raises(StorageError, match="read-only"):
        run_world(1, tmp_path / "run", "checkpoint.on_error=stop")


@pytest.mark.parametrize("what", ["checkpoints", "."])
def test_a_vanished_directory(tmp_path, caplog, what):
    """checkpoints/ alone is made again; a run directory that is gone may be an unmounted disk: it is not."""
    run = tmp_path / "run"
    reaction = Reaction("evaluation at version", lambda: (run / what).rename(tmp_path / "elsewhere"))
    logging.getLogger().addHandler(reaction)
    logging.getLogger("hpcmarl").setLevel(logging.INFO)
    try:
        run_world(1, run, *KEPT, "eval={episodes: 1, every_updates: 5}", "stop.updates=30")
    finally:
        logging.getLogger().removeHandler(reaction)
        logging.getLogger("hpcmarl").setLevel(logging.NOTSET)
    assert reaction.done
    if what == "checkpoints":
        assert load_checkpoint(find_checkpoint(run))[1]["version"] == 30
    else:
        assert "was it deleted or unmounted" in caplog.text
        assert not run.exists()


def test_stale_temporary_checkpoints_are_removed_at_the_start(tmp_path):
    (tmp_path / f"checkpoint-0000000007.h5{PARTIAL}").write_bytes(b"half")
    (tmp_path / f"mine.h5{PARTIAL}").write_bytes(b"other")
    CheckpointWriter(tmp_path, keep=1).close()
    assert os.listdir(tmp_path) == [f"mine.h5{PARTIAL}"]


# ---- trajectories


def test_trajectories_go_on_when_the_disk_is_back_and_what_was_committed_is_kept(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trajectory, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(trajectory, "WAKE_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    generator = np.random.default_rng(0)
    config = TrajectoriesConfig(shard_seconds=0.06)
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=0, role="actor", host="h", attributes={})
    broken = threading.Event()
    append, flush = ShardFile.append, ShardFile.flush

    def appending(shard, *arguments):
        if broken.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(shard, *arguments)

    def closing(shard):
        if broken.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(shard)

    monkeypatch.setattr(ShardFile, "append", appending)
    monkeypatch.setattr(ShardFile, "flush", closing)
    writer.config = TrajectoriesConfig(shard_seconds=600)
    for _ in range(3):
        writer.append(random_rollout(make_spec(), 10, 2, generator))
    until(lambda: writer._shard is not None and writer.statistics["steps"] == 60)
    flush(writer._shard)
    broken.set()
    writer.append(random_rollout(make_spec(), 10, 2, generator))
    until(lambda: writer.error is not None)
    assert "disk is full" in writer.error
    broken.clear()
    until(lambda: not writer._stopped)
    writer.append(random_rollout(make_spec(), 10, 2, generator))
    writer.close()
    assert writer.error is None
    assert caplog.text.count("disk is full") == 1
    assert "trajectories are written again" in caplog.text
    rows = []
    for shard in list_shards(tmp_path / "rank-0000"):
        with ShardReader(shard) as reader:
            rows.append(reader.steps)
    assert sum(rows) == 80
    assert not list(tmp_path.rglob("*" + PARTIAL))
    assert writer.statistics["dropped"] >= 1


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_trajectories_stop_the_actor_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "WAKE_SECONDS", 0.01)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardFile, "append", full)
    config = TrajectoriesConfig(on_error="stop")
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=0, role="actor", host="h", attributes={})
    rollout = random_rollout(make_spec(), 10, 2, np.random.default_rng(0))
    writer.append(rollout)
    until(lambda: writer.error is not None)
    with pytest.raises(StorageError, match="disk is full"):
        writer.append(rollout)
    writer.close()


# ---- logs and the summary


def test_a_log_that_cannot_be_written_harms_nothing_and_comes_back(small_disk, capsys):
    ballast = fill_up(small_disk, 0)
    logger = logging.getLogger("test.of.logs")
    logger.propagate = False
    handler = LogFile(small_disk / "rank-0000.log")
    logger.addHandler(handler)
    try:
        for number in range(20):
            logger.warning("lost %d", number)
        assert capsys.readouterr().err.count("disk is full") == 1
        ballast.unlink()
        handler.retry_at = 0.0
        logger.warning("back")
        text = (small_disk / "rank-0000.log").read_text()
        assert text.endswith("back\n")
        assert "could not be written" in text
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_a_log_whose_directory_is_gone(tmp_path, capsys):
    logger = logging.getLogger("test.of.lost.logs")
    logger.propagate = False
    handler = LogFile(tmp_path / "gone" / "rank-0000.log")
    logger.addHandler(handler)
    try:
        logger.warning("one")
        logger.warning("two")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert capsys.readouterr().err.count("does not exist") == 1


def test_a_summary_that_cannot_be_written_is_told(tmp_path, monkeypatch, caplog):
    from hpcmarl.roles import recording

    def full(*_):
        raise StorageError("summary.json: cannot write: No space left on device; the disk is full")

    monkeypatch.setattr(recording, "write_summary", full)
    ranks = run_world(1, tmp_path / "run")
    assert ranks[0].exit_code == 0
    assert "summary.json: cannot write" in caplog.text
    with pytest.raises(StorageError, match="disk is full"):
        run_world(1, tmp_path / "other", "checkpoint.on_error=stop")


def test_a_damaged_checkpoint_directory_is_told_when_nothing_verifies(tmp_path):
    run_world(1, tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run"):
        path.write_bytes(b"")
    with pytest.raises(FormatError, match="no checkpoint in it verifies"):
        run_world(1, tmp_path / "run", resume=str(tmp_path / "run"))
