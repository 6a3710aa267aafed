"""Every preset trains without changes, on one rank and on several, and in a league."""

import numpy as np
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.config.presets import PRESETS
from hpcmarl.errors import ConfigError
from tests.support.worlds import final_state, run_world, summary

# Agents that come and go, a state, discrete actions: the requirements of presets on an environment.
RUN = """
env: {id: "tests.support.environments:Crowd"}
trajectories: {enabled: false}
eval: {episodes: 8}
stop: {updates: 2}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
LEAGUE = """
env: {id: "matrix:rps"}
trajectories: {enabled: false}
stop: {updates: 4}
logging: {progress: false}
checkpoint: {every_seconds: null}
league:
  matchmaking: {name: latest}
  freeze: {most_updates: 2}
  evaluation: {episodes: 8, environments: 4, final_seconds: 0.2}
"""


def trained(directory, size, *changes, text=RUN):
    """Return the summary and the configuration of a run of two updates.

    Check that the run ended and that its gradients were finite and not zero.
    """
    run_world(size, directory, *changes, text=text)
    told, config = summary(directory), load_config(directory / "config.yaml")
    optimizer = final_state(directory)["engine"]["optimizer"]
    squares = optimizer["second" if config.optimizer.name == "adam" else "square"]  # of gradients
    assert (told["status"], told["updates"]) == ("finished", 2)
    assert np.isfinite(optimizer["parameters"]).all()
    assert np.count_nonzero(squares) > 0.1 * squares.size
    assert np.isfinite(told["eval_return_mean"])
    return told, config


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [1, 4])
def test_preset_trains_two_updates(tmp_path, name, size):
    told, config = trained(tmp_path, size, f"preset={name}")
    assert config == load_config(RUN + f"preset: {name}\n")
    enough = config.rounds.batch * getattr(config.algo, "unroll", 1)
    assert told["env_steps"] >= enough


@pytest.mark.parametrize(("groups", "slots"), [(1, 8), (2, 4)])
def test_batch_is_that_of_all_groups_together(tmp_path, groups, slots):
    changes = [
        f"topology.groups={groups}",
        f"topology.environments_per_actor={slots}",
        "algo.unroll=20",
        "algo.epochs=2",
    ]
    told, _ = trained(tmp_path, 4, "preset=mappo", *changes)
    assert told["used_trajectories"] == 2 * 8


def test_replayed_episodes_are_learned_from_as_published(tmp_path):
    run_world(2, tmp_path, "preset=vdn", "stop.updates=40", text=RUN)
    told = summary(tmp_path)
    assert told["used_trajectories"] == 40 * 32
    # After 32 episodes, each update needs one more; actors may have played a few more.
    assert 32 + 39 <= told["episodes"] <= 32 + 39 + 3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mappo", "algo.critic=joint_observation"),
        ("coma", "algo.critic=joint_observation"),
        ("ippo", "seed=0"),
        ("qmix", "seed=0"),
    ],
)
def test_presets_train_without_a_state(tmp_path, name, change):
    _, config = trained(tmp_path, 2, f"preset={name}", "env.id=tests.support.environments:Echo", change)
    assert getattr(config.algo, "critic", "") != "state"


@pytest.mark.parametrize("name", ["mappo", "coma"])
def test_state_that_is_missing_is_one_line(tmp_path, name):
    with pytest.raises(
        ConfigError,
        match=r"algo\.critic: state needs the environment's state, .* use algo\.critic: joint_observation "
        "or independent",
    ):
        run_world(1, tmp_path, f"preset={name}", "env.id=tests.support.environments:Echo", text=RUN)


def test_resumed_run_needs_no_preset(tmp_path):
    changes = ("algo.unroll=10", "algo.epochs=2", "eval.episodes=0")
    run_world(2, tmp_path / "first", "preset=ippo", *changes, text=RUN)
    text = (tmp_path / "first" / "config.yaml").read_text()
    assert "preset" not in text
    run_world(2, tmp_path / "second", "stop.updates=4", text=text, resume=str(tmp_path / "first"))
    assert summary(tmp_path / "second")["updates"] == 4


def test_league_trains_with_a_preset(tmp_path):
    ranks = run_world(3, tmp_path, "preset=ippo", "algo.unroll=4", "algo.epochs=1", text=LEAGUE)
    assert [rank.exit_code for rank in ranks] == [0, 0, 0]
    told = summary(tmp_path)
    assert (told["status"], told["updates"] >= 4) == ("finished", True)
    assert load_config(tmp_path / "config.yaml").algo.critic == "independent"
