"""The Python interface on runs of virtual ranks: metrics, episodes, states and policies."""

import json
import os
import time

import numpy as np
import pytest

import hpcmarl
from hpcmarl.errors import ConfigError, FormatError, UsageError
from hpcmarl.evaluation import evaluate_checkpoint
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.run_lock import STALE_SECONDS, acquire
from hpcmarl.io.run_state import read_run_state
from tests.support.leagues import RPS
from tests.support.worlds import run_world

RECORDED = ("trajectories.enabled=true", "stop.updates=8")
RECURRENT = "algo.network={hidden: [8], body: gru}"
TICTACTOE = """
env: {id: pettingzoo.classic.tictactoe_v3}
algo: {name: ppo, unroll: 8, network: {hidden: [8]}, critic: independent}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 2}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""


def test_an_opened_run_has_its_metrics_and_summary(tmp_path):
    run_world(2, tmp_path)
    run = hpcmarl.open_run(tmp_path)
    columns = read_metrics(tmp_path)
    assert list(run.metrics.columns) == list(columns)
    np.testing.assert_array_equal(run.metrics["env_steps"], columns["env_steps"])
    assert run.summary["updates"] == 6
    assert run.state.state == "finished"
    assert run.config.env.id == "mpe2.simple_spread_v3"
    assert len(run.checkpoints) == 1
    with pytest.raises(UsageError, match="allowed: pandas, polars"):
        run.frame("numpy")


def test_episodes_of_several_unrolls_are_joined(tmp_path):
    """Episodes of 5 steps are recorded in unrolls of 3."""
    run_world(2, tmp_path, *RECORDED, "algo.unroll=3")
    episodes = hpcmarl.open_run(tmp_path).episodes
    table = episodes.table
    assert len(episodes) == len(table) >= 10
    assert table["return_mean"].notna().all()
    assert set(table["length"]) == {5}
    assert not table.duplicated(["actor", "slot", "episode"]).any()
    for number in (0, len(episodes) - 1):
        episode = episodes[number]
        assert dict(episode.sizes) == {"step": 5, "agent": 3, "feature": 18}
        assert episode["episode_start"].values.tolist() == [True, False, False, False, False]
        assert episode["episode_end"].values.tolist() == [0, 0, 0, 0, 2]
        reward = float(episode["reward"].mean("agent").sum())
        assert reward == pytest.approx(episode.attrs["return_mean"], rel=1e-5)
    assert table["return_mean"][episodes.best()] == table["return_mean"].max()
    assert table["return_mean"][episodes.worst()] == table["return_mean"].min()
    assert [len(part["step"]) for part in episodes[:2]] == [5, 5]
    with pytest.raises(IndexError, match="recorded episodes"):
        episodes[len(episodes)]


def test_episodes_of_resumed_runs_are_counted_once(tmp_path):
    run_world(2, tmp_path, *RECORDED, "deterministic=true", "algo.unroll=3")
    whole = hpcmarl.open_run(tmp_path).episodes.table
    other = tmp_path / "other"
    run_world(2, other, *RECORDED, "deterministic=true", "algo.unroll=3", interrupt=3)
    run_world(2, other, *RECORDED, "deterministic=true", "algo.unroll=3", resume="auto")
    resumed = hpcmarl.open_run(other).episodes.table
    keys = ["actor", "slot", "episode", "return_mean"]
    assert sorted(map(tuple, whole[keys].values)) == sorted(map(tuple, resumed[keys].values))


def test_runs_without_trajectories_have_no_episodes(tmp_path):
    run_world(1, tmp_path)
    episodes = hpcmarl.open_run(tmp_path).episodes
    assert len(episodes) == 0
    assert list(episodes) == []
    with pytest.raises(UsageError, match="no recorded episode"):
        episodes.best()


@pytest.mark.parametrize("change", ["seed=0", RECURRENT])
def test_a_loaded_policy_earns_what_an_evaluation_says(tmp_path, change):
    run_world(2, tmp_path, change)
    policy = hpcmarl.load_policy(tmp_path)
    assert policy.recurrent == (change == RECURRENT)
    assert policy.agents == ("agent_0", "agent_1", "agent_2")
    environment = hpcmarl.make_env("mpe2.simple_spread_v3", max_cycles=5)
    played = evaluate_checkpoint(tmp_path, 1, True, 0)["return_mean"]
    from hpcmarl.envs import episode_seed

    observations, _ = environment.reset(seed=episode_seed(0, 0, 0))
    policy.reset()
    total = 0.0
    while environment.agents:
        observations, rewards, *_ = environment.step(policy.act(observations, greedy=True))
        total += sum(rewards.values()) / 3
    assert total == pytest.approx(played, rel=1e-4)


def test_a_policy_plays_turns_and_respects_masks(tmp_path):
    run_world(1, tmp_path, text=TICTACTOE)
    policy = hpcmarl.load_policy(tmp_path)
    environment = hpcmarl.make_env("pettingzoo.classic.tictactoe_v3")
    environment.reset(seed=0)
    for agent in environment.agent_iter():
        observation, _, terminated, truncated, _ = environment.last()
        action = None
        if not terminated and not truncated:
            (action,) = policy.act({agent: observation}, greedy=False).values()
            assert observation["action_mask"][action]
        environment.step(action)
    with pytest.raises(UsageError, match=r"agent player_1 has action masks.*masks=\{agent: mask\}"):
        policy.act({"player_1": observation["observation"]})
    with pytest.raises(UsageError, match="has 3 elements; allowed: 9"):
        policy.act({"player_1": observation["observation"]}, {"player_1": [1, 1, 1]})


def test_a_policy_refuses_agents_and_shapes_it_does_not_know(tmp_path):
    run_world(1, tmp_path)
    policy = hpcmarl.load_policy(tmp_path)
    with pytest.raises(UsageError, match="no such agent; allowed: agent_0, agent_1, agent_2"):
        policy.act({"agent_9": np.zeros(18)})
    with pytest.raises(UsageError, match=r"agent_0 observes an array of shape \(17,\).*shape \(18,\)"):
        policy.act({"agent_0": np.zeros(17)})
    assert list(policy.act({"agent_1": np.zeros(18)})) == ["agent_1"]
    with pytest.raises(UsageError, match="is not a league"):
        hpcmarl.load_policy(tmp_path, member="main")


def test_policies_of_a_league_are_loaded_by_member(tmp_path):
    run_world(2, tmp_path, text=RPS)
    with pytest.raises(UsageError, match=r"is a league.*member=NAME"):
        hpcmarl.load_policy(tmp_path)
    policy = hpcmarl.load_policy(tmp_path, member="a")
    assert policy.version == 6
    actions = policy.act(dict.fromkeys(policy.agents, np.zeros(policy._forms[policy.agents[0]].shape)))
    assert set(actions) == set(policy.agents)


def test_paths_without_a_run_are_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        hpcmarl.open_run(tmp_path / "none")
    with pytest.raises(UsageError, match=r"holds no config\.yaml"):
        hpcmarl.open_run(tmp_path)
    with pytest.raises(ConfigError, match="no such file or directory"):
        hpcmarl.load_policy(tmp_path / "none")
    with pytest.raises(FormatError, match="no checkpoint in it verifies"):
        hpcmarl.load_policy(tmp_path)
    with pytest.raises(AttributeError, match="it offers Callback, Moment, Policy, Run"):
        _ = hpcmarl.trane


def test_states_of_running_and_killed_runs(tmp_path):
    """A lock that is renewed means running; without it and without a summary the run was killed."""
    assert read_run_state(tmp_path).sentence() == "not started"
    run_world(1, tmp_path)
    assert read_run_state(tmp_path).state == "finished"
    (tmp_path / "summary.json").unlink()
    state = read_run_state(tmp_path)
    assert state.state == "killed"
    assert "last update" in state.sentence()
    lock = acquire(tmp_path, {"host": "node7"}, lambda _: None, print)
    try:
        state = read_run_state(tmp_path)
        assert (state.state, state.owner["host"]) == ("running", "node7")
        assert "running since" in state.sentence()
        old = time.time() - 2 * STALE_SECONDS
        os.utime(tmp_path / "run.lock", (old, old))
        assert read_run_state(tmp_path).state == "killed"
    finally:
        lock.release()
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished"}))
    os.utime(tmp_path / "summary.json", (old, old))
    assert read_run_state(tmp_path).state == "killed"  # the summary is of an earlier start
