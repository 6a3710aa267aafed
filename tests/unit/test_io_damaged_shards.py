"""Finished shards that are cut short or hold bad bytes: salvage gets what is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.salvage import salvage, salvage_file
from hpcmarl.io.shard_reader import ShardReader, list_shards, verify_shard
from hpcmarl.io.trajectory import TrajectoryWriter
from tests.support.rollouts import make_spec, random_rollout

STEPS, SLOTS, ROLLOUTS = 50, 4, 120


@pytest.fixture(params=["none", "gzip"])
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A shard of many chunks."""
    config = TrajectoriesConfig(compression=request.param)
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=1, role="actor", host="h", attributes={"start": 1})
    generator = np.random.default_rng(0)
    for _ in range(ROLLOUTS):
        writer.append(random_rollout(make_spec(), STEPS, SLOTS, generator))
    writer.close()
    assert writer.error is None
    (found,) = list_shards(tmp_path)
    return found


def rows(path: Path) -> dict[tuple[int, ...], bytes]:
    """(rollout, slot, episode, first step, length) -> rewards of a segment."""
    with ShardReader(path) as reader:
        reward = np.concatenate([slab["reward"] for _, slab in reader.slabs("steps/agent")])
        keys = [reader.index[name].tolist() for name in ("rollout", "slot", "episode", "first_step", "length")]
        starts = reader.index["start"].tolist()
        return {key: reward[start : start + key[-1]].tobytes() for start, *key in zip(starts, *keys, strict=True) for key in [(*key,)]}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_shard_gives_its_whole_chunks(shard: Path, share: float) -> None:
    whole, content = rows(shard), shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    (found,) = salvage(shard.parent.parent)
    assert found.status == "recovered", found
    assert found.steps > 0.5 * share * STEPS * SLOTS * ROLLOUTS
    verify_shard(shard)
    saved = rows(shard)
    assert saved.items() <= whole.items()
    assert shard.with_name(shard.name + ".damaged").stat().st_size == int(share * len(content))


@pytest.mark.parametrize("seed", range(6))
def test_bad_bytes_cost_their_chunks_alone(shard: Path, seed: int) -> None:
    whole, content = rows(shard), bytearray(shard.read_bytes())
    generator = np.random.default_rng(seed)
    for place in generator.integers(len(content) // 4, len(content), 2).tolist():
        content[place] ^= 0xFF
    shard.write_bytes(bytes(content))
    found = salvage_file(shard, remove=True)
    if found.status == "unneeded":  # the bytes lie between the chunks
        assert rows(shard) == whole
        return
    if found.status == "failed":
        assert shard.read_bytes() == bytes(content)
        return
    verify_shard(shard)
    saved = rows(shard)
    assert saved.items() <= whole.items()
    assert found.segments == len(saved)
    assert not shard.with_name(shard.name + ".damaged").exists()


def test_bad_chunk_in_the_middle_keeps_both_sides(shard: Path) -> None:
    whole = rows(shard)
    with ShardReader(shard) as reader:
        dataset = reader.file["steps/agent/reward"]
        chunk = dataset.id.get_chunk_info(1)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset + 8] ^= 0xFF
    shard.write_bytes(bytes(content))
    found = salvage_file(shard)
    assert found.status == "recovered", found
    saved = rows(shard)
    assert saved.items() < whole.items()
    numbers = sorted(key[0] for key in saved)
    assert (numbers[0], numbers[-1]) == (0, ROLLOUTS - 1)
    assert "segments are lost" in found.note


def test_salvage_of_a_good_shard_changes_nothing(shard: Path) -> None:
    content = shard.read_bytes()
    assert salvage_file(shard).status == "unneeded"
    assert salvage(shard.parent) == []
    assert shard.read_bytes() == content


def test_salvage_of_no_shard_at_all_fails(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.h5").write_bytes(b"nothing of the kind")
    (found,) = salvage(tmp_path)
    assert found.status == "failed"
    assert (tmp_path / "shard-000000.h5").read_bytes() == b"nothing of the kind"
