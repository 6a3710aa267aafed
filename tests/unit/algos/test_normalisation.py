"""Running moments of features, in networks and in the optimizer's averages."""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.config import (
    AdamConfig,
    AgentNetworkConfig,
    IQLConfig,
    MATraceConfig,
    NetworkConfig,
    NigtConfig,
    PPOConfig,
    QMIXConfig,
    RESConfig,
    SgdConfig,
    VDNConfig,
    WQMIXConfig,
)
from hpcmarl.nets.layer_shapes import MomentsShape
from hpcmarl.nets.numpy_layers import NumpyMoments
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.base import Averages
from hpcmarl.types import Part
from tests.support.algorithms import TEAM_AND_PREY, arrays_of, bind, rollouts_of
from tests.support.rollouts import make_spec, random_rollout


def of(rows):
    """Return the averages that stand for the mean and deviation of the rows [n, D]."""
    return np.concatenate([[len(rows)], rows.sum(0), np.square(rows).sum(0)]).astype(np.float32)


def bound(size):
    modules, flat = bind({"network": MomentsShape(size)})
    return modules["network"], flat


def test_features_are_normalised_by_mean_and_deviation():
    generator = np.random.default_rng(0)
    rows = (generator.standard_normal((200, 3)) * [1.0, 5.0, 0.2] + [0.0, -7.0, 3.0]).astype(np.float32)
    moments, flat = bound(3)
    seen = torch.from_numpy(rows[:5])
    # No moments are known yet.
    np.testing.assert_array_equal(moments(seen), np.clip(rows[:5], -10, 10))
    flat.load(of(rows))
    wanted = (rows[:5] - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(moments(seen), wanted, rtol=1e-3)
    np.testing.assert_allclose(NumpyMoments(arrays_of(moments))(rows[:5]), moments(seen), rtol=1e-6)
    np.testing.assert_array_equal(NumpyMoments(arrays_of(moments))(rows[:5] + 1e9), np.full((5, 3), 10.0))
    np.testing.assert_array_equal(seen, rows[:5])


def test_a_feature_that_never_varies_stays_small():
    moments, flat = bound(2)
    flat.load(of(np.tile(np.array([[100.0, 0.0]], np.float32), (50, 1))))
    assert np.abs(moments(torch.tensor([[100.0, 0.0], [100.05, 0.0005]])).numpy()).max() < 0.6


def test_moments_accumulate_over_batches():
    rows = np.random.default_rng(1).standard_normal((9, 2)).astype(np.float32)
    moments, flat = bound(2)
    flat.zero_gradient()
    moments.add(torch.from_numpy(rows[:4]), 0.5)
    moments.add(torch.from_numpy(rows[4:]), 0.5)
    np.testing.assert_allclose(flat.gradient, 0.5 * of(rows), rtol=1e-5)


PARTS = [Part("one", "actor", slice(0, 3)), Part("other", "actor", slice(3, 5))]
OPTIMIZERS = [
    NigtConfig(step_size=0.3),
    AdamConfig(step_size=0.1),
    SgdConfig(step_size=0.1, momentum=0.5, max_gradient_norm=1.0),
]


@pytest.mark.parametrize("config", OPTIMIZERS)
def test_averages_follow_directions_without_moving_parameters(config):
    generator = np.random.default_rng(2)
    start, rate = generator.standard_normal(7), 0.25
    optimizer = make_optimizer(config, start, PARTS, Averages(5, rate))
    twin, averages = make_optimizer(config, start[:5], PARTS), start[5:].copy()
    for _ in range(6):
        direction = generator.standard_normal(7) * 3
        kept = direction.copy()
        optimizer.step(direction)
        twin.step(direction[:5])
        averages += rate * (direction[5:] - averages)
        np.testing.assert_array_equal(direction, kept)
        np.testing.assert_allclose(optimizer.parameters, np.append(twin.parameters, averages), rtol=1e-12)
        np.testing.assert_allclose(
            optimizer.query_point(), np.append(twin.query_point(), averages), rtol=1e-12
        )
    other = make_optimizer(config, np.zeros(7), PARTS, Averages(5, rate))
    other.load_state_dict(optimizer.state_dict())
    for each in (optimizer, other):
        each.step(np.ones(7))
    np.testing.assert_array_equal(optimizer.parameters, other.parameters)


def pair(cls, **keys):
    """Return two algorithms with the same trained parameters; only the first one normalises."""
    spec = make_spec()
    common = {
        "network": NetworkConfig(hidden=(5,)),
        "critic": "independent",
        "entropy_cost": 0.1,
        "discount": 0.9,
    }
    made = make_algorithm(spec, cls(**common, **keys), 0)
    plain = make_algorithm(spec, cls(**common), 0)
    trained = np.random.default_rng(1).standard_normal(plain.size).astype(np.float32) * 0.6
    plain.load_parameters(trained)
    return spec, made, plain, trained


@pytest.mark.parametrize("cls", [MATraceConfig, PPOConfig])
def test_normalised_observations_equal_prescaled_inputs(cls):
    spec, made, plain, trained = pair(cls, normalise_observations=True)
    rollout = random_rollout(spec, 6, 4, np.random.default_rng(0))
    part = next(iter(rollout.policies.values()))
    size = part.obs.shape[-1]
    known = (np.random.default_rng(3).standard_normal((100, size)) * 2 + 1).astype(np.float32)
    # Moments of the policy, then of the critic.
    made.load_parameters(np.concatenate([trained, of(known), of(known)]))
    found = made.gradient([rollout])[0]
    seen, active = part.obs[:6].reshape(6, 4, -1, size), part.alive[:6]
    np.testing.assert_allclose(
        found[made.averages][: 1 + 2 * size] * 6, of(seen[active]), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        found[made.averages][1 + 2 * size :] * 6, of(seen[active]), rtol=1e-4, atol=1e-4
    )
    for name in ("obs", "final_obs"):
        setattr(part, name, ((getattr(part, name) - known.mean(0)) / known.std(0)).astype(np.float32))
    np.testing.assert_allclose(found[: plain.size], plain.gradient([rollout])[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        (IQLConfig, {}),
        (VDNConfig, {"operator": "mellowmax"}),
        (QMIXConfig, {"mixer_state": "joint_observation"}),
        (QMIXConfig, {"mixer_state": "state"}),
        (WQMIXConfig, {"mixer_state": "state", "central_width": 5}),
        (RESConfig, {"mixer_state": "joint_observation"}),
    ],
    ids=str,
)
def test_value_based_normalisation_equals_prescaled_inputs(cls, keys, recurrent):
    spec, generator = make_spec(), np.random.default_rng(1)
    common = {
        "network": AgentNetworkConfig(hidden=(5,), body="gru" if recurrent else "mlp", memory=4),
        "agent_id": False,
        "discount": 0.9,
    } | keys
    made = make_algorithm(spec, cls(**common, normalise_observations=True), 0)
    plain = make_algorithm(spec, cls(**common), 0)
    trained = generator.standard_normal(plain.size).astype(np.float32) * 0.4
    agents, size = len(spec.policy("agent").agents), spec.policy("agent").observation_size
    known = (generator.standard_normal((100, size)) * 2 + 1).astype(np.float32)
    state = (generator.standard_normal((100, spec.state_size)) * 3 - 1).astype(np.float32)
    seen = {"joint_observation": np.tile(known, (1, agents)), "state": state}.get(keys.get("mixer_state"))
    ends = [of(known)] + ([] if seen is None else [of(seen)]) + ([of(known)] if cls is WQMIXConfig else [])
    plain.load_parameters(trained)
    made.load_parameters(np.concatenate([trained, *ends]))
    for algorithm in (made, plain):  # target networks
        algorithm.on_version(0)
    rollouts = [
        random_rollout(
            spec,
            5,
            1,
            np.random.default_rng(seed),
            deaths=True,
            whole_episode=True,
            memory=4 if recurrent else None,
        )
        for seed in range(4)
    ]
    assert {int(rollout.episode_end[-1, 0]) for rollout in rollouts} == {1, 2}
    found = made.gradient(rollouts)[0]
    gathered, rows = found[made.averages], []
    for rollout in rollouts:
        part = rollout.policies["agent"]
        rows.append(part.obs[:5].reshape(5, 1, agents, size)[part.alive[:5]])
        last = part.truncated[-1, 0] & ~part.terminated[-1, 0]
        rows += [part.final_obs[0][last].reshape(-1, size)] if last.any() else []
    wanted = of(np.concatenate(rows))
    np.testing.assert_allclose(
        gathered[: 1 + 2 * size], wanted * len(rollouts) / wanted[0], rtol=1e-4, atol=1e-4
    )
    for rollout in rollouts:
        part = rollout.policies["agent"]
        for name in ("obs", "final_obs"):
            setattr(part, name, ((getattr(part, name) - known.mean(0)) / known.std(0)).astype(np.float32))
        rollout.state = ((rollout.state - state.mean(0)) / state.std(0)).astype(np.float32)
        rollout.final_state = ((rollout.final_state - state.mean(0)) / state.std(0)).astype(np.float32)
    wanted = plain.gradient(rollouts)[0]
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(found[: plain.size], wanted, atol=2e-3, rtol=2e-3)


def test_target_network_uses_moments_from_the_first_update():
    """Before the first update no moments are known.

    A copy of them would value raw inputs for `target_every` versions.
    """
    algorithm = make_algorithm(make_spec(), QMIXConfig(normalise_observations=True, target_every=100), 0)
    targets = []
    for version in range(4):
        vector = algorithm.parameters.copy()
        vector[algorithm.averages] = float(version)
        algorithm.load_parameters(vector + 0.1 * (version > 0))
        algorithm.on_version(version)
        targets.append(algorithm.state_dict()["target"])
    np.testing.assert_array_equal(targets[1][algorithm.averages], np.float32(1.0) + np.float32(0.1))
    for later in targets[2:]:
        np.testing.assert_array_equal(later, targets[1])


def test_agent_ids_are_normalised_too():
    spec = make_spec()
    rollout = random_rollout(spec, 6, 4, np.random.default_rng(0))
    part, agents = rollout.policies["agent"], len(spec.policy("agent").agents)
    algorithm = make_algorithm(
        spec, MATraceConfig(critic="independent", agent_id=True, normalise_observations=True), 0
    )
    found = algorithm.gradient([rollout])[0][algorithm.averages] * 6
    numbers = np.broadcast_to(np.eye(agents), (6, 4, agents, agents))
    wanted = of(np.concatenate([part.obs[:6].reshape(6, 4, agents, -1), numbers], -1)[part.alive[:6]])
    np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[len(wanted) :], wanted, rtol=1e-4, atol=1e-4)


