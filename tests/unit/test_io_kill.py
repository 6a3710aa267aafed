"""Writers killed at random moments: finished files verify, what was committed is salvaged exactly, the newest checkpoint loads."""

import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint, verify_checkpoint
from hpcmarl.io.layout import INDEX
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.salvage import append_shard, salvage, salvage_file
from hpcmarl.io.schema import TRAJECTORIES, open_checked, read_attributes
from hpcmarl.io.shard import ShardFile, is_live
from hpcmarl.io.shard_reader import ShardReader, list_shards, verify_shard
from hpcmarl.io.trajectory import TrajectoryWriter
from hpcmarl.io.unfinished import lookup3
from tests.rollouts import make_spec, random_rollout
from tests.unit.test_io_trajectory import check_segments, read, with_episodes

WRITER = """
import sys, time
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.checkpoint import CheckpointWriter
from hpcmarl.io.metrics import MetricsWriter
from hpcmarl.io.trajectory import TrajectoryWriter
from hpcmarl.io.unfinished import lookup3
from tests.rollouts import make_spec
from tests.unit.test_io_kill import rollout_number, state_number
config = TrajectoriesConfig(shard_seconds=float(sys.argv[2]), shard_megabytes=float(sys.argv[3]), compression=sys.argv[4])
trajectories = TrajectoryWriter(sys.argv[1] + "/trajectories", make_spec(), config, rank=0, role="actor", host="h", attributes={})
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


def rollout_number(number):
    generator = np.random.default_rng(number)
    rollout = with_episodes(random_rollout(make_spec(), 10, 4, generator), generator)
    rollout.version = number
    return rollout


def state_number(number):
    return {"parameters": np.full(20_000, number, np.float32), "version": number}


def wait_for_a_commit(directory):
    """Until a copy of the open shard can be salvaged."""
    copies = directory / "copies"
    copies.mkdir()
    for number in range(300):
        for path in (directory / "trajectories").rglob("*.h5.partial"):
            copy = copies / f"shard-{number}.h5.partial"
            copy.write_bytes(path.read_bytes())
            if salvage_file(copy).status == "recovered":
                shutil.rmtree(copies)
                return
        time.sleep(0.1)
    pytest.fail("nothing was committed in 30 s")


@pytest.mark.parametrize(
    ("seed", "shard_seconds", "shard_megabytes", "compression"),
    [(1, 0.6, 100, "zstd"), (2, 100, 1.5, "none"), (3, 3.0, 100, "gzip"), (4, 3.0, 100, "none")],
)
def test_killed_at_a_random_moment(tmp_path, seed, shard_seconds, shard_megabytes, compression):
    arguments = [str(tmp_path), str(shard_seconds), str(shard_megabytes), compression]
    process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        if shard_seconds == 3.0:
            wait_for_a_commit(tmp_path)
        time.sleep(1.0 + float(np.random.default_rng(seed).uniform(0.0, 1.2)))
        live = [path for path in (tmp_path / "trajectories").rglob("*.h5.partial") if is_live(path)]
        for path in live:
            assert salvage_file(path).status in ("live", "done")  # done: it closed meanwhile
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
    if shard_seconds == 3.0 and not finished:  # there was a commit
        assert [item.status for item in found] == ["recovered"]
        assert found[0].segments > 0
    again = ["done" if item.status == "recovered" else "empty" for item in found]
    assert [item.status for item in salvage(tmp_path / "trajectories", remove=True)] == again
    assert not list((tmp_path / "trajectories").rglob("*" + PARTIAL))
    data = [read(shard) for shard in list_shards(tmp_path)]
    if not data:  # killed before the first shard of this size was full
        assert shard_megabytes == 1.5
        return
    numbers = sorted({int(version) for shard in data for version in shard[INDEX]["version"]})
    assert numbers == list(range(len(numbers)))  # nothing is missing in between
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


def test_a_live_shard_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcmarl.io.trajectory.WAKE_SECONDS", 0.01)
    config = TrajectoriesConfig(shard_seconds=600)
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=0, role="actor", host="h", attributes={})
    writer.append(rollout_number(0))
    partial = tmp_path / "rank-0000" / "shard-000000.h5.partial"
    deadline = time.monotonic() + 30
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    result = salvage_file(partial, remove=True)
    assert result.status == "live"
    writer.close()
    assert not partial.exists()
    check_segments([read(partial.with_name("shard-000000.h5"))], [rollout_number(0)])


def test_salvage_never_overwrites_and_explains(tmp_path):
    writer = TrajectoryWriter(tmp_path, make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={})
    writer.append(rollout_number(0))
    writer.close()
    shard = list_shards(tmp_path)[0]
    partial = shard.with_name(shard.name + PARTIAL)
    partial.write_bytes(b"something")
    before = shard.read_bytes()
    assert salvage_file(partial).status == "done"
    shard.write_bytes(b"")
    assert salvage_file(partial).status == "failed"
    assert shard.read_bytes() == b""
    shard.unlink()
    for content in (b"", bytes(100), before[:11] + b"\x01" + before[12:]):
        partial.write_bytes(content)
        assert salvage_file(partial).status == "empty"
    for content in (b"garbage" * 100, before[: len(before) // 2], before[:100]):
        partial.write_bytes(content)
        result = salvage_file(partial, remove=True)
        assert result.status == "failed"
        assert str(partial) in result.note
        assert os.listdir(shard.parent) == [partial.name]
    other = tmp_path / "checkpoint-0000000001.h5.partial"
    other.write_bytes(b"half")
    assert salvage_file(other).status == "unneeded"
    assert other.exists()
    assert salvage_file(other, remove=True).removed
    assert not other.exists()
    assert salvage_file(tmp_path / "notes.txt").status == "failed"


def test_damaged_open_shards_are_refused_at_once(tmp_path):
    """HDF5's own SWMR reader waits for minutes here; the test's time-out would tell."""
    script = WRITER.replace("range(100_000)", "range(40)").replace("time.sleep(0.004)", "time.sleep(0.02)") + "import os; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "2", "100", "none"], stdout=subprocess.DEVNULL, timeout=60)
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


def test_lookup3_agrees_with_its_author():
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def half_flushed(directory):
    """An open shard after one flush, and after a second one of the same chunks: (path, bytes before, bytes after, [(offset, size) of chunks])."""
    whole = directory / "shard-000009.h5"
    writer = TrajectoryWriter(directory, make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={})
    for number in range(4):
        writer.append(rollout_number(number))
    writer.close()
    list_shards(directory)[0].rename(whole)
    with ShardReader(whole) as reader:
        shard = ShardFile(directory / "shard-000000.h5", reader.layout, read_attributes(reader.file))
        states = []
        for _ in range(2):
            append_shard(shard, reader)
            shard.flush()
            states.append(shard.partial.read_bytes())
        shard.abandon()
    chunks = []
    shard.partial.write_bytes(states[0])
    with open_checked(shard.partial, TRAJECTORIES, unfinished=True) as file:
        file.visititems(lambda _, item: chunks.extend(chunks_of(item)) if isinstance(item, h5py.Dataset) and item.chunks else None)
    return shard.partial, *states, chunks


def chunks_of(dataset):
    return [(info.byte_offset, info.size) for info in map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks()))]


def test_a_chunk_that_was_being_written_again_keeps_its_committed_rows(tmp_path):
    partial, before, after, chunks = half_flushed(tmp_path)
    torn = bytearray(before)
    changed = 0
    for offset, size in chunks:  # killed in the middle of each: the first half is new, the checksum is not
        half = slice(offset, offset + size // 2)
        torn[half] = after[half]
        changed += before[half] != after[half]
    assert changed > 5
    partial.write_bytes(torn)
    found = salvage_file(partial)
    assert found.status == "recovered", found.note
    assert "was being written; read without checksum" in found.note
    recovered, whole = read(tmp_path / "shard-000000.h5"), read(tmp_path / "shard-000009.h5")
    for group, columns in whole.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(recovered[group][name], column)
