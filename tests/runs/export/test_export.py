"""`hpcmarl export` on runs of virtual ranks: files for other programs, and requests that are refused."""

import contextlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcmarl
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.run_lock import acquire
from tests.support.leagues import RPS
from tests.support.worlds import run_world

DOCS = Path(__file__).parents[3] / "docs"
TICTACTOE = """
env: {id: pettingzoo.classic.tictactoe_v3}
policies: {first: {agents: [player_1]}, second: {agents: [player_2]}}
algo: {name: ppo, unroll: 8, minibatches: 1, epochs: 1, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
eval: {episodes: 2, greedy: true}
stop: {updates: 3}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """A run of two actors whose episodes of 5 steps are recorded in unrolls of 3."""
    place = tmp_path_factory.mktemp("spread")
    run_world(3, place, "trajectories.enabled=true", "stop.updates=8", "algo.unroll=3", "eval.episodes=4")
    return place


@pytest.fixture(scope="module")
def tictactoe(tmp_path_factory):
    """A turn-based run with masks and two policies."""
    place = tmp_path_factory.mktemp("tictactoe")
    run_world(2, place, text=TICTACTOE)
    return place


def recorded(run):
    """Return the table of a run's episodes."""
    from hpcmarl.io.trajectories.episodes import find_episodes
    from hpcmarl.io.trajectories.shard_reader import list_shards

    return find_episodes(list_shards(run))


