"""Superseded segments: found by the lineage of starts.

Merges and exports leave them out unless the caller asks for them.
"""

from __future__ import annotations

import csv
import shutil
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmarl.analysis.export import export
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import UsageError
from hpcmarl.io.hdf5.schema import encode_value
from hpcmarl.io.starts import Start, write_start
from hpcmarl.io.trajectories import writer as trajectory
from hpcmarl.io.trajectories.live_segments import LiveSegments, overlaps, superseded
from hpcmarl.io.trajectories.merge import merge_shards
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards, verify_shard
from hpcmarl.io.trajectories.writer import TrajectoryWriter, files_a_day, shard_seconds
from tests.support.rollouts import make_spec, random_rollout

STEPS, SLOTS = 6, 2


def record(run: Path, start: int, rank: int, rollouts: int, first: int = 0, name: str = "abc") -> None:
    """Write one shard of one rank in one start of a run."""
    attributes = {"run": name, "start": start}
    writer = TrajectoryWriter(
        run / "trajectories",
        make_spec(),
        TrajectoriesConfig(),
        rank=rank,
        role="actor",
        host="h",
        attributes=attributes,
    )
    writer.rollouts = first
    generator = np.random.default_rng([start, rank])
    for _ in range(rollouts):
        writer.append(random_rollout(make_spec(), STEPS, SLOTS, generator))
    writer.close()
    assert writer.error is None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two starts, the second of which resumed from a checkpoint.

    Start 1 recorded 5 rollouts on each of ranks 1 and 2. The checkpoint contained 3 rollouts of rank 1 and
    none of rank 2.
    """
    run = tmp_path / "run"
    run.mkdir()
    record(run, 1, 1, 5)
    record(run, 1, 2, 5)
    write_start(run, Start(1, run="abc"))
    write_start(run, Start(2, 1, 40, {1: 3, 2: 0}, run="abc"))
    record(run, 2, 1, 4)
    return run


def kept(path: Path) -> set[tuple[int, int, int, int]]:
    """Return (run, start, rank, rollout) of each segment of a file."""
    with ShardReader(path) as reader:
        names = ("run", "start_number", "rank", "rollout")
        return {(*row,) for row in zip(*(reader.index[name].tolist() for name in names), strict=True)}


LIVE = {(0, 1, 1, number) for number in range(3)} | {(0, 2, 1, number) for number in range(4)}


def test_superseded_segments_are_counted_by_start(run: Path) -> None:
    counts = superseded([run])
    assert set(counts) == {"1"}
    assert counts["1"]["steps"] == (2 + 5) * STEPS * SLOTS


def test_merge_leaves_superseded_segments_out(run: Path, tmp_path: Path) -> None:
    result = merge_shards([run], tmp_path / "merged.h5")
    assert kept(tmp_path / "merged.h5") == LIVE
    assert result["steps"] == 7 * STEPS * SLOTS
    verify_shard(tmp_path / "merged.h5")
    with ShardReader(tmp_path / "merged.h5") as merged, ShardReader(list_shards(run)[0]) as first:
        (_, rows), (_, own) = next(merged.slabs("steps/agent")), next(first.slabs("steps/agent"))
        np.testing.assert_array_equal(rows["reward"][: 3 * STEPS * SLOTS], own["reward"][: 3 * STEPS * SLOTS])
    merge_shards([run], tmp_path / "all.h5", superseded=True)
    assert len(kept(tmp_path / "all.h5")) == 14


def test_merged_segments_keep_their_run_and_rank(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    record(other, 1, 1, 2, name="xyz")
    merge_shards([run, other], tmp_path / "merged.h5")
    assert kept(tmp_path / "merged.h5") == LIVE | {(1, 1, 1, 0), (1, 1, 1, 1)}
    with ShardReader(tmp_path / "merged.h5") as reader:
        assert reader.attributes["runs"] == ["abc", "xyz"]
    merge_shards([tmp_path / "merged.h5"], tmp_path / "again.h5")
    assert kept(tmp_path / "again.h5") == kept(tmp_path / "merged.h5")


def test_merge_of_nothing_but_superseded_segments_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"all .* segments are superseded by later starts; include them with --superseded"
    ):
        merge_shards([run / "trajectories" / "rank-0002"], tmp_path / "merged.h5")


@pytest.mark.parametrize("form", ["npz", "csv"])
@pytest.mark.parametrize("table", ["segments", "agent"])
def test_export_leaves_superseded_segments_out(run: Path, tmp_path: Path, form: str, table: str) -> None:
    less = export([run], tmp_path / f"less.{form}", form=form, table=table)
    more = export([run], tmp_path / f"more.{form}", form=form, table=table, superseded=True)
    assert more["rows"] == 2 * less["rows"] if table == "agent" else more["rows"] > less["rows"]
    assert {"rank", "start_number"} <= set(less["columns"])
    if form == "npz" and table == "agent":
        found = np.load(tmp_path / "less.npz")
        assert sorted(set(found["start_number"].tolist())) == [1, 2]
        assert set(found["rank"].tolist()) == {1}


def test_rollouts_in_two_shards_are_reported(run: Path) -> None:
    assert overlaps(run) == []
    record(run, 2, 1, 2, first=3)
    (found,) = overlaps(run)
    assert found[0].name == "shard-000002.h5"
    assert "holds rollouts 3 to 3 of rank 1 in start 2, which shard-000001.h5 holds, too" in found[1]


def test_every_shard_with_doubles_is_reported(run: Path) -> None:
    """The long rollout span of one shard contains the short spans of two others.

    Only the first short span follows the long one directly in sorted order.
    """
    record(run, 3, 1, 40)
    record(run, 3, 1, 2, first=5)
    record(run, 3, 1, 2, first=30)
    assert [(shard.name, why.split(",")[0]) for shard, why in overlaps(run)] == [
        ("shard-000003.h5", "holds rollouts 5 to 6 of rank 1 in start 3"),
        ("shard-000004.h5", "holds rollouts 30 to 31 of rank 1 in start 3"),
    ]


def test_interleaved_rollouts_are_no_doubles(run: Path) -> None:
    """A frozen actor and its replacement write at the same time."""
    shard = list_shards(run)[-1]
    other = shard.with_name("shard-000009.h5")
    other.write_bytes(shard.read_bytes())
    for file, numbers in ((shard, [0, 2]), (other, [1, 3])):
        with h5py.File(file, "r+") as opened:
            column = opened["segments/rollout"]
            column[...] = np.resize(numbers, len(column))
    assert overlaps(shard.parent) == []


@pytest.mark.parametrize("runs", [3, "abc", ["a", "b", "c"], []])
def test_crafted_runs_attribute_is_no_crash(run: Path, tmp_path: Path, runs: object) -> None:
    with h5py.File(list_shards(run)[0], "r+") as file:
        file.attrs["runs"] = encode_value(runs)
    assert overlaps(run) == []
    merge_shards([run], tmp_path / "merged.h5")
    export([run], tmp_path / "x.csv", form="csv")


@pytest.mark.parametrize("form", ["merge", "npz", "csv"])
def test_a_run_and_its_copy_are_not_taken_together(run: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(run, tmp_path / "copy")
    out = tmp_path / f"out.{form}"
    write = merge_shards if form == "merge" else partial(export, form=form)
    with pytest.raises(
        UsageError,
        match=r"copy.*-000000.h5: holds rollouts 0 to 4 of rank 1 in start 1, which .*run.* holds, too",
    ):
        write([run, tmp_path / "copy"], out)
    assert not out.exists()
    assert list(tmp_path.glob("*.partial")) == []


def test_merged_file_and_its_run_are_not_taken_together(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    record(other, 1, 1, 2, name="xyz")
    merge_shards([run, other], tmp_path / "merged.h5")
    with pytest.raises(UsageError, match="holds, too"):
        merge_shards([tmp_path / "merged.h5", other], tmp_path / "again.h5")


@pytest.mark.parametrize("table", ["segments", "agent", "env"])
def test_exported_rows_keep_their_run_and_rollout(run: Path, tmp_path: Path, table: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    record(other, 1, 1, 2, name="xyz")
    export([run, other], tmp_path / "x.npz", form="npz", table=table)
    found = np.load(tmp_path / "x.npz")
    assert found["runs"].tolist() == ["abc", "xyz"]
    keys = {
        (*row,)
        for row in zip(
            *(found[name].tolist() for name in ("run", "start_number", "rank", "rollout")), strict=True
        )
    }
    assert keys == LIVE | {(1, 1, 1, 0), (1, 1, 1, 1)}
    assert len(found["run"]) == len(found["slot"])
    export([run, other], tmp_path / "x.csv", form="csv", table=table)
    with (tmp_path / "x.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    named = {
        (line["run"], *(int(line[name]) for name in ("start_number", "rank", "rollout"))) for line in lines
    }
    assert named == {(["abc", "xyz"][key[0]], *key[1:]) for key in keys}


def test_file_without_origin_columns_counts_as_live(run: Path) -> None:
    shard = list_shards(run)[-1]
    with h5py.File(shard, "r+") as file:
        for name in ("rank", "run", "start_number", "rollout"):
            del file["segments"][name]
        del file.attrs["start"]
    with ShardReader(shard) as reader:
        assert LiveSegments().of(reader).all()
        assert set(reader.index["rank"].tolist()) == {2}


def test_shards_of_two_writers_never_share_a_name(tmp_path: Path) -> None:
    """Two processes list the same directory at the same moment."""
    given = {"rank": 1, "role": "actor", "host": "h", "attributes": {}}
    writers = [TrajectoryWriter(tmp_path, make_spec(), TrajectoriesConfig(), **given) for _ in range(2)]
    for writer in writers:
        writer.append(random_rollout(make_spec(), STEPS, SLOTS, np.random.default_rng(1)))
    for writer in writers:
        writer.close()
        assert writer.error is None
    assert [shard.name for shard in list_shards(tmp_path)] == ["shard-000000.h5", "shard-000001.h5"]


def test_a_taken_name_is_never_replaced(tmp_path: Path) -> None:
    writer = TrajectoryWriter(
        tmp_path, make_spec(), TrajectoriesConfig(), rank=1, role="actor", host="h", attributes={}
    )
    (tmp_path / "rank-0001" / "shard-000000.h5").write_bytes(b"another's")
    writer.append(random_rollout(make_spec(), STEPS, SLOTS, np.random.default_rng(1)))
    writer.close()
    assert (tmp_path / "rank-0001" / "shard-000000.h5").read_bytes() == b"another's"
    verify_shard(tmp_path / "rank-0001" / "shard-000001.h5")


def test_files_a_day_are_bounded() -> None:
    config = TrajectoriesConfig()
    assert files_a_day(config, 1) == 86400 / config.shard_seconds
    assert files_a_day(config, 128) == files_a_day(config, 10_000)
    assert shard_seconds(config, 4) == config.shard_seconds


def test_ranks_close_their_first_shards_at_different_times(tmp_path: Path) -> None:
    given = {"role": "actor", "host": "h", "attributes": {}}
    writers = [
        TrajectoryWriter(tmp_path, make_spec(), TrajectoriesConfig(), rank=rank, **given)
        for rank in range(50)
    ]
    first = sorted(writer._first_lifetime for writer in writers)
    for writer in writers:
        writer.close()
    assert min(first) >= 0.5 * trajectory.shard_seconds(TrajectoriesConfig(), 1)
    assert max(np.diff(first)) < 3 * (first[-1] - first[0]) / 50
