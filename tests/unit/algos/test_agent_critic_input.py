"""Central critics that also see one agent's own observation (algo.critic_input: agent).

They are compared with literal references, bare loops and closed forms.
"""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.transfer import transfer_parameters
from hpcmarl.bench.reference.critics import ReferenceValueCritic
from hpcmarl.config import MATraceConfig, NetworkConfig, PPOConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.types import PolicySpec
from tests.reference import ma_trace, ppo
from tests.support.algorithms import TEAM_AND_PREY, outlived_rows, rollouts_of
from tests.support.rollouts import DISCRETE, make_spec, random_rollout, written_rollout
from tests.support.worlds import SPREAD

KEYS = {
    "critic_input": "agent",
    "discount": 0.9,
    "trace_lambda": 0.8,
    "entropy_cost": 0.1,
    "normalise_advantages": False,
}
REMEMBERING = NetworkConfig(hidden=(5,), body="gru", memory=4)


def make(spec, algorithm, **keys):
    made = make_algorithm(spec, algorithm(**{**KEYS, "network": NetworkConfig(hidden=(5,)), **keys}), 0)
    made.load_parameters(
        np.random.default_rng(1).standard_normal(made.size).astype(np.float32) * np.float32(0.6)
    )
    return made


@pytest.mark.parametrize(
    ("algorithm", "literal", "keys"),
    [
        (MATraceConfig, ma_trace, {"ratios": "joint"}),
        (MATraceConfig, ma_trace, {"ratios": "agent", "agent_id": True}),
        (PPOConfig, ppo, {}),
        (PPOConfig, ppo, {"agent_id": True, "critic_network": REMEMBERING}),
    ],
    ids=["joint", "agent", "ppo", "ppo_recurrent"],
)
@pytest.mark.parametrize("critic", ["joint_observation", "state"])
@pytest.mark.parametrize("spec", [make_spec(), TEAM_AND_PREY], ids=["one_policy", "two_policies"])
def test_gradient_equals_the_literal_implementation(spec, critic, algorithm, literal, keys):
    made, rollouts = make(spec, algorithm, critic=critic, **keys), rollouts_of(spec, steps=6)
    assert outlived_rows(rollouts) > 0
    found = made.gradient(rollouts)[0]
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, literal.literal_gradient(made, rollouts), atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize(
    "algo", ["{name: ma_trace, critic: state}", "{name: ppo, critic: joint_observation, agent_id: true}"]
)
def test_gradient_equals_the_bare_torch_loop(algo):
    config = load_config(SPREAD, [f"algo={algo}", "algo.critic_input=agent", "algo.network.hidden=[8]"])
    algorithm = make_algorithm(make_spec(), config.algo, 0)
    bare = ReferenceValueCritic(config, algorithm)
    rollout = random_rollout(make_spec(), 7, 3, np.random.default_rng(0), deaths=True)
    own, other = algorithm.gradient([rollout])[0] / rollout.count, -bare.gradient(bare.stack([rollout]))
    assert np.abs(other).max() > 1e-2
    np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-4)


def test_recorded_estimates_are_of_each_agent():
    algorithm = make(
        TEAM_AND_PREY, PPOConfig, critic="state", advantages="once", value_clip=0.1, normalise_advantages=True
    )
    rollouts = rollouts_of(TEAM_AND_PREY)
    begun = algorithm.begin_batch(rollouts)
    assert begun[0].records["team"].outputs.shape[-1] == 3
    fresh = algorithm.gradient([rollouts[0]])[0]
    np.testing.assert_allclose(algorithm.gradient(algorithm.begin_batch([rollouts[0]]))[0], fresh, atol=1e-4)


def test_dying_agents_value_still_holds_the_teams_return():
    """Agent 1 dies in the first of three steps; each step earns both agents 1.

    The last decision of agent 1 is worth 1 + 0.5 + 0.25, as is the other agent's.
    """
    spec = make_spec(agents=2)
    alive = np.array([[1, 1], [1, 0], [1, 0], [1, 0]])[:, None]
    rollout = written_rollout(
        spec, {"agent": alive}, {"agent": np.ones((3, 1, 2))}, np.array([[0], [0], [1]])
    )
    algorithm = make(spec, PPOConfig, discount=0.5, trace_lambda=1.0, advantages="once", critic="state")
    targets = algorithm.begin_batch([rollout])[0].records["agent"].targets
    np.testing.assert_allclose(targets[:, 0], [[1.75, 1.75], [1.5, 1.5], [1.0, 1.0]], atol=1e-5)


@pytest.mark.parametrize("critic", ["joint_observation", "state"])
def test_changed_observations_begin_such_critics_anew(critic):
    """The critic's first layer restarts from initial weights; policies are carried over.

    Surgery cannot separate the observations that are joined in a critic's input.
    """
    spec = make_spec(PolicySpec("agent", ("a", "b"), (3,), DISCRETE))
    old, new = make(spec, PPOConfig, critic=critic), make(spec, PPOConfig, critic=critic)
    carried = transfer_parameters(old, new, {"agent": [2, 0, 1]})
    assert carried.begun == ["agent.critic.layers.layers.0.weight"]
    assert carried.difference < 1e-5


def test_agents_own_observation_needs_a_central_critic():
    with pytest.raises(
        ConfigError, match=r"algo\.critic_input: agent does not work with algo\.critic: independent"
    ):
        load_config(SPREAD, ["algo={name: ppo, critic: independent, critic_input: agent}"])