def test_the_documented_npz_example_gives_probabilities(run, spread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("export", spread, "--npz", "policy.npz")
    assert (code, out.partition(":")[0]) == (0, "policy.npz")
    text = (DOCS / "export.md").read_text()
    (example,) = (code for code in re.findall(r"(?s)```python\n(.*?)```", text) if "allow_pickle" in code)
    observation = np.linspace(-1, 1, 18, dtype=np.float32)
    names = {"observation": observation}
    exec(example, names)
    from hpcmarl.interface.policy import trained_policies

    model = trained_policies(spread, None)[0].algorithm
    expected = model.action_probs("agent", observation[None], None)[0]
    np.testing.assert_allclose(names["probabilities"], expected, rtol=1e-4)


def test_each_policy_gets_a_file_in_a_directory(run, run_json, tictactoe, tmp_path):
    pytest.importorskip("onnx", reason="needs hpcmarl[export]")
    result = run_json("export", tictactoe, "--onnx", tmp_path / "nets", "--torch", tmp_path / "programs")
    assert sorted(os.listdir(tmp_path / "nets")) == ["first.onnx", "second.onnx"]
    assert sorted(os.listdir(tmp_path / "programs")) == ["first.pt2", "second.pt2"]
    assert result["onnx"]["files"][0]["inputs"] == ["observation", "mask"]
    assert result["onnx"]["files"][0]["path"] == str(tmp_path / "nets" / "first.onnx")
    code, _, err = run("export", tictactoe, "--onnx", tmp_path / "one.onnx")
    assert code == 2
    assert "2 policies; name one with --policy (first, second), or a directory" in err
    code, _, err = run("export", tictactoe, "--torch", tmp_path / "one.pt2", "--policy", "third")
    assert code == 2
    assert "--policy third" in err
    assert "allowed: first, second" in err
    assert sorted(os.listdir(tmp_path)) == ["nets", "programs"]


def test_a_model_card_states_the_figures_of_the_run(run, spread, tictactoe, tmp_path):
    assert run("export", spread, "--card", tmp_path / "card.md")[0] == 0
    card = (tmp_path / "card.md").read_text()
    summary = hpcmarl.open_run(spread).summary
    assert f"| environment steps of the run | {summary['env_steps']:,} |" in card
    assert f"| mean return | {summary['evaluation']['return_mean']:.6g} |" in card
    assert "4 episodes at update 8, with actions chosen greedily." in card
    assert "| agent | agent_0, agent_1, agent_2 | [18] | 5 discrete | feed-forward |" in card
    assert "| `algo.unroll` | `3` |" in card
    (example,) = re.findall(r"(?s)```python\n(.*?)```", card)
    names = {"observations": {"agent_1": np.zeros(18)}}
    exec(example, names)
    assert list(names["actions"]) == ["agent_1"]
    killed = shutil.copytree(tictactoe, tmp_path / "killed")
    (killed / "summary.json").unlink()
    assert run("export", killed, "--card", tmp_path / "killed.md")[0] == 0
    card = (tmp_path / "killed.md").read_text()
    assert "| state of the run | killed |" in card
    assert "has written no summary" in card
    assert "has stored no evaluation" in card


def test_a_joint_minari_dataset_has_the_recorded_episodes(run_json, spread, tmp_path, monkeypatch):
    """Also if only one of the shards may be open at a time."""
    monkeypatch.setattr("hpcmarl.io.trajectories.episodes.OPEN_FILES", 1)
    result = run_json("export", spread, "--minari", tmp_path / "spread-v0", "--joint")["minari"]
    table = recorded(spread)
    assert result["episodes"] == len(table) > 5
    assert result["steps"] == table.columns["length"].sum()
    metadata = json.loads((tmp_path / "spread-v0" / "data" / "metadata.json").read_text())
    assert metadata["total_episodes"] == len(table)
    with h5py.File(tmp_path / "spread-v0" / "data" / "main_data.hdf5") as file:
        numbers = [file[f"episode_{place}"].attrs["episode"] for place in range(len(table))]
        assert sorted(numbers) == list(range(len(table)))
        for place, number in enumerate(numbers):
            episode, returned = file[f"episode_{place}"], table.columns["return_mean"][number]
            assert episode["rewards"][()].sum() == pytest.approx(returned, rel=1e-5)
            assert episode["observations/agent_2"].shape == (6, 18)
            assert episode["truncations"][()].tolist() == [False] * 4 + [True]
            # simple_spread truncates: the last observation is a real one
            assert episode["observations/agent_0"][5].any()
            assert set(episode["infos"]) == {"agent_0", "agent_1", "agent_2"}


def test_minari_loads_joint_and_single_agent_datasets(run, spread, tictactoe, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert run("export", spread, "--minari", tmp_path / "joint-v0")[0] == 0
    joint = minari.load_dataset("joint-v0")
    episode = joint[0]
    assert len(joint) == len(recorded(spread))
    assert joint.observation_space["agent_0"].shape == (18,)
    actions = {agent: values[0] for agent, values in episode.actions.items()}
    assert joint.action_space.contains(actions)
    single = ("--minari", tmp_path / "turns-v3", "--per-agent", "--policy", "second")
    assert run("export", tictactoe, *single)[0] == 0
    turns = minari.load_dataset("turns-v3")
    assert turns.spec.total_steps == sum(len(episode) for episode in turns.iterate_episodes())
    for episode in turns.iterate_episodes():
        assert episode.terminations[-1]
        chosen = np.take_along_axis(episode.infos["action_mask"], episode.actions[:, None], 1)
        assert chosen.all()
        assert abs(episode.rewards.sum()) <= 1


def test_flat_rows_add_up_to_the_returns_of_agents(run_json, tictactoe, tmp_path):
    """In a turn-based game an agent has rows only for its own turns."""
    result = run_json("export", tictactoe, "--flat", tmp_path / "steps.h5")["flat"]
    table = recorded(tictactoe)
    with h5py.File(tmp_path / "steps.h5") as file:
        assert file.attrs["format"] == "hpcmarl-flat"
        data = {name: {key: own[key][()] for key in own} for name, own in file.items()}
    assert sorted(data) == ["first", "second"]
    rows = sum(len(columns["rewards"]) for columns in data.values())
    assert rows == result["rows"] == table.columns["length"].sum()
    for number in range(len(table)):
        turns = np.concatenate([own["step"][own["episode"] == number] for own in data.values()])
        assert sorted(turns) == list(range(table.columns["length"][number]))
        total = sum(own["rewards"][own["episode"] == number].sum() for own in data.values())
        assert total / 2 == pytest.approx(table.columns["return_mean"][number], abs=1e-5)
    for own in data.values():
        last = np.append(own["episode"][1:] != own["episode"][:-1], True)
        np.testing.assert_array_equal(own["terminals"], last)
        assert not own["next_observations"][last].any()
        np.testing.assert_array_equal(own["next_observations"][~last], own["observations"][1:][~last[:-1]])


def test_parquet_files_have_the_values_of_the_run(run, run_json, spread, tmp_path):
    pytest.importorskip("pyarrow", reason="needs hpcmarl[export]")
    import pyarrow.parquet as pq

    flat, hdf5 = tmp_path / "steps.parquet", tmp_path / "steps.h5"
    run_json("export", spread, "--flat", flat, "--parquet", tmp_path / "metrics.parquet")
    metrics, columns = pq.read_table(tmp_path / "metrics.parquet"), read_metrics(spread)
    assert metrics.column_names == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(metrics[name].to_numpy(), values)
    assert metrics.schema.field("seconds").metadata[b"units"] == b"s"
    run_json("export", spread, "--flat", hdf5)
    table = pq.read_table(flat)
    about = json.loads(table.schema.metadata[b"hpcmarl"])
    assert about["agents"] == ["agent_0", "agent_1", "agent_2"]
    with h5py.File(hdf5) as file:
        assert set(table.column_names) == set(file["agent"])
        for name, dataset in file["agent"].items():
            values = np.array(table[name].to_pylist()).reshape(dataset.shape)
            np.testing.assert_array_equal(values.astype(dataset.dtype), dataset[()])


def test_a_member_of_a_league_is_exported_by_name(run, run_json, tmp_path):
    run_world(2, tmp_path / "league", "trajectories.enabled=true", text=RPS)
    league = tmp_path / "league"
    result = run_json(
        "export", league, "--member", "a", "--npz", tmp_path / "a.npz", "--card", tmp_path / "a.md"
    )
    assert result["npz"]["parameters"] > 0
    assert "league show" in (tmp_path / "a.md").read_text()
    code, _, err = run("export", league, "--npz", tmp_path / "b.npz")
    assert code == 2
    assert "is a league" in err
    code, _, err = run("export", league, "--flat", tmp_path / "b.h5")
    assert code == 2
    assert f"name the run of a member, as in {league}/members/NAME/0001" in err
    assert run("export", league / "members" / "a" / "0001", "--flat", tmp_path / "b.h5")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs at least one format; allowed: --onnx"),
        (("--onnx", "x.pt2"), "--onnx x.pt2: the name must end in .onnx or no ending (a directory)"),
        (("--npz", "taken.npz"), "--npz taken.npz: exists; choose another name or delete it first"),
        (("--npz", "taken2.npz"), "--npz taken2.json: exists"),
        (("--npz", "none/x.npz"), "directory none does not exist; create it first"),
        (("--flat", "x.parquet", "--parquet", "x.parquet"), "--flat writes x.parquet, too"),
        (("--minari", "spread"), "the name is the id of the dataset"),
        (("--npz", "x.npz", "--per-agent"), "belong to --minari DIR"),
        (("--npz", "x.npz", "--policy", "agent"), "belongs to --onnx, --torch, --minari and --flat"),
        (("--minari", "x-v0", "--policy", "agent"), "add --per-agent"),
        (("--flat", "x.h5", "--member", "a"), "--member a: belongs to --onnx"),
        (("--npz", "x.npz", "--member", "a"), "is not a league; leave the member out"),
    ],
)
def test_requests_that_do_not_fit_are_refused(run, spread, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("taken.npz", "taken2.json"):
        Path(name).touch()
    code, _, err = run("export", spread, *arguments)
    assert code == 2
    assert words in err
    assert sorted(os.listdir()) == ["taken.npz", "taken2.json"]


def test_a_missing_package_is_named_with_its_extra(run, spread, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = run("export", spread, "--onnx", tmp_path / "x.onnx")
    assert code == 2
    assert "--onnx needs the package onnx" in err
    assert "pip install 'hpcmarl[export]'" in err


def test_runs_without_complete_episodes_say_why(run, spread, tmp_path):
    wanted = ("--flat", tmp_path / "x.h5")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no trajectories; train with trajectories.enabled=true" in run("export", empty, *wanted)[2]
    assert "no such file or directory" in run("export", tmp_path / "none", *wanted)[2]
    killed = shutil.copytree(spread, tmp_path / "killed")
    for shard in killed.glob("trajectories/rank-*/shard-*.h5"):
        shard.rename(f"{shard}.partial")
    assert f"recover them with hpcmarl data salvage {killed}" in run("export", killed, *wanted)[2]
    lock = acquire(killed, {"host": "node7"}, lambda _: None)
    try:
        assert "the run is still running; the first shard closes after" in run("export", killed, *wanted)[2]
    finally:
        lock.release()
    damaged = shutil.copytree(spread, tmp_path / "damaged")
    shard = next(damaged.glob("trajectories/rank-*/shard-*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    code, _, err = run("export", damaged, *wanted)
    assert code == 1
    assert str(shard) in err
    assert not (tmp_path / "x.h5").exists()


def test_shards_of_different_spaces_are_not_mixed(run, spread, tictactoe, tmp_path):
    mixed = shutil.copytree(spread, tmp_path / "mixed")
    place = mixed / "trajectories" / "rank-0007"
    place.mkdir()
    shutil.copy(next(tictactoe.glob("trajectories/rank-*/shard-*.h5")), place / "shard-000000.h5")
    code, _, err = run("export", mixed, "--minari", tmp_path / "mixed-v0")
    assert code == 1
    assert "its agents or spaces differ from those of" in err
    assert sorted(os.listdir(tmp_path)) == ["mixed"]


@pytest.mark.parametrize("option", ["--npz", "--flat", "--minari", "--parquet", "--torch", "--card"])
def test_a_full_disk_leaves_no_files(run, spread, small_disk, option):
    names = {"--npz": "x.npz", "--flat": "x.h5", "--minari": "x-v0", "--torch": "x.pt2", "--card": "x.md"}
    if option == "--parquet":
        pytest.importorskip("pyarrow", reason="needs hpcmarl[export]")
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    code, _, err = run("export", spread, option, small_disk / names.get(option, "x.parquet"))
    assert code == 1
    assert "the disk is full" in err
    assert os.listdir(small_disk) == ["filler"]
