"""Whole runs on disks that are full, read-only, missing or without locks."""

import errno
import logging

import h5py
import pytest

from hpcmarl.errors import FormatError, StorageError
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.trajectories import writer as trajectory
from tests.support.disks import fill_up
from tests.support.worlds import run_world, summary

KEPT = (
    "trajectories={enabled: true, shard_seconds: 0.5}",
    "checkpoint.every_updates=1",
    "logging.every_seconds=0.001",
)
LONG = ("stop.updates=60",)


class Reaction(logging.Handler):
    """Log handler that acts once, at the first record that contains given words."""

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


def test_run_continues_on_full_disk_and_writes_again_later(small_disk, caplog, monkeypatch):
    monkeypatch.setattr(trajectory, "RETRY_SECONDS", 0.05)
    run = small_disk / "run"
    ballast = fill_up(small_disk, 120_000)
    versions = []

    def free():
        versions.append(
            max((load_checkpoint(path)[1]["version"] for path in list_checkpoints(run)), default=0)
        )
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
    fill_up(small_disk, 36_864)  # enough to start
    ranks = run_world(1, small_disk / "run", *KEPT, "stop.updates=20", resume="auto")
    assert ranks[0].exit_code == 1
    assert find_checkpoint(small_disk / "run") == before
    assert all_good(small_disk / "run")
    assert not list((small_disk / "run" / "checkpoints").glob("*" + PARTIAL))
    assert "free some space" in caplog.text


def test_run_that_cannot_start_on_a_full_disk_changes_nothing(small_disk):
    run_world(1, small_disk / "run", *KEPT)
    before = {path: path.read_bytes() for path in (small_disk / "run").rglob("*") if path.is_file()}
    fill_up(small_disk, 8192)
    with pytest.raises(StorageError, match="No space left on device; the disk is full: free some space"):
        run_world(1, small_disk / "run", *KEPT, "stop.updates=20", resume="auto")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("key", ["checkpoint.on_error=stop", "trajectories.on_error=stop"])
def test_full_disk_stops_the_run_if_configured(small_disk, key):
    fill_up(small_disk, 120_000)
    with pytest.raises(
        StorageError, match=r"^[^\n]*No space left on device; the disk is full: free some space[^\n]*$"
    ):
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
    """Make HDF5 fail to create files, with the text of its own error."""
    true_file = h5py.File

    def file(name, mode="r", **options):
        if mode == "w":
            raise OSError(
                f"Unable to synchronously create file (unable to lock file, errno = {number}, error message "
                "= 'x')"
            )
        return true_file(name, mode, **options)

    monkeypatch.setattr(h5py, "File", file)


@pytest.mark.parametrize("number", NUMBERS)
def test_run_continues_after_each_storage_error_and_logs_remedy(tmp_path, monkeypatch, caplog, number):
    run_world(1, tmp_path / "run", *KEPT)
    before = find_checkpoint(tmp_path / "run")
    break_writing(monkeypatch, number)
    run_world(1, tmp_path / "run", *KEPT, "stop.updates=12", resume="auto")
    assert summary(tmp_path / "run")["updates"] == 12
    assert NUMBERS[number] in summary(tmp_path / "run")["checkpoint_error"]
    for words in ("training continues, the last good checkpoint is untouched", "trajectories"):
        assert any(
            words in record.getMessage() and NUMBERS[number] in record.getMessage()
            for record in caplog.records
        ), words
    assert find_checkpoint(tmp_path / "run") == before
    with pytest.raises(StorageError, match=NUMBERS[number]):
        run_world(1, tmp_path / "run", *KEPT, "stop.updates=40", "checkpoint.on_error=stop", resume="auto")
    monkeypatch.undo()
    assert all_good(tmp_path / "run")


def test_failing_final_checkpoint_stops_the_run(tmp_path, monkeypatch):
    break_writing(monkeypatch, errno.EROFS)
    with pytest.raises(StorageError, match="read-only"):
        run_world(1, tmp_path / "run", "checkpoint.on_error=stop")


@pytest.mark.parametrize("what", ["checkpoints", "."])
def test_only_a_missing_checkpoint_directory_is_recreated(tmp_path, caplog, what):
    """Check that a missing checkpoints/ is created again, but a missing run directory is not.

    The disk of a missing run directory may be unmounted.
    """
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


def test_unwritable_summary_is_logged_or_raises(tmp_path, monkeypatch, caplog):
    from hpcmarl.roles.server import summary_file

    def full(*_):
        raise StorageError("summary.json: cannot write: No space left on device; the disk is full")

    monkeypatch.setattr(summary_file, "write_summary", full)
    ranks = run_world(1, tmp_path / "run")
    assert ranks[0].exit_code == 0
    assert "summary.json: cannot write" in caplog.text
    with pytest.raises(StorageError, match="disk is full"):
        run_world(1, tmp_path / "other", "checkpoint.on_error=stop")


def test_resume_without_any_valid_checkpoint_raises(tmp_path):
    run_world(1, tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run"):
        path.write_bytes(b"")
    with pytest.raises(FormatError, match="no checkpoint in it verifies"):
        run_world(1, tmp_path / "run", resume=str(tmp_path / "run"))
