"""COMA against a literal implementation, and properties of its advantage."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.target import Target
from hpcmarl.config import COMAConfig, NetworkConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.types import PolicySpec
from tests.reference.coma import literal_gradient
from tests.support.algorithms import TWO_TEAMS, outlived_rows, rollouts_of
from tests.support.rollouts import CONTINUOUS, DISCRETE, make_spec, random_rollout
from tests.support.worlds import SPREAD


def make(spec, **keys):
    """Return COMA with random parameters of the networks and of the target networks."""
    keys = {
        "network": NetworkConfig(hidden=(5,)),
        "discount": 0.9,
        "entropy_cost": 0.1,
        "rho_max": 1.2,
        **keys,
    }
    made = make_algorithm(spec, COMAConfig(**keys), 0)
    for version, seed in enumerate((1, 2)):
        made.load_parameters(np.random.default_rng(seed).standard_normal(made.size).astype(np.float32) * 0.6)
        made.on_version(version)
    return made


@pytest.mark.parametrize(
    ("critic", "agent_id"), [("joint_observation", False), ("state", False), ("state", True)]
)
@pytest.mark.parametrize("spec", [make_spec(), TWO_TEAMS], ids=["one_policy", "two_policies"])
def test_equals_the_literal_implementation(spec, critic, agent_id):
    algorithm, rollouts = make(spec, critic=critic, agent_id=agent_id, reward_scale=0.5), rollouts_of(spec)
    assert outlived_rows(rollouts) > 0
    wanted = literal_gradient(algorithm, rollouts)
    found, statistics = algorithm.gradient(rollouts)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=2e-4)
    assert 0 < statistics["mean_rho"] < 1.2


def test_turn_based_players_keep_their_own_transitions():
    spec = make_spec(
        PolicySpec("white", ("w",), (4,), DISCRETE, True),
        PolicySpec("black", ("b",), (4,), DISCRETE, True),
        turn_based=True,
    )
    algorithm, rollouts = make(spec), rollouts_of(spec, steps=6)
    np.testing.assert_allclose(
        algorithm.gradient(rollouts)[0], literal_gradient(algorithm, rollouts), atol=2e-4, rtol=2e-4
    )


def test_normalised_values_equal_the_literal_implementation_too():
    spec = make_spec(has_mask=True)
    algorithm, rollouts = make(spec, normalise_values=True), rollouts_of(spec)
    # The target networks hold other moments than the networks.
    for version in (200, 400):
        vector = algorithm.parameters.copy()
        vector[algorithm.averages] = [4.0, 2.0, 5.0 * version]
        algorithm.load_parameters(vector)
        algorithm.on_version(version)
    vector[algorithm.averages] = [4.0, 2.0, 9.0]
    algorithm.load_parameters(vector)
    found, trained = algorithm.gradient(rollouts)[0], slice(algorithm.averages.start)
    np.testing.assert_allclose(
        found[trained], literal_gradient(algorithm, rollouts)[trained], atol=2e-4, rtol=2e-4
    )
    assert found[algorithm.averages][0] > 0


def test_advantage_is_zero_when_own_actions_are_equivalent():
    """The gradient is zero if the critic does not depend on an agent's action.

    This holds however good the team's value is.
    """
    spec = make_spec(agents=2)
    algorithm = make(spec, entropy_cost=0.0, value_cost=0.0, network=NetworkConfig(hidden=()))
    rollout = random_rollout(spec, 6, 3, np.random.default_rng(0))
    last = algorithm._critics["agent"].layers.layers[-1]
    last.weight.data[:] = last.weight.data[:1]  # the same for all actions
    last.bias.data[:] = 7.0
    assert np.abs(algorithm.gradient([rollout])[0]).max() < 1e-5
    last.bias.data[0] = 9.0
    assert np.abs(algorithm.gradient([rollout])[0]).max() > 1e-2


def test_target_critic_is_copied_every_target_every():
    algorithm = make_algorithm(make_spec(), COMAConfig(target_every=5), 0)
    target = algorithm.target
    start = algorithm.initial_parameters()
    for version in range(12):
        algorithm.load_parameters(start + version)
        algorithm.on_version(version)
        assert target.parameters[0] == (start + (version - version % 5))[0]
    other = make_algorithm(make_spec(), COMAConfig(target_every=5), 3)
    other.load_state_dict(algorithm.state_dict())
    for version in (11, 13, 14, 15):
        other.load_parameters(start + version)
        other.on_version(version)
        assert other.target.parameters[0] == (start + (15 if version == 15 else 10))[0]
    with pytest.raises(ValueError, match="shape"):
        other.load_state_dict({**algorithm.state_dict(), "target": np.zeros(3, np.float32)})


def test_target_critic_follows_at_the_given_rate():
    networks = make_algorithm(make_spec(), COMAConfig(), 0)
    target = Target(networks.layout, 1, rate=0.5)
    for version, level in enumerate((8.0, 0.0, 4.0)):
        target.on_version(version, np.full(networks.size, level, np.float32))
    # The target is 8, moves half way to 0, then half way to 4.
    assert (target.parameters == 4.0).all()


def test_coma_rejects_incompatible_settings():
    with pytest.raises(ConfigError, match=r"algo\.critic: independent does not work with algo\.name: coma"):
        load_config(SPREAD, ["algo.name=coma", "algo.critic=independent"])
    with pytest.raises(ConfigError, match="continuous"):
        make(make_spec(action=CONTINUOUS))
    with pytest.raises(ConfigError, match="they take turns"):
        make(make_spec(agents=2, turn_based=True))
