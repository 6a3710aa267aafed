"""Finished shards that are cut short or hold bad bytes: salvage recovers the whole chunks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import FormatError
from hpcmarl.io.hdf5.filters import fletcher32_fits
from hpcmarl.io.hdf5.schema import TRAJECTORIES, root_attributes
from hpcmarl.io.trajectories import shard as shards
from hpcmarl.io.trajectories.layout import layout_of_spec
from hpcmarl.io.trajectories.salvage import salvage, salvage_file
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards, verify_shard
from hpcmarl.io.trajectories.writer import TrajectoryWriter, shard_rows
from tests.support.rollouts import make_spec, random_rollout

STEPS, SLOTS, ROLLOUTS = 50, 4, 120


@pytest.fixture(params=["none", "gzip"])
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a shard of many chunks."""
    config = TrajectoriesConfig(compression=request.param)
    writer = TrajectoryWriter(
        tmp_path, make_spec(), config, rank=1, role="actor", host="h", attributes={"start": 1}
    )
    generator = np.random.default_rng(0)
    for _ in range(ROLLOUTS):
        writer.append(random_rollout(make_spec(), STEPS, SLOTS, generator))
    writer.close()
    assert writer.error is None
    (found,) = list_shards(tmp_path)
    return found


@pytest.fixture(params=["none", "gzip"])
def open_shard(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return the temporary shard of a killed writer, flushed a few times."""
    attributes = root_attributes(TRAJECTORIES, {"start": 1})
    shard = ShardFile(tmp_path / "shard-000000.h5", layout_of_spec(make_spec()), attributes, request.param)
    generator = np.random.default_rng(0)
    for number in range(ROLLOUTS):
        rollout = random_rollout(make_spec(), STEPS, SLOTS, generator)
        origin = {"rank": 1, "run": 0, "start_number": 1}
        contents, segments = shard_rows([rollout], [number], shard.steps, origin)
        shard.append(contents, STEPS * SLOTS, segments)
        if number in (0, 40, ROLLOUTS - 1):
            shard.flush()
    content = shard.partial.read_bytes()
    shard.abandon()
    shard.partial.write_bytes(content)
    return shard.partial


def rows(path: Path) -> dict[tuple[int, ...], bytes]:
    """Return (rollout, slot, episode, first step, length) -> rewards, for each segment."""
    with ShardReader(path) as reader:
        reward = np.concatenate([slab["reward"] for _, slab in reader.slabs("steps/agent")])
        keys = [
            reader.index[name].tolist() for name in ("rollout", "slot", "episode", "first_step", "length")
        ]
        starts = reader.index["start"].tolist()
        return {
            key: reward[start : start + key[-1]].tobytes()
            for start, *key in zip(starts, *keys, strict=True)
            for key in [(*key,)]
        }


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


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_truncated_open_shard_gives_its_whole_chunks(open_shard: Path, share: float) -> None:
    final, content = open_shard.with_name("shard-000000.h5"), open_shard.read_bytes()
    assert salvage_file(open_shard).status == "recovered"
    whole = rows(final)
    final.unlink()
    cut = content[: int(share * len(content))]
    open_shard.write_bytes(cut)
    found = salvage_file(open_shard)
    assert found.status == "recovered", found
    assert (found.output, found.segments) == (str(final), len(rows(final)))
    assert found.steps > 0.4 * share * STEPS * SLOTS * ROLLOUTS
    assert rows(final).items() < whole.items()
    verify_shard(final)
    assert open_shard.read_bytes() == cut


def test_damaged_open_shard_is_deleted_only_when_asked(open_shard: Path) -> None:
    open_shard.write_bytes(open_shard.read_bytes()[:-200_000])
    found = salvage_file(open_shard, remove=True)
    assert (found.status, found.removed) == ("recovered", True)
    assert not open_shard.exists()


def test_earlier_damaged_file_is_never_replaced(shard: Path) -> None:
    content = shard.read_bytes()
    earlier = shard.with_name(shard.name + ".damaged")
    earlier.write_bytes(b"another time")
    shard.write_bytes(content[: len(content) // 2])
    assert salvage_file(shard, remove=True).status == "recovered"
    assert earlier.read_bytes() == b"another time"
    assert [file for file in shard.parent.iterdir() if file != earlier] == [shard]
    shard.write_bytes(content[: len(content) // 2])
    found = salvage_file(shard)
    assert found.status == "recovered"
    assert shard.with_name(shard.name + ".damaged-1").read_bytes() == content[: len(content) // 2]
    assert "damaged-1" in found.note


@pytest.mark.parametrize("links", [True, False])
def test_salvage_killed_at_any_moment_leaves_the_name(
    shard: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The name of the shard always refers to the damaged file or to the recovered one."""
    content = shard.read_bytes()[:-400_000]
    shard.write_bytes(content)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", os.link if links else no_links)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        salvage_file(shard)
    assert shard.read_bytes() == content
    monkeypatch.undo()
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    assert salvage_file(shard).status == "recovered"
    verify_shard(shard)
    kept = [file for file in shard.parent.iterdir() if ".damaged" in file.name]
    assert kept
    assert all(file.read_bytes() == content for file in kept)


def test_failed_check_of_the_copy_keeps_the_damaged_shard(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = shard.read_bytes()[:-400_000]
    shard.write_bytes(content)

    def bad(path: Path) -> None:
        raise FormatError(f"{path}: a bad disk")

    monkeypatch.setattr("hpcmarl.io.trajectories.salvage.verify_shard", bad)
    assert salvage_file(shard).status == "failed"
    assert shard.read_bytes() == content
    assert list(shard.parent.iterdir()) == [shard]


def test_output_names_the_file_that_was_written(open_shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file takes the name of the shard between the check of the name and the publication."""
    final = open_shard.with_name("shard-000000.h5")
    publish = shards.publish_new

    def taken(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
        if path == final:
            final.write_bytes(b"another's")
        publish(partial, path, verify)

    monkeypatch.setattr(shards, "publish_new", taken)
    found = salvage_file(open_shard)
    assert (found.status, found.output) == ("recovered", str(final.with_name("shard-000001.h5")))
    assert final.read_bytes() == b"another's"
    verify_shard(final.with_name("shard-000001.h5"))


def test_two_salvages_at_once_use_different_temporary_names(
    open_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    publish = shards.publish_new

    def watched(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
        seen.append(partial.name)
        publish(partial, path, verify)

    monkeypatch.setattr(shards, "publish_new", watched)
    for _ in range(2):
        assert salvage_file(open_shard).status == "recovered"
        open_shard.with_name("shard-000000.h5").unlink()
    assert len(set(seen)) == 2
    assert all(name.endswith(".salvage.partial") for name in seen)


def test_damaged_shard_that_declares_too_many_rows_is_refused(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        for group in file["steps"].values():
            for item in group.values():
                if not item.is_scale and item.maxshape[:1] == (None,):
                    item.resize(1 << 50, axis=0)
    content = shard.read_bytes()
    found = salvage_file(shard)
    assert found.status == "failed"
    assert shard.read_bytes() == content


def test_chunks_that_were_never_stored_are_no_zeros(shard: Path) -> None:
    """HDF5 returns zeros for a chunk that is missing from its index."""
    whole = rows(shard)
    with h5py.File(shard, "r+") as file:
        for dataset in [
            item for group in file["steps"].values() for item in group.values() if not item.is_scale
        ]:
            chunk, length = dataset.chunks[0], len(dataset)
            dataset.resize(length // chunk * chunk, axis=0)
            dataset.resize(length, axis=0)
    assert salvage_file(shard).status == "recovered"
    assert rows(shard).items() < whole.items()


def test_bad_last_chunk_of_an_open_shard_is_no_data(open_shard: Path) -> None:
    """The committed rows of the last chunk match no checksum.

    Neither the checksum of the last write nor that of the previous write fits.
    """
    final, content = open_shard.with_name("shard-000000.h5"), bytearray(open_shard.read_bytes())
    assert salvage_file(open_shard).status == "recovered"
    whole = rows(final)
    final.unlink()
    with ShardReader(open_shard, partial=True) as reader:
        dataset = reader.file["steps/agent/reward"]
        chunk = dataset.id.get_chunk_info(dataset.id.get_num_chunks() - 1)
    content[chunk.byte_offset : chunk.byte_offset + 64] = bytes(64)
    open_shard.write_bytes(bytes(content))
    found = salvage_file(open_shard)
    assert found.status == "recovered", found
    assert rows(final).items() < whole.items()
    assert "segments are lost" in found.note


@pytest.mark.parametrize("size", [2, 3, 10, 4097, 65_536])
def test_fletcher32_is_what_hdf5_stores(tmp_path: Path, size: int) -> None:
    generator = np.random.default_rng(size)
    for number, data in enumerate(
        [generator.integers(0, 256, size), np.full(size, 255), np.zeros(size, np.int64)]
    ):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            dataset = file.create_dataset("x", data=data.astype(np.uint8), chunks=(size,), fletcher32=True)
            stored = dataset.id.read_direct_chunk((0,))[1]
        assert fletcher32_fits(stored[:-4], stored[-4:])
        assert not fletcher32_fits(b"\x07" + stored[1:-4], stored[-4:]) or stored[0] == 7


@pytest.mark.parametrize("remove", [False, True])
def test_open_shard_beside_anothers_shard_is_not_lost(open_shard: Path, remove: bool) -> None:
    """Two writers with old listings of the directory choose the same name.

    One publishes its shard under the name. The other is killed before it can take the next name.
    """
    final = open_shard.with_name("shard-000000.h5")
    assert salvage_file(open_shard).output == str(final)
    own = rows(final)
    final.unlink()
    writer = TrajectoryWriter(
        final.parent,
        make_spec(),
        TrajectoriesConfig(),
        rank=1,
        role="actor",
        host="h",
        attributes={"start": 2},
    )
    writer.append(random_rollout(make_spec(), STEPS, SLOTS, np.random.default_rng(1)))
    writer.close()
    (other,) = list_shards(final.parent)
    other.rename(final)
    theirs = rows(final)
    found = salvage_file(open_shard, remove=remove)
    assert (found.status, found.output) == ("recovered", str(final.with_name("shard-000001.h5")))
    assert rows(final.with_name("shard-000001.h5")) == own
    assert rows(final) == theirs
    if not remove:
        again = salvage_file(open_shard)
        assert (again.status, again.output) == ("done", found.output)
        assert not final.with_name("shard-000002.h5").exists()


def test_damaged_open_shard_is_recovered_once(open_shard: Path) -> None:
    content = bytearray(open_shard.read_bytes())
    with ShardReader(open_shard, partial=True) as reader:
        chunk = reader.file["steps/agent/reward"].id.get_chunk_info(1)
    content[chunk.byte_offset + 8] ^= 0xFF
    open_shard.write_bytes(bytes(content))
    assert salvage_file(open_shard).status == "recovered"
    assert salvage_file(open_shard).status == "done"
    assert len(list_shards(open_shard.parent)) == 1
