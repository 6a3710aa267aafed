"""Writers that are killed at random moments.

Finished files verify, committed data is salvaged, and the newest checkpoint loads.
"""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint, verify_checkpoint
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.trajectories.layout import INDEX
from hpcmarl.io.trajectories.salvage import salvage, salvage_file
from hpcmarl.io.trajectories.shard import is_live
from hpcmarl.io.trajectories.shard_reader import list_shards, verify_shard
from tests.support.trajectories import check_segments, read, rollout_number, state_number
from tests.support.waiting import wait_until

WRITER = """
import sys, time
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.checkpoint import CheckpointWriter
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from hpcmarl.io.hdf5.unclosed_file import lookup3
from tests.support.rollouts import make_spec
from tests.support.trajectories import rollout_number, state_number
seconds, megabytes = map(float, sys.argv[2:4])
config = TrajectoriesConfig(shard_seconds=seconds, shard_megabytes=megabytes, compression=sys.argv[4])
told = {"rank": 0, "role": "actor", "host": "h", "attributes": {}}
trajectories = TrajectoryWriter(sys.argv[1] + "/trajectories", make_spec(), config, **told)
checkpoints = CheckpointWriter(sys.argv[1] + "/checkpoints", keep=3)
metrics = MetricsWriter(sys.argv[1])
print("ready", flush=True)
for number in range(100_000):
    trajectories.append(rollout_number(number))
    if number % 5 == 0:
        checkpoints.submit(state_number(number), version=number, attributes={})
    metrics.append({"version": number, f"column_{number // 20}": 1.0})
    time.sleep(0.004)
"""


def wait_for_a_commit(directory):
    """Wait until a copy of the open shard can be salvaged."""
    copies = directory / "copies"
    copies.mkdir()
    for number in range(3000):
        for path in (directory / "trajectories").rglob("*.h5.partial"):
            copy = copies / f"shard-{number}.h5.partial"
            copy.write_bytes(path.read_bytes())
            if salvage_file(copy).status == "recovered":
                shutil.rmtree(copies)
                return
        time.sleep(0.01)
    pytest.fail("nothing was committed in 30 s")


def rows_written(directory):
    """Return the number of lines in metrics.csv: the progress of the writer."""
    path = directory / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("seed", "shard_seconds", "shard_megabytes", "compression"),
    [(1, 0.6, 100, "zstd"), (2, 100, 1.5, "none"), (3, 3.0, 100, "gzip"), (4, 3.0, 100, "none")],
)
def test_killed_writer_leaves_salvageable_files(tmp_path, seed, shard_seconds, shard_megabytes, compression):
    arguments = [str(tmp_path), str(shard_seconds), str(shard_megabytes), compression]
    process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        if shard_seconds == 3.0:
            wait_for_a_commit(tmp_path)
        if shard_seconds < 1.0:
            wait_until(lambda: list_shards(tmp_path))
        rows = rows_written(tmp_path) + int(np.random.default_rng(seed).integers(40, 200))
        wait_until(lambda: rows_written(tmp_path) >= rows)
        live = [path for path in (tmp_path / "trajectories").rglob("*.h5.partial") if is_live(path)]
        for path in live:
            assert salvage_file(path).status in ("live", "done")  # done: it was closed in the meantime
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    finished = list_shards(tmp_path)
    for shard in finished:
        verify_shard(shard)
    found = salvage(tmp_path / "trajectories")
    assert len(found) <= 1
    assert all(item.status in ("recovered", "empty") for item in found), found
    if shard_seconds == 3.0 and not finished:  # a commit was made
        assert [item.status for item in found] == ["recovered"]
        assert found[0].segments > 0
    again = ["done" if item.status == "recovered" else "empty" for item in found]
    assert [item.status for item in salvage(tmp_path / "trajectories", remove=True)] == again
    assert not list((tmp_path / "trajectories").rglob("*" + PARTIAL))
    data = [read(shard) for shard in list_shards(tmp_path)]
    # The writer was killed before the first shard of this size was full.
    if not data:
        assert shard_megabytes == 1.5
        return
    numbers = sorted({int(version) for shard in data for version in shard[INDEX]["version"]})
    assert numbers == list(range(len(numbers)))  # no version is missing in between
    check_segments(data, [rollout_number(number) for number in numbers])
    newest = find_checkpoint(tmp_path)
    assert newest is not None
    state, _ = load_checkpoint(newest)
    np.testing.assert_array_equal(state["parameters"], state_number(state["version"])["parameters"])
    for path in list_checkpoints(tmp_path):
        verify_checkpoint(path)
    versions = read_metrics(tmp_path)["version"]
    assert versions.tolist() == list(range(len(versions)))
    assert len(versions) > numbers[-1]


def test_salvage_rejects_damaged_open_shards_quickly(tmp_path):
    """Salvage truncated and altered copies of an open shard.

    The SWMR reader of HDF5 waits for minutes on such files; then this test would reach its time limit.
    """
    script = (
        WRITER.replace("range(100_000)", "range(40)").replace("time.sleep(0.004)", "time.sleep(0.02)")
        + "import os; os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "2", "100", "none"],
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    (partial,) = (tmp_path / "trajectories").rglob("*.h5.partial")
    good = partial.read_bytes()
    for length in range(0, len(good), max(1, len(good) // 40)):
        partial.write_bytes(good[:length])
        assert salvage_file(partial).status == ("failed" if length else "empty")
    generator = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(3):
            bad[int(generator.integers(48, 20_000))] ^= int(generator.integers(1, 256))
        partial.write_bytes(bad)
        if salvage_file(partial).status == "recovered":
            partial.with_name("shard-000000.h5").unlink()
    partial.write_bytes(good)
    assert salvage_file(partial).status == "recovered"
