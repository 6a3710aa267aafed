"""Trajectories, logs and temporary checkpoints on disks that fail."""

import errno
import logging
import os
import threading

import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import StorageError
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import CheckpointWriter
from hpcmarl.io.trajectories import writer as trajectory
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from hpcmarl.runtime.log_files import LogFile
from tests.support.rollouts import make_spec, random_rollout
from tests.support.waiting import wait_until


def test_stale_temporary_checkpoints_are_removed_at_the_start(tmp_path):
    (tmp_path / f"checkpoint-0000000007.h5{PARTIAL}").write_bytes(b"half")
    (tmp_path / f"mine.h5{PARTIAL}").write_bytes(b"other")
    CheckpointWriter(tmp_path, keep=1).close()
    assert os.listdir(tmp_path) == [f"mine.h5{PARTIAL}"]


# ---- trajectories


def test_trajectories_resume_and_keep_rows_after_disk_failure(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trajectory, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(trajectory, "WAKE_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    generator = np.random.default_rng(0)
    config = TrajectoriesConfig(shard_seconds=600)  # the shard stays open until the disk fails
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
    for _ in range(3):
        writer.append(random_rollout(make_spec(), 10, 2, generator))
    wait_until(lambda: writer._shard is not None and writer.statistics["steps"] == 60)
    flush(writer._shard)
    broken.set()
    writer.append(random_rollout(make_spec(), 10, 2, generator))
    wait_until(lambda: writer.error is not None)
    assert "disk is full" in writer.error
    broken.clear()
    wait_until(lambda: not writer._stopped)
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


def test_trajectory_error_stops_the_actor_if_configured(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "WAKE_SECONDS", 0.01)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardFile, "append", full)
    config = TrajectoriesConfig(on_error="stop")
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=0, role="actor", host="h", attributes={})
    rollout = random_rollout(make_spec(), 10, 2, np.random.default_rng(0))
    writer.append(rollout)
    wait_until(lambda: writer.error is not None)
    with pytest.raises(StorageError, match="disk is full"):
        writer.append(rollout)
    writer.close()


def test_missing_log_directory_is_reported_once(tmp_path, capsys):
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
