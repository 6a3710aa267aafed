"""MADDPG and MASAC learn continuous actions, and continue a run with its target networks and replay."""

import numpy as np
import pytest

from tests.support.worlds import final_parameters, run_world, summary

RUN = """
env: {id: "tests.support.continuous:Aim"}
algo:
  name: maddpg
  network: {hidden: [32]}
  target_rate: 0.05
  replay: {learning_starts: 64, episodes: 2000, samples_per_insert: 100000}
optimizer: {name: adam, step_size: 0.005, critic_step_size: 0.02}
rounds: {batch: 64}
topology: {environments_per_actor: 16}
trajectories: {enabled: false}
eval: {episodes: 200}
stop: {updates: 400}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
NOISE = ("algo.noise_start=0.5", "algo.noise_final=0.3", "algo.random_steps=200")
ENTROPY = ("algo.name=masac", "algo.entropy_cost=0.05", "algo.target_entropy=-4")
# Algorithm and critic, the changes to RUN, and the least return.
CASES = {
    "maddpg-joint_observation": (NOISE, -0.03),
    "maddpg-independent": (NOISE, -0.1),
    "masac-joint_observation": (ENTROPY, -0.03),
    "masac-independent": (ENTROPY, -0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_continuous_actions_reach_their_targets(tmp_path, name):
    changes, least = CASES[name]
    run_world(1, tmp_path, *changes, f"algo.critic={name.split('-')[1]}", text=RUN)
    assert summary(tmp_path)["eval_return_mean"] > least


@pytest.mark.parametrize("changes", [NOISE, ENTROPY], ids=["maddpg", "masac"])
def test_a_resumed_run_repeats_the_whole_one(tmp_path, changes):
    keys = (*changes, "deterministic=true", "algo.normalise_observations=true", "eval.episodes=0")
    run_world(2, tmp_path / "whole", *keys, "stop.updates=12", text=RUN)
    run_world(2, tmp_path / "parts", *keys, "stop.updates=5", text=RUN)
    run_world(2, tmp_path / "parts", *keys, "stop.updates=12", text=RUN, resume="auto")
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "parts"))
