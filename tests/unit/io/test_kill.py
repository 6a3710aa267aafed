"""Salvage of open shards: live shards stay unchanged, torn chunks keep their committed rows."""

import os
import time

import h5py
import numpy as np

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.hdf5.schema import TRAJECTORIES, open_checked, read_attributes
from hpcmarl.io.hdf5.unclosed_file import lookup3
from hpcmarl.io.trajectories.salvage import append_shard, salvage_file
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from tests.support.rollouts import make_spec
from tests.support.trajectories import check_segments, read, rollout_number


def test_salvage_leaves_a_live_shard_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcmarl.io.trajectories.writer.WAKE_SECONDS", 0.01)
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


def test_salvage_never_overwrites_and_reports_a_status(tmp_path):
    writer = TrajectoryWriter(
        tmp_path, make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={}
    )
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


def test_lookup3_matches_the_reference_value():
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def half_flushed(directory):
    """Write an open shard and flush it twice, with rows in the same chunks.

    Returns:
        Path, bytes after the first flush, bytes after the second flush, and [(offset, size) of chunks].
    """
    whole = directory / "shard-000009.h5"
    writer = TrajectoryWriter(
        directory, make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={}
    )
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
        file.visititems(
            lambda _, item: (
                chunks.extend(chunks_of(item)) if isinstance(item, h5py.Dataset) and item.chunks else None
            )
        )
    return shard.partial, *states, chunks


def chunks_of(dataset):
    return [
        (info.byte_offset, info.size)
        for info in map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks()))
    ]


def test_salvage_keeps_committed_rows_of_a_torn_chunk(tmp_path):
    partial, before, after, chunks = half_flushed(tmp_path)
    torn = bytearray(before)
    changed = 0
    # A kill in the middle of each write leaves the first half new and the checksum old.
    for offset, size in chunks:
        half = slice(offset, offset + size // 2)
        torn[half] = after[half]
        changed += before[half] != after[half]
    assert changed > 5
    partial.write_bytes(torn)
    found = salvage_file(partial)
    assert found.status == "recovered", found.note
    assert "was being written" in found.note
    recovered, whole = read(tmp_path / "shard-000000.h5"), read(tmp_path / "shard-000009.h5")
    for group, columns in whole.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(recovered[group][name], column)
