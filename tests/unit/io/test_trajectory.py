"""Trajectories: segments against a slow twin, round trips through shards, limits, xarray, merge."""

import logging
import os
import sys
import threading
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import ConfigError, FormatError, MissingPackageError, StorageError, UsageError
from hpcmarl.io.hdf5.schema import read_attributes
from hpcmarl.io.trajectories import writer as trajectory
from hpcmarl.io.trajectories.layout import COMMITTED, INDEX, INDEX_COLUMNS, ORIGIN
from hpcmarl.io.trajectories.merge import merge_shards
from hpcmarl.io.trajectories.segments import cut_segments, slot_major
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import check_shard, list_shards, verify_shard
from hpcmarl.io.trajectories.writer import TrajectoryWriter, copy_rollout, rollout_bytes, shard_rows
from hpcmarl.types import EnvironmentSpec, Episode, PolicySpec
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec, random_rollout
from tests.support.trajectories import check_segments, read, slow_segments, with_episodes

TWO = (
    PolicySpec("red-1", ("a", "b"), (4,), MULTI_DISCRETE, True),
    PolicySpec("blue", ("zoë",), (2, 3, 2), CONTINUOUS),
)
ATTRIBUTES = {"config": "seed: 3\n", "seeds": [3, 4]}


def write(directory, spec: EnvironmentSpec, rollouts, start=0, **config):
    attributes = {**ATTRIBUTES, "start": start}
    writer = TrajectoryWriter(
        directory,
        spec,
        TrajectoriesConfig(**config),
        rank=2,
        role="actor",
        host="node",
        attributes=attributes,
    )
    for rollout in rollouts:
        writer.append(rollout)
    writer.close()
    return writer


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    st.integers(0, 2**32),
)
def test_segments_equal_the_reference_implementation(steps, slots, deaths, end_rate, seed):
    generator = np.random.default_rng(seed)
    rollout = with_episodes(
        random_rollout(make_spec(*TWO), steps, slots, generator, deaths=deaths, end_rate=end_rate), generator
    )
    rollout = replace(rollout, slots=rollout.slots + 10)  # those of a later actor
    segments = cut_segments([rollout])
    expected = slow_segments(rollout)
    assert segments.index["length"].tolist() == [
        stop - first for first, stop in (segment["steps"] for segment in expected)
    ]
    assert segments.index["start"].tolist() == [
        segment["column"] * steps + segment["steps"][0] for segment in expected
    ]
    for name in ("slot", "episode", "first_step", "terminated", "truncated"):
        assert segments.index[name].tolist() == [segment[name] for segment in expected]
    np.testing.assert_array_equal(segments.index["return_mean"], [segment["return"] for segment in expected])
    for name in rollout.policies:
        np.testing.assert_array_equal(
            segments.final_obs[name], [segment["final"][name] for segment in expected]
        )
    np.testing.assert_array_equal(segments.final_state, [segment["final"]["env"] for segment in expected])
    assert set(INDEX_COLUMNS) - set(ORIGIN) == set(segments.index)


def test_rollouts_cut_together_equal_rollouts_cut_alone():
    """Rollouts differ in steps and slots, as whole episodes do."""
    generator, spec = np.random.default_rng(3), make_spec(*TWO)
    rollouts = [
        with_episodes(random_rollout(spec, steps, slots, generator, end_rate=0.3), generator)
        for steps, slots in ((5, 3), (1, 1), (8, 2), (4, 4))
    ]
    rollouts = [replace(rollout, actor=place) for place, rollout in enumerate(rollouts)]
    origin = {"rank": 2, "run": 0, "start_number": 1}
    together, count = shard_rows(rollouts, [4, 5, 9, 12], 100, origin)
    first_row, parts = 100, []
    for rollout, number in zip(rollouts, (4, 5, 9, 12), strict=True):
        parts.append(shard_rows([rollout], [number], first_row, origin))
        first_row += rollout.steps * rollout.count
    assert count == sum(segments for _, segments in parts)
    for group, columns in together.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, np.concatenate([rows[group][name] for rows, _ in parts]))


def test_slot_major_orders_rows_by_slot_then_step():
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    assert slot_major([array]).tolist() == [
        array[step, slot].tolist() for slot in range(3) for step in range(2)
    ]