def test_normalised_values_equal_learning_from_scaled_rewards():
    spec, made, plain, trained = pair(PPOConfig, normalise_values=True)
    rollout = random_rollout(spec, 6, 4, np.random.default_rng(0))
    known = np.array([[-8.0], [8.0]], np.float32)
    made.load_parameters(np.concatenate([trained, of(known)]))
    found = made.gradient([rollout])[0]
    assert found[made.averages][0] * 6 == pytest.approx(next(iter(rollout.policies.values())).alive[:6].sum())
    for part in rollout.policies.values():
        part.reward /= 8.0
    np.testing.assert_allclose(found[: plain.size], plain.gradient([rollout])[0], atol=1e-4, rtol=1e-4)


def test_critic_outputs_and_values_convert_both_ways():
    algorithm = make_algorithm(make_spec(), MATraceConfig(normalise_values=True, critic="independent"), 0)
    critic = algorithm._critics["agent"]
    known = of(np.array([[3.0], [7.0]], np.float32))
    algorithm.load_parameters(np.concatenate([algorithm.parameters[: algorithm.averages.start], known]))
    np.testing.assert_allclose(critic.values(torch.tensor([0.0, 1.0])), [5.0, 7.0])
    np.testing.assert_allclose(critic.outputs_for(torch.tensor([5.0, 7.0])), [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True])
def test_normalised_gradients_are_additive_over_rollouts(recurrent):
    spec, network = TEAM_AND_PREY, NetworkConfig(hidden=(5,), body="gru" if recurrent else "mlp", memory=4)
    algorithm = make_algorithm(
        spec,
        MATraceConfig(normalise_values=True, normalise_observations=True, critic="state", network=network),
        0,
    )
    rollouts = rollouts_of(spec, slots=3, memory=4 if recurrent else None)
    first = algorithm.gradient(rollouts)[0]
    np.testing.assert_allclose(
        sum(algorithm.gradient([rollout])[0] for rollout in rollouts), first, atol=1e-4, rtol=1e-4
    )
    vector = algorithm.parameters.copy()
    vector[algorithm.averages] = first[algorithm.averages]
    algorithm.load_parameters(vector)
    for name, policy in algorithm._policies.items():
        obs = rollouts[0].policies[name].obs[:1, :, :1].reshape(-1, spec.policy(name).observation_size)
        np.testing.assert_allclose(
            NumpyMoments(arrays_of(policy.moments))(obs), policy.moments(torch.from_numpy(obs)), rtol=1e-5
        )
        assert np.abs(NumpyMoments(arrays_of(policy.moments))(obs) - obs).max() > 0.01
