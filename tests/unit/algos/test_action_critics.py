"""MADDPG and MASAC against their literal equations; bootstrapping, masks, bandits and refusals."""

import numpy as np
import pytest
import torch

from hpcmarl.errors import ConfigError
from tests.reference.action_critic import literal_gradient
from tests.support.action_critics import CASES, COMPONENTS, CONFIGS, CONTROLLED, make
from tests.support.rollouts import CONTINUOUS, DISCRETE, make_spec
from tests.support.value_based import episodes


@pytest.mark.parametrize(("name", "spec", "keys"), CASES)
def test_action_critics_equal_their_literal_equations(name, spec, keys):
    algorithm = make(name, spec, target_rate=0.5, **keys)
    rollouts = [
        *episodes(spec, lengths=(3, 6, 1)),
        *episodes(spec, lengths=(4,), slots=2),
    ]
    weights = np.random.default_rng(0).uniform(0.1, 1.0, 5).astype(np.float32)
    wanted = literal_gradient(algorithm, rollouts, weights.tolist())
    found = algorithm.staged_gradient(algorithm.stage(rollouts), weights)[0]
    for part in algorithm.parts:
        assert np.abs(wanted[part.place]).max() > 1e-3, part
        np.testing.assert_allclose(found[part.place], wanted[part.place], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("critic", ["independent", "joint_observation"])
def test_last_values_count_after_truncations_only(name, critic):
    """With critics that always return 2, targets are r + 0.9 * 2, and r after a termination."""
    keys = {"target_entropy": None, "entropy_cost": 1e-9} if name == "masac" else {}
    algorithm = make(name, CONTROLLED, critic=critic, **keys)
    vector = np.zeros(algorithm.size, np.float32)
    for key, place in algorithm.layout.places.items():
        vector[place] = 2.0 if ".critic." in key and key.endswith("layers.1.bias") else 0.0
    for version in range(2, 60):
        algorithm.load_parameters(vector)
        algorithm.on_version(version)
    algorithm.target.parameters[:] = vector
    for rollout in episodes(CONTROLLED, lengths=(1,) * 6, slots=1) + episodes(
        CONTROLLED, lengths=(1,), seed=3
    ):
        for part in rollout.policies.values():
            part.alive[0], part.terminated[:], part.truncated[:] = True, False, False
            ended = part.terminated if rollout.episode_end[-1, 0] == 1 else part.truncated
            ended[:] = True
        follows = 1.8 if rollout.episode_end[-1, 0] == 2 else 0.0
        errors = algorithm.staged_gradient(algorithm.stage([rollout]), None)[2].of_episodes()
        rewards = [part.reward[0, 0] for part in rollout.policies.values()]
        units = np.concatenate(rewards) if critic == "independent" else [own.mean() for own in rewards]
        wanted = np.abs(np.array(units) + follows - 2.0)
        np.testing.assert_allclose(errors.largest, [wanted.max()], rtol=1e-5)
        np.testing.assert_allclose(errors.mean, [wanted.mean()], rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("action", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_distance_is_zero_from_the_present_actions(name, action):
    spec = make_spec(action=action)
    algorithm = make(name, spec, agent_id=False)
    rollouts = episodes(spec)
    assert algorithm.distance(rollouts) > 0.05
    for rollout in rollouts:
        frame = rollout.policies["agent"]
        rows = frame.obs[:-1].reshape(-1, spec.policies[0].observation_size)
        raw = algorithm.raw_outputs("agent", rows)
        greedy, _ = algorithm.choosers["agent"].choose(raw, None, None)
        frame.action[:] = greedy.reshape(frame.action.shape)
    assert algorithm.distance(rollouts) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_actor_gradients_leave_critics_as_they_are(name):
    """Without a difference between values and targets, the critics' gradient is zero."""
    algorithm = make(name, CONTROLLED)
    algorithm._returns = lambda columns, *rest, **keys: torch.full(columns.reward.shape, 3.0)
    vector = algorithm.parameters.copy()
    for key, place in algorithm.layout.places.items():
        if ".critic." in key:
            vector[place] = 3.0 if key.endswith("layers.1.bias") else 0.0
    algorithm.load_parameters(vector)
    found = algorithm.gradient(episodes(CONTROLLED))[0]
    for part in algorithm.parts:
        assert found[part.place].any() == (part.kind != "critic"), part


def test_unfit_environments_are_refused_in_one_line():
    turns, stateless = make_spec(agents=2, turn_based=True), make_spec(state_size=None, action=CONTINUOUS)
    with pytest.raises(ConfigError, match=r"algo\.critic: joint_observation of maddpg judges .* take turns"):
        make("maddpg", turns)
    with pytest.raises(ConfigError, match=r"algo\.critic: state needs the environment's state"):
        make("masac", stateless, critic="state")
    with pytest.raises(
        ConfigError, match=r"algo\.name: masac needs discrete or continuous .* multi_discrete"
    ):
        make("masac", COMPONENTS)