def test_episode_numbers_follow_the_episode_records():
    """An environment may skip empty episodes, so episode numbers can jump."""
    rollout = random_rollout(make_spec(), 4, 2, np.random.default_rng(0), end_rate=0.0)
    rollout.episode_end[1] = 1
    rollout.episode[:] = 5
    ended = [Episode(0, 5, 1, 0.0, {}, True), Episode(1, 9, 1, 0.0, {}, True)]
    assert cut_segments([replace(rollout, episodes=ended)]).index["episode"].tolist() == [5, 6, 9, 10]


def test_whole_episode_segment_has_its_return():
    generator = np.random.default_rng(0)
    rollout = random_rollout(make_spec(), 7, 1, generator, whole_episode=True)
    rollout = replace(rollout, slots=np.array([4]), episodes=[Episode(0, 3, 7, 1.5, {"agent": 1.5}, True)])
    index = cut_segments([rollout]).index
    assert (index["return_mean"].tolist(), index["slot"].tolist(), index["length"].tolist()) == (
        [1.5],
        [4],
        [7],
    )


@pytest.mark.parametrize("compression", ["none", "lzf", "gzip", "zstd", "blosc_lz4"])
def test_round_trip_with_every_compression(tmp_path, compression):
    generator = np.random.default_rng(1)
    spec = make_spec(*TWO)
    rollouts = [
        with_episodes(
            random_rollout(spec, int(generator.integers(1, 9)), 3, generator, deaths=True), generator
        )
        for _ in range(8)
    ]
    writer = write(tmp_path, spec, rollouts, compression=compression)
    assert writer.error is None
    (shard,) = list_shards(tmp_path)
    assert shard == tmp_path / "rank-0002" / "shard-000000.h5"
    check_segments([read(shard)], rollouts)
    verify_shard(shard)
    steps = sum(rollout.steps * rollout.count for rollout in rollouts)
    assert writer.statistics == {"bytes": shard.stat().st_size, "steps": steps, "shards": 1, "dropped": 0}
    with h5py.File(shard) as file:
        attributes = read_attributes(file)
        assert {key: attributes[key] for key in ("env", "rank", "role", "host", "config", "seeds")} == {
            "env": "tests.random",
            "rank": 2,
            "role": "actor",
            "host": "node",
            "config": "seed: 3\n",
            "seeds": [3, 4],
        }
        assert file["steps/red-1/logp"].attrs["units"] == "nat"


def test_trajectories_round_trip_over_many_chunks_and_shards(tmp_path):
    generator = np.random.default_rng(2)
    spec = make_spec(PolicySpec("agent", ("x", "y"), (200,), DISCRETE, True), state_size=None)
    rollouts = [with_episodes(random_rollout(spec, 40, 8, generator), generator) for _ in range(20)]
    write(tmp_path, spec, rollouts, shard_megabytes=4)
    shards = list_shards(tmp_path)
    assert len(shards) > 1
    with h5py.File(shards[0]) as file:
        assert file["steps/agent/obs"].id.get_num_chunks() > 1
    check_segments([read(shard) for shard in shards], rollouts)


def test_turn_based_trajectories_without_state_round_trip(tmp_path):
    generator = np.random.default_rng(3)
    spec = make_spec(turn_based=True, state_size=None, has_mask=True)
    rollouts = [with_episodes(random_rollout(spec, 6, 2, generator), generator) for _ in range(3)]
    write(tmp_path, spec, rollouts)
    check_segments([read(shard) for shard in list_shards(tmp_path)], rollouts)


def test_append_copies_arrays_reused_by_the_caller(tmp_path):
    generator = np.random.default_rng(4)
    spec = make_spec(has_mask=True)
    rollout = with_episodes(random_rollout(spec, 5, 2, generator), generator)
    kept = copy_rollout(rollout)
    writer = TrajectoryWriter(
        tmp_path, spec, TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={}
    )
    writer.append(rollout)
    for holder in (rollout, *rollout.policies.values()):
        for value in vars(holder).values():
            if isinstance(value, np.ndarray):
                value[...] = 0
    rollout.episodes.clear()
    writer.close()
    check_segments([read(shard) for shard in list_shards(tmp_path)], [kept])


def test_shard_numbers_continue_after_existing_shards(tmp_path):
    generator = np.random.default_rng(5)
    rollouts = [random_rollout(make_spec(), 4, 2, generator)]
    write(tmp_path, make_spec(), rollouts)
    (tmp_path / "rank-0002" / "shard-000007.h5.partial").write_bytes(b"killed")
    write(tmp_path, make_spec(), rollouts)
    assert sorted(os.listdir(tmp_path / "rank-0002")) == [
        "shard-000000.h5",
        "shard-000007.h5.partial",
        "shard-000008.h5",
    ]


