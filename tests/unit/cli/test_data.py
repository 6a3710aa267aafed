"""`hpcmarl data`: output, JSON and exit codes; exports against the shards."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hpcmarl.cli.data import data_app
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import UsageError
from hpcmarl.io.checkpoint import save_checkpoint
from hpcmarl.io.metrics import write_summary
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.io.trajectories.layout import INDEX
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from hpcmarl.types import PolicySpec
from tests.support.rollouts import MULTI_DISCRETE, make_spec, random_rollout
from tests.support.trajectories import read, with_episodes

SPEC = make_spec(
    PolicySpec("walkers", ("a", "b"), (4,), MULTI_DISCRETE, True),
    PolicySpec("flyer", ("c",), (2, 2), MULTI_DISCRETE),
)


def call(*arguments, code=0):
    """Return the standard output of a command after a check of its exit code."""
    result = CliRunner().invoke(data_app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def call_json(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code))


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create("seed: 1\n")
    generator = np.random.default_rng(0)
    for rank in (1, 2):
        writer = TrajectoryWriter(
            directory.trajectories,
            SPEC,
            TrajectoriesConfig(),
            rank=rank,
            role="actor",
            host="h",
            attributes={},
        )
        for _ in range(3):
            writer.append(with_episodes(random_rollout(SPEC, 6, 2, generator, end_rate=0.5), generator))
        writer.close()
    save_checkpoint(
        directory.checkpoints, {"engine": {"round": 7, "parameters": np.zeros(5)}}, version=7, attributes={}
    )
    metrics = MetricsWriter(directory.path)
    metrics.append({"version": 7, "x": float("nan")})
    metrics.close()
    write_summary(directory.path, {"status": "done"})
    return directory.path


def test_inspect_reports_run_shard_checkpoint_and_metrics(run):
    shard, checkpoint = list_shards(run)[0], run / "checkpoints" / "checkpoint-0000000007.h5"
    whole, one, state, metrics = call_json("inspect", run, shard, checkpoint, run / "metrics.h5")["files"]
    assert (whole["status"], whole["shards"], whole["steps"], whole["ranks"], whole["metrics_rows"]) == (
        "done",
        2,
        72,
        [1, 2],
        1,
    )
    assert whole["checkpoints"] == [checkpoint.name]
    assert (one["steps"], one["env"], one["rank"]) == (36, "tests.random", 1)
    assert one["policies"]["walkers"]["obs"] == "float32[2, 4]"
    assert "config" not in one
    assert state["state"]["engine"] == {"round": 7, "parameters": "float64[5]"}
    assert (metrics["rows"], metrics["last_row"]) == (1, {"version": 7.0, "x": None})
    text = call("inspect", run, shard)
    assert "policies.walkers.obs" in text
    assert str(shard) in text


def test_verify_reports_good_bad_and_open_files(run):
    assert call_json("verify", run)["bad"] == 0
    shard = list_shards(run)[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    (run / "trajectories" / "rank-0001" / "shard-000009.h5.partial").write_bytes(b"x")
    (run / "summary.json").write_text("{")
    found = call_json("verify", run, code=1)
    assert (found["good"], found["bad"], found["open"]) == (4, 2, 1)
    bad = {item["path"]: item["reason"] for item in found["files"] if item["status"] == "bad"}
    assert set(bad) == {str(shard), str(run / "summary.json")}
    assert "truncated" in bad[str(shard)]
    text = call("verify", run, code=1)
    assert "4 good, 2 bad, 1 open" in text
    assert f"bad     {shard}" in text
    assert call_json("verify", list_shards(run)[1])["good"] == 1


def test_salvage_command_recovers_killed_shards(run):
    assert call_json("salvage", run) == {"files": [], "recovered_steps": 0, "lost_steps_known": 0}
    assert "no shard is open or cut short" in call("salvage", run)
    whole = list_shards(run)[0]
    partial = whole.with_name("shard-000005.h5.partial")
    # as if the run was killed between closing and renaming the shard
    whole.rename(partial)
    assert call_json("salvage", run, "--remove")["recovered_steps"] == 36
    assert not partial.exists()
    assert whole.with_name("shard-000005.h5") in list_shards(run)
    partial.with_name("shard-000006.h5.partial").write_bytes(b"garbage")
    assert "failed" in call("salvage", run, code=1)


def test_verify_names_the_command_that_recovers_a_bad_shard(run):
    """Bad bytes inside a chunk are found by `verify` alone.

    Salvage of a whole run checks only the structure of the shards, and its output says so.
    """
    shard = list_shards(run)[0]
    with ShardReader(shard) as reader:
        chunk = reader.file["steps/walkers/reward"].id.get_chunk_info(0)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset + 4] ^= 0xFF
    shard.write_bytes(content)
    (bad,) = [item for item in call_json("verify", run, code=1)["files"] if item["status"] == "bad"]
    assert bad["reason"].endswith(f"; `hpcmarl data salvage {shard}` recovers the undamaged segments")
    assert "no shard is open or cut short" in call("salvage", run)
    assert "`hpcmarl data verify` reads all bytes" in call("salvage", run)
    assert call_json("salvage", shard, code=1)["files"][0]["status"] == "failed"  # its only chunk is bad


def test_merge_command_writes_one_file_and_rejects_existing(run, tmp_path):
    result = call_json("merge", run, "--out", tmp_path / "all.h5", "--compression", "gzip")
    assert (result["shards"], result["steps"]) == (2, 72)
    assert call_json("verify", tmp_path / "all.h5")["good"] == 1
    with pytest.raises(UsageError, match="exists"):
        CliRunner().invoke(
            data_app, ["merge", str(run), "--out", str(tmp_path / "all.h5")], catch_exceptions=False
        )


def test_exported_npz_equals_the_shards(run, tmp_path):
    shards = [read(shard) for shard in list_shards(run)]
    for table, group in (("segments", INDEX), ("walkers", "steps/walkers"), ("env", "steps/env")):
        out = tmp_path / f"{table}.npz"
        result = call_json("export", run, "--out", out, "--table", table)
        with np.load(out) as archive:
            assert sorted(archive.files) == sorted(result["columns"])
            for name in shards[0][group]:
                np.testing.assert_array_equal(
                    archive[name], np.concatenate([data[group][name] for data in shards])
                )
            if table != "segments":
                with ShardReader(list_shards(run)[0]) as reader:
                    keys = reader.row_keys(0, reader.steps)
                np.testing.assert_array_equal(archive["episode_step"][:36], keys["episode_step"])


def test_row_keys_agree_with_the_index(run):
    with ShardReader(list_shards(run)[0]) as reader:
        keys = reader.row_keys(0, reader.steps)
        for place in range(reader.segments):
            row = {name: values[place] for name, values in reader.index.items()}
            for step in range(row["length"]):
                at = row["start"] + step
                assert keys["episode_step"][at] == row["first_step"] + step
                assert all(keys[name][at] == row[name] for name in ("slot", "episode", "version", "actor"))


def test_exported_csv_equals_the_shards(run, tmp_path):
    shards = [read(shard) for shard in list_shards(run)]
    call("export", run, "--out", tmp_path / "segments.csv")
    with (tmp_path / "segments.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [int(line["length"]) for line in lines] == np.concatenate(
        [data[INDEX]["length"] for data in shards]
    ).tolist()
    call("export", run, "--out", tmp_path / "steps.txt", "--format", "csv", "--table", "walkers")
    with (tmp_path / "steps.txt").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 72 * 2
    assert [line["agent"] for line in lines[:3]] == ["a", "b", "a"]
    obs = np.concatenate([data["steps/walkers"]["obs"] for data in shards])
    assert np.float32(lines[5]["obs_3"]) == obs[2, 1, 3]
    action = np.concatenate([data["steps/walkers"]["action"] for data in shards])
    assert int(lines[5]["action_1"]) == action[2, 1, 1]
    assert set(lines[0]["alive"]) <= {"0", "1"}
    call("export", run, "--out", tmp_path / "env.csv", "--table", "env")
    with (tmp_path / "env.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 72


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.npz", "--table", "nobody"], r"--table nobody.*walkers"),
        (["--out", "x.parquet"], "neither .npz nor .csv"),
    ],
)
def test_export_rejects_unknown_tables_and_formats(run, tmp_path, arguments, words):
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(data_app, ["export", str(run), *arguments], catch_exceptions=False)


def test_data_usage_errors_exit_with_2_and_help_has_examples():
    call("verify", "/no/such/file", code=2)
    call("merge", code=2)
    for command in ("inspect", "verify", "salvage", "merge", "export"):
        assert f"hpcmarl data {command} runs/" in call(command, "--help")
