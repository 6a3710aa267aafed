"""Runs on environments whose observations are images and dictionaries: workers, replay, leagues, files."""

import h5py
import numpy as np
import pytest

import hpcmarl
from hpcmarl.errors import UsageError
from hpcmarl.io.trajectories.shard_reader import list_shards
from tests.support.observations import IMAGE, LEAGUE, Seeing
from tests.support.worlds import final_parameters, run_world, summary

DICT = """
env: {id: "tests.support.observations:Seeing", kwargs: {cut: true}}
algo: {name: ma_trace, unroll: 4, network: {hidden: [8], encoder: flat}}
topology: {environments_per_actor: 4}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 4}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
FLAT = "algo.network={hidden: [4], encoder: flat}"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a run with recorded episodes of dictionaries."""
    directory = tmp_path_factory.mktemp("recorded")
    run_world(3, directory, "trajectories.enabled=true", text=DICT)
    return directory


def test_workers_write_dictionaries_as_the_actor_does(tmp_path):
    changes = ("topology.actors_per_learner=1", "deterministic=true")
    run_world(2, tmp_path / "fused", *changes, text=DICT)
    run_world(4, tmp_path / "workers", *changes, "topology.workers_per_actor=2", text=DICT, order=3)
    np.testing.assert_array_equal(
        final_parameters(tmp_path / "fused"), final_parameters(tmp_path / "workers")
    )


def test_a_deterministic_run_on_dictionaries_resumes_exactly(tmp_path):
    run_world(2, tmp_path / "whole", "deterministic=true", text=DICT)
    run_world(2, tmp_path / "half", "deterministic=true", "stop.updates=2", text=DICT)
    run_world(2, tmp_path / "half", "deterministic=true", text=DICT, resume=str(tmp_path / "half"))
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))


@pytest.mark.parametrize("plain", [True, False])
def test_replay_learns_from_images_and_dictionaries(tmp_path, plain):
    algo = "algo={name: qmix, replay: {learning_starts: 8}, network: {hidden: [8], encoder: flat}}"
    env = f"env.kwargs={{cut: true, plain: {str(plain).lower()}}}"
    run_world(2, tmp_path, algo, env, "rounds.batch=8", text=DICT)
    assert summary(tmp_path)["updates"] == 4
    # the replay is part of the checkpoint
    run_world(2, tmp_path, algo, env, "rounds.batch=8", "stop.updates=6", text=DICT, resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 6


def test_recorded_entries_are_read_back_by_users(recorded):
    (shard, *_) = list_shards(recorded)
    with h5py.File(shard) as file:
        images = file["steps/policy_0/obs/image"]
        assert (images.dtype, images.shape[1:]) == (np.uint8, (2, *IMAGE))
    episodes = hpcmarl.open_run(recorded).episodes
    episode = episodes[0]
    assert episode["obs.image"].dtype == np.uint8
    assert episode["obs.place.1"].dims == ("step", "agent", "place.1_0")
    assert np.asarray(episode["obs.place.1"]).sum(-1).tolist() == [[1, 1]] * 6


def test_exports_and_pages_hold_dictionaries(run, run_json, recorded, tmp_path, monkeypatch):
    flat = run_json("export", recorded, "--flat", tmp_path / "flat.h5")["flat"]
    with h5py.File(tmp_path / "flat.h5") as file:
        rows = file["policy_0"]
        assert rows["observations/image"].shape == (flat["rows"], *IMAGE)
        np.testing.assert_array_equal(rows["next_observations/bits"][0], rows["observations/bits"][1])
        assert file.attrs["format_version"] == 2
    assert run("replay", recorded, "--out", tmp_path / "page.html")[0] == 0
    minari = pytest.importorskip("minari", reason="minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert run("export", recorded, "--minari", tmp_path / "joint-v0")[0] == 0
    assert run("export", recorded, "--minari", tmp_path / "single-v0", "--per-agent")[0] == 0
    joint, single = (minari.load_dataset(name) for name in ("joint-v0", "single-v0"))
    assert joint.observation_space["a"]["image"].dtype == np.uint8
    seen = single[0].observations
    assert seen["place"]["1"].shape == (7, 3)
    assert single.observation_space["image"].contains(seen["image"][0])


def test_a_loaded_policy_acts_on_dictionaries(recorded):
    policy = hpcmarl.load_policy(recorded)
    observations, _ = Seeing().reset(seed=5)
    actions = policy.act(observations, greedy=True)
    assert actions.keys() == {"a", "b"}
    record = np.zeros((), policy._spec.policies[0].observation_dtype)
    for key, value in (("image", observations["a"]["image"]), ("place/0", observations["a"]["place"][0])):
        record[key] = value
    record["place/1"][observations["a"]["place"][1] - 1] = 1
    record["bits"] = observations["a"]["bits"]
    assert policy.act({"a": record}, greedy=True)["a"] == actions["a"]
    del observations["b"]["place"]
    with pytest.raises(UsageError, match="agent b observes no key place in a dictionary"):
        policy.act(observations)


def test_a_league_plays_matches_on_dictionaries(tmp_path, run_json):
    run_world(3, tmp_path, FLAT, text=LEAGUE)
    found = run_json("league", "match", tmp_path, "one", "two", "--episodes", 4)
    assert found["episodes"] == 4
    policy = hpcmarl.load_policy(tmp_path, member="one")
    assert list(policy.act(Seeing().reset(seed=1)[0])) == ["a"]
