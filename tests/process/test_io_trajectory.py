"""Trajectories on a full disk and under a limit of file sizes."""

import os
import resource
import subprocess
import sys

import pytest

from hpcmarl.io.trajectories.shard_reader import list_shards, verify_shard

FULL_DISK = """
import sys, time, numpy as np
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from tests.support.rollouts import make_spec, random_rollout
spec, generator = make_spec(), np.random.default_rng(0)
config = TrajectoriesConfig(shard_megabytes=float(sys.argv[2]))
writer = TrajectoryWriter(sys.argv[1], spec, config, rank=0, role="actor", host="h", attributes={})
for number in range(120):
    writer.append(random_rollout(spec, 20, 16, generator))
    while writer._put != writer._taken:
        time.sleep(0.002)
        writer._wake.set()
writer.close()
print(writer.error)
print(writer.statistics["dropped"] > 0)
"""


def run_full_disk(directory, megabytes, **options):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(directory), str(megabytes)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_keeps_earlier_shards(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs root and the right to mount a small tmpfs")
    try:
        error, dropped = run_full_disk(mount, 2)
        assert "No space left on device; the disk is full" in error
        assert dropped == "True"
        shards = list_shards(mount)
        assert shards
        for shard in shards:
            verify_shard(shard)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_file_size_limit_error_names_ulimit(tmp_path):
    def limit():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))

    error, dropped = run_full_disk(tmp_path, 100, preexec_fn=limit)
    assert "File too large" in error
    assert "ulimit -f" in error
    assert dropped == "True"
    for shard in list_shards(tmp_path):  # data that was flushed before the limit
        verify_shard(shard)
