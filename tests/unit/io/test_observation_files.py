"""Observations of all types in trajectory files: types, keys, recovery, merging and reading."""

import h5py
import numpy as np
import pytest

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import FormatError
from hpcmarl.export.flat import blocks
from hpcmarl.export.trajectories import RecordedRun
from hpcmarl.io.hdf5.schema import TRAJECTORIES, root_attributes
from hpcmarl.io.trajectories.episodes import EpisodeReader, find_episodes
from hpcmarl.io.trajectories.layout import format_version, layout_of_spec, observations_of
from hpcmarl.io.trajectories.merge import merge_shards
from hpcmarl.io.trajectories.salvage import salvage_file
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards, verify_shard
from hpcmarl.io.trajectories.writer import TrajectoryWriter, shard_rows
from tests.support.rollouts import make_spec, observing_spec, random_rollout
from tests.support.trajectories import check_segments, read, with_episodes

SPEC = observing_spec()
KEYS = ["obs/view/image", "obs/place", "obs/flags", "obs/a"]


def rollouts(count, steps=40, slots=3, end_rate=0.2):
    generator = np.random.default_rng(1)
    made = []
    for number in range(count):
        rollout = random_rollout(SPEC, steps, slots, generator, end_rate=end_rate)
        rollout.version = number
        made.append(with_episodes(rollout, generator))
    return made


def write(directory, made, rank=0, **config):
    writer = TrajectoryWriter(
        directory,
        SPEC,
        TrajectoriesConfig(**config),
        rank=rank,
        role="actor",
        host="h",
        attributes={"start": 1},
    )
    for rollout in made:
        writer.append(rollout)
    writer.close()
    assert writer.error is None
    return list_shards(directory)


@pytest.mark.parametrize("compression", ["none", "gzip", "lzf"])
def test_observations_keep_types_and_keys_in_files(tmp_path, compression):
    made = rollouts(6)
    (shard,) = write(tmp_path, made, compression=compression)
    check_segments([read(shard)], made)
    with h5py.File(shard) as file:
        eyes, camera = file["steps/eyes/obs"], file["steps/camera/obs"]
        assert sorted(eyes) == ["a", "flags", "place", "view"]
        assert (eyes["view/image"].dtype, eyes["view/image"].shape[1:]) == (np.uint8, (2, 5, 4, 3))
        assert (eyes["flags"].dtype, eyes["place"].dtype, eyes["a"].dtype) == (bool, "f4", "f2")
        assert [dim[0].name for dim in eyes["place"].dims][1:] == [
            "/steps/eyes/agent",
            "/steps/eyes/place_0",
        ]
        assert (camera.dtype, camera.shape[1:]) == (np.uint8, (1, 6, 5, 1))
        assert file["final/eyes/obs/view/image"].dtype == np.uint8
        assert file.attrs["format_version"] == 2


def test_only_files_with_other_types_need_the_new_version():
    assert format_version(layout_of_spec(make_spec())) == 1
    assert format_version(layout_of_spec(SPEC)) == 2


def test_entries_return_in_the_order_of_the_record(tmp_path):
    made = rollouts(3, slots=1, end_rate=1.0)
    shards = write(tmp_path, made)
    table = find_episodes(shards)
    with EpisodeReader(table) as reader:
        recording = reader.read(0)
    columns = recording.layout["steps/eyes"].columns
    seen = observations_of(recording.steps["eyes"], columns)
    assert seen.dtype == SPEC.policy("eyes").observation_dtype
    final = observations_of(recording.final["eyes"], columns)
    assert (final.dtype, final.shape) == (seen.dtype, (2,))
    camera = observations_of(recording.steps["camera"], recording.layout["steps/camera"].columns)
    assert camera.dtype == np.uint8


def test_merged_files_hold_the_same_entries(tmp_path):
    made = rollouts(6)
    shards = [*write(tmp_path / "one", made[:3]), *write(tmp_path / "two", made[3:], rank=1)]
    merge_shards(shards, tmp_path / "all.h5", "gzip")
    check_segments([read(tmp_path / "all.h5")], made)
    with ShardReader(tmp_path / "all.h5") as reader:
        assert reader.layout["steps/eyes"].columns["obs/place"].attributes["place"] == 1


def open_shard(tmp_path, made):
    """Return the temporary file of a killed writer that had committed the first half."""
    attributes = root_attributes(TRAJECTORIES, {"start": 1})
    shard = ShardFile(tmp_path / "shard-000000.h5", layout_of_spec(SPEC), attributes)
    for number, rollout in enumerate(made):
        origin = {"rank": 0, "run": 0, "start_number": 1}
        rows, segments = shard_rows([rollout], [number], shard.steps, origin)
        shard.append(rows, rollout.steps * rollout.count, segments)
        if number == len(made) // 2 - 1:
            shard.flush()
    content = shard.partial.read_bytes()
    shard.abandon()
    shard.partial.write_bytes(content)
    return shard.partial


def test_an_open_file_is_salvaged_with_its_entries(tmp_path):
    made = rollouts(20)
    result = salvage_file(open_shard(tmp_path, made))
    assert (result.status, result.steps) == ("recovered", 10 * 40 * 3)
    check_segments([read(tmp_path / "shard-000000.h5")], made[:10])


def test_a_bad_byte_in_an_image_costs_its_chunk_alone(tmp_path):
    made = rollouts(60)
    (shard,) = write(tmp_path, made)
    with h5py.File(shard) as file:
        images = file["steps/eyes/obs/view/image"]
        assert images.id.get_num_chunks() > 1
        place = images.id.get_chunk_info(1).byte_offset
    with shard.open("r+b") as stream:
        stream.seek(place + 7)
        byte = stream.read(1)[0]
        stream.seek(place + 7)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(FormatError, match="damaged"):
        verify_shard(shard)
    result = salvage_file(shard)
    assert result.status == "recovered"
    assert 0 < result.lost_steps < 60 * 40 * 3
    verify_shard(shard)


def test_a_foreign_group_beside_the_observations_is_refused(tmp_path):
    (shard,) = write(tmp_path, rollouts(1))
    with h5py.File(shard, "r+") as file:
        file.create_group("steps/eyes/reward_parts")
    with pytest.raises(FormatError, match="is not a dataset"):
        verify_shard(shard)


def test_flat_rows_have_a_column_for_each_entry(tmp_path):
    write(tmp_path, rollouts(3, slots=1, end_rate=1.0))
    with RecordedRun(tmp_path) as run:
        assert run.policies["eyes"] == SPEC.policy("eyes")
        assert run.policies["camera"].observation_type == "uint8"
        (rows,) = blocks(run, run.policies["eyes"])
    names = [name for name in rows if name.startswith("observations")]
    assert names == [key.replace("obs", "observations", 1) for key in KEYS]
    assert rows["next_observations/view/image"].dtype == np.uint8
