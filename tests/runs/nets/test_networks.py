"""Runs with encoders, LSTMs and torch modules of the user: workers, replay, resuming, leagues, trust."""

import numpy as np
import pytest

import hpcmarl
from hpcmarl.errors import ConfigError
from tests.support.observations import LEAGUE, Seeing
from tests.support.worlds import final_parameters, run_world, summary

SHORT = """
topology: {environments_per_actor: 4}
trajectories: {enabled: false}
eval: {episodes: 4, environments: 2}
stop: {updates: 4}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
RUN = f"""
env: {{id: "tests.support.observations:Seeing", kwargs: {{cut: true}}}}
algo: {{name: ma_trace, unroll: 4}}
{SHORT}"""
CNN = "{encoder: cnn, cnn: {architecture: impala, features: 4}}"
ENCODED = f"algo.network={{keys: {{image: {CNN}}}, hidden: [4], body: lstm, memory: 3, layer_norm: true}}"
MODULE = "algo.network={module: 'tests.support.user_modules:actor_remembers'}"
NETWORKS = {"encoded": ENCODED, "module": MODULE}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_deterministic_run_of_torch_networks_resumes_exactly(tmp_path, name):
    network = NETWORKS[name]
    run_world(2, tmp_path / "whole", "deterministic=true", network, text=RUN)
    run_world(2, tmp_path / "half", "deterministic=true", "stop.updates=2", network, text=RUN)
    run_world(2, tmp_path / "half", "deterministic=true", network, text=RUN, resume=str(tmp_path / "half"))
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))
    assert summary(tmp_path / "half")["eval_return_mean"] is not None


@pytest.mark.parametrize("name", NETWORKS)
def test_workers_of_torch_networks_change_nothing(tmp_path, name):
    changes = ("topology.actors_per_learner=1", "deterministic=true", NETWORKS[name])
    run_world(2, tmp_path / "fused", *changes, text=RUN)
    run_world(4, tmp_path / "workers", *changes, "topology.workers_per_actor=2", text=RUN, order=3)
    np.testing.assert_array_equal(
        final_parameters(tmp_path / "fused"), final_parameters(tmp_path / "workers")
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_replay_and_reductions_carry_torch_networks(tmp_path, name):
    changes = (
        "algo.name=qmix",
        "algo.replay.learning_starts=8",
        "rounds.batch=8",
        "rounds.reduce=mpi",
        "topology.groups=2",
        NETWORKS[name],
    )
    text = RUN.replace(", unroll: 4", "")
    run_world(4, tmp_path, *changes, text=text)
    run_world(4, tmp_path, *changes, "stop.updates=6", text=text, resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 6


@pytest.mark.parametrize("name", NETWORKS)
def test_leagues_play_snapshots_of_torch_networks(tmp_path, name):
    run_world(3, tmp_path, NETWORKS[name], text=LEAGUE)
    assert summary(tmp_path)["status"] == "finished"
    assert len(list((tmp_path / "pool").glob("*.h5"))) >= 2


def test_policy_of_a_module_acts_for_users(tmp_path):
    run_world(2, tmp_path, MODULE, text=RUN)
    policy = hpcmarl.load_policy(tmp_path)
    policy.reset()
    observations, _ = Seeing().reset(seed=5)
    first = policy.act(observations, greedy=True)
    policy.reset()
    assert policy.act(observations, greedy=True) == first
    assert first.keys() == {"a", "b"}


def test_checkpoint_alone_does_not_import_a_module(tmp_path):
    run_world(2, tmp_path / "run", MODULE, text=RUN)
    newest = max((tmp_path / "run" / "checkpoints").glob("*.h5"))
    moved = tmp_path / newest.name
    moved.write_bytes(newest.read_bytes())
    with pytest.raises(ConfigError, match=r"names the class tests\.support\.user_modules:actor_remembers"):
        hpcmarl.load_policy(moved)


SHARED = {
    "ma_trace": "algo.critic=joint_observation",
    "coma": "algo={name: coma, target_every: 2}",
}
PIXELS = f"""
env: {{id: "pixels:gather"}}
algo: {{name: ma_trace, unroll: 4, critic: independent, shared_encoder: true,
  network: {{encoder: cnn, cnn: {{features: 8}}, hidden: [8]}}}}
rounds: {{batch: 4}}
{SHORT}"""


@pytest.mark.parametrize("name", SHARED)
def test_run_with_a_shared_encoder_resumes_exactly(tmp_path, name):
    text = PIXELS.replace("critic: independent, ", "") if name == "coma" else PIXELS
    changes = ("deterministic=true", SHARED[name])
    run_world(2, tmp_path / "whole", *changes, text=text)
    run_world(2, tmp_path / "half", *changes, "stop.updates=2", text=text)
    run_world(2, tmp_path / "half", *changes, text=text, resume=str(tmp_path / "half"))
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))
    assert summary(tmp_path / "half")["eval_return_mean"] is not None


def test_minibatches_train_a_shared_encoder(tmp_path):
    changes = ("algo={name: ppo, epochs: 2, minibatches: 2}", "rounds.batch=4")
    run_world(2, tmp_path, *changes, text=PIXELS)
    run_world(2, tmp_path, *changes, "stop.updates=6", text=PIXELS, resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 6
    assert np.isfinite(final_parameters(tmp_path)).all()


def test_checkpoint_of_separate_encoders_is_refused(tmp_path):
    run_world(2, tmp_path, "algo.shared_encoder=false", "stop.updates=2", text=PIXELS)
    with pytest.raises(ConfigError, match=r"the checkpoint holds \d+ parameters .* use the configuration"):
        run_world(2, tmp_path, text=PIXELS, resume=str(tmp_path))


def test_leagues_play_snapshots_of_shared_encoders(tmp_path):
    run_world(3, tmp_path, ENCODED, "algo.shared_encoder=true", text=LEAGUE)
    assert summary(tmp_path)["status"] == "finished"
    assert len(list((tmp_path / "pool").glob("*.h5"))) >= 2