def test_nothing_appended_leaves_no_file(tmp_path):
    write(tmp_path, make_spec(), [])
    assert list_shards(tmp_path) == []


def test_every_option_keeps_one_version_in_n(tmp_path):
    generator = np.random.default_rng(6)
    rollouts = [replace(random_rollout(make_spec(), 4, 2, generator), version=number) for number in range(7)]
    write(tmp_path, make_spec(), rollouts, every=3)
    assert sorted(set(read(list_shards(tmp_path)[0])[INDEX]["version"])) == [0, 3, 6]


def test_shards_close_by_time_without_further_appends(tmp_path, monkeypatch):
    published = threading.Event()
    close = ShardFile.close
    monkeypatch.setattr(ShardFile, "close", lambda shard: (close(shard), published.set()))
    writer = TrajectoryWriter(
        tmp_path,
        make_spec(),
        TrajectoriesConfig(shard_seconds=0.05),
        rank=0,
        role="actor",
        host="h",
        attributes={},
    )
    writer.append(random_rollout(make_spec(), 4, 2, np.random.default_rng(0)))
    assert published.wait(30)
    assert len(list_shards(tmp_path)) == 1
    writer.close()


def test_shards_close_on_time_while_the_queue_is_never_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcmarl.io.trajectories.writer.WAKE_SECONDS", 0.01)
    config = TrajectoriesConfig(shard_seconds=0.1)
    writer = TrajectoryWriter(tmp_path, make_spec(), config, rank=0, role="actor", host="h", attributes={})
    rollout = random_rollout(make_spec(), 4, 2, np.random.default_rng(1))
    take, shards = writer._take, []

    def endless(*arguments):
        take(*arguments)
        shards.append(writer.statistics["shards"])
        if len(shards) < 400 and not shards[-1]:
            time.sleep(0.005)
            writer.append(rollout)

    monkeypatch.setattr(writer, "_take", endless)
    writer.append(rollout)
    writer.close()
    assert max(shards) >= 1


def test_max_gigabytes_stops_writing_with_one_warning(tmp_path, caplog):
    generator = np.random.default_rng(7)
    rollouts = [random_rollout(make_spec(), 50, 16, generator) for _ in range(20)]
    with caplog.at_level(logging.WARNING):
        writer = write(tmp_path, make_spec(), rollouts, max_gigabytes=0.0005)
    assert writer.error is None
    assert caplog.text.count("trajectories.max_gigabytes") == 1
    stored = sum(data[INDEX]["length"].sum() for data in map(read, list_shards(tmp_path)))
    assert stored == writer.statistics["steps"] == (20 - writer.statistics["dropped"]) * 800
    assert 0 < writer.statistics["dropped"] < 20
    again = write(tmp_path, make_spec(), rollouts[:3], max_gigabytes=0.0005)  # stored files count
    assert again.statistics["dropped"] == 3


def test_full_queue_drops_and_counts_trajectories(tmp_path, monkeypatch):
    generator = np.random.default_rng(8)
    rollout = random_rollout(make_spec(), 20, 8, generator)
    monkeypatch.setattr(trajectory, "QUEUE_BYTES", 3 * rollout_bytes(rollout))
    go_on, store = threading.Event(), TrajectoryWriter._store
    monkeypatch.setattr(TrajectoryWriter, "_store", lambda self, *item: (go_on.wait(30), store(self, *item)))
    writer = TrajectoryWriter(
        tmp_path, make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={}
    )
    for _ in range(10):
        writer.append(rollout)
    go_on.set()
    writer.close()
    assert writer.statistics["dropped"] == 7
    assert writer.statistics["steps"] == 3 * 160


def test_disk_failure_never_raises_in_append(tmp_path, monkeypatch, caplog):
    generator = np.random.default_rng(9)
    rollouts = [random_rollout(make_spec(), 4, 2, generator) for _ in range(3)]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardFile, "append", full)
    writer = write(tmp_path, make_spec(), rollouts)
    assert "disk is full" in writer.error
    assert "No space left" in caplog.text
    assert list_shards(tmp_path) == []
    with pytest.raises(StorageError, match="disk is full"):
        writer.check()
    writer.append(rollouts[0])


def test_trajectory_writer_rejects_invalid_arguments(tmp_path, monkeypatch):
    def make(spec=None, directory=tmp_path, **config):
        return TrajectoryWriter(
            directory,
            spec or make_spec(),
            TrajectoriesConfig(**config),
            rank=0,
            role="actor",
            host="h",
            attributes={},
        )

    with pytest.raises(ConfigError, match=r"policies\.env"):
        make(make_spec(PolicySpec("env", ("a",), (3,), DISCRETE)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        make(directory=tmp_path / "file")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MissingPackageError, match="pip install hdf5plugin"):
        make(compression="zstd")


def test_xarray_opens_every_group(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    generator = np.random.default_rng(10)
    spec = make_spec(*TWO)
    rollouts = [with_episodes(random_rollout(spec, 5, 3, generator), generator)]
    write(tmp_path, spec, rollouts)
    (shard,) = list_shards(tmp_path)
    data = read(shard)
    for group, columns in data.items():
        with xarray.open_dataset(shard, engine="h5netcdf", group=group) as dataset:
            assert set(dataset.data_vars) - {COMMITTED} == set(columns)
            for name, values in columns.items():
                np.testing.assert_array_equal(dataset[name].values, values)
                assert dataset[name].dims[0] == ("step" if group.startswith("steps/") else "segment")
    with xarray.open_dataset(shard, engine="h5netcdf", group="steps/blue") as dataset:
        assert dataset["obs"].dims == ("step", "agent", "feature_0", "feature_1", "feature_2")
        assert dataset["action"].dims == ("step", "agent", "component")
        assert [name.decode() for name in dataset["agent"].values] == ["zoë"]
        assert dataset["reward"].attrs["units"] == "reward"


def test_damaged_shards_fail_verification(tmp_path):
    generator = np.random.default_rng(11)
    rollout = random_rollout(make_spec(), 10, 4, generator)
    write(tmp_path, make_spec(), [rollout])
    (shard,) = list_shards(tmp_path)
    good = shard.read_bytes()
    where = good.index(slot_major([rollout.policies["agent"].obs[:10]]).tobytes())
    bad = bytearray(good)
    bad[where + 5] ^= 1
    shard.write_bytes(bad)
    check_shard(shard)
    with pytest.raises(FormatError, match="damaged"):
        verify_shard(shard)
    for length in (100, len(good) // 2, len(good) - 1):
        shard.write_bytes(good[:length])
        with pytest.raises(FormatError, match=str(shard)):
            verify_shard(shard)
    for name, change in {
        "segments/length": lambda values: values + 1,
        "segments/start": lambda values: values * 0,
        "steps/env/episode_end": lambda values: values[:-1],
    }.items():
        shard.write_bytes(good)
        with h5py.File(shard, "r+") as file:
            values = change(file[name][()])
            file[name].resize(len(values), 0)
            file[name][...] = values
        with pytest.raises(FormatError):
            check_shard(shard)
    shard.write_bytes(good)
    with h5py.File(shard, "r+") as file:
        del file["steps/env"]
    with pytest.raises(FormatError, match="missing"):
        check_shard(shard)


def test_merged_shards_equal_their_concatenation(tmp_path):
    generator = np.random.default_rng(12)
    spec = make_spec(*TWO)
    rollouts = [with_episodes(random_rollout(spec, 8, 4, generator), generator) for _ in range(9)]
    for part in range(3):
        write(tmp_path / "trajectories", spec, rollouts[3 * part : 3 * part + 3], start=part)
    files = [read(shard) for shard in list_shards(tmp_path)]
    assert len(files) == 3
    result = merge_shards([tmp_path, tmp_path / "trajectories"], tmp_path / "all.h5", "gzip")
    assert (result["shards"], result["steps"]) == (3, 9 * 32)
    merged = read(tmp_path / "all.h5")
    for group, columns in merged.items():
        for name, values in columns.items():
            if (group, name) != (INDEX, "start"):
                np.testing.assert_array_equal(values, np.concatenate([data[group][name] for data in files]))
    check_segments([merged], rollouts)
    with h5py.File(tmp_path / "all.h5") as file:
        assert len(read_attributes(file)["merged_from"]) == 3
    with pytest.raises(UsageError, match="exists"):
        merge_shards([tmp_path], tmp_path / "all.h5")
    write(tmp_path / "other", make_spec(), [random_rollout(make_spec(), 3, 2, generator)])
    with pytest.raises(UsageError, match="another environment or layout"):
        merge_shards([tmp_path, tmp_path / "other"], tmp_path / "mixed.h5")
    with pytest.raises(UsageError, match="no finished shards"):
        merge_shards([make_empty(tmp_path)], tmp_path / "none.h5")
    assert not list(tmp_path.glob("*.partial"))


def make_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"
