"""Advantages and targets that PPO computes once per batch (algo.advantages: once)."""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import select
from hpcmarl.bench.reference.critics import ReferenceValueCritic
from hpcmarl.config import NetworkConfig, PPOConfig
from hpcmarl.config.file import load_config
from tests.reference.ppo import literal_gradient, settle
from tests.support.algorithms import TEAM_AND_PREY, TURNS, rollouts_of
from tests.support.rollouts import make_spec, written_rollout
from tests.support.worlds import SPREAD

KEYS = {"discount": 0.9, "trace_lambda": 0.8, "advantages": "once"}


def make(spec, **keys):
    algorithm = make_algorithm(spec, PPOConfig(**{**KEYS, "network": NetworkConfig(hidden=(5,)), **keys}), 0)
    algorithm.load_parameters(
        np.random.default_rng(1).standard_normal(algorithm.size).astype(np.float32) * np.float32(0.6)
    )
    return algorithm


def move(algorithm):
    step = np.random.default_rng(2).standard_normal(algorithm.size).astype(np.float32)
    algorithm.load_parameters(algorithm.parameters + np.float32(0.2) * step)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("critic", ["joint_observation", "state", "independent"])
@pytest.mark.parametrize("spec", [make_spec(), TEAM_AND_PREY], ids=["one_policy", "two_policies"])
def test_later_gradient_equals_the_literal_one(spec, critic, normalised):
    algorithm, rollouts = make(spec, critic=critic, normalise_advantages=normalised), rollouts_of(spec)
    begun, settled = algorithm.begin_batch(rollouts), settle(algorithm, rollouts)
    move(algorithm)
    found = algorithm.gradient(begun)[0]
    np.testing.assert_allclose(found, literal_gradient(algorithm, begun, settled), atol=3e-4, rtol=3e-4)
    assert np.abs(found - algorithm.gradient(rollouts)[0]).max() > 1e-2


def test_later_gradient_in_turn_based_games_is_literal():
    algorithm, rollouts = (
        make(TURNS, critic="independent", normalise_advantages=False),
        rollouts_of(TURNS, steps=6),
    )
    begun, settled = algorithm.begin_batch(rollouts), settle(algorithm, rollouts)
    move(algorithm)
    np.testing.assert_allclose(
        algorithm.gradient(begun)[0], literal_gradient(algorithm, begun, settled), atol=3e-4, rtol=3e-4
    )


def test_first_gradient_equals_that_of_fresh_advantages():
    algorithm, rollouts = make(make_spec(), value_clip=0.2), rollouts_of(make_spec(), slots=4)
    np.testing.assert_allclose(
        algorithm.gradient(algorithm.begin_batch(rollouts))[0], algorithm.gradient(rollouts)[0], atol=1e-4
    )


def test_minibatches_are_normalised_as_one_batch():
    """Two unrolls of one step, one per minibatch, have rewards 0 and 2.

    Normalised per minibatch, each would have an advantage of 0.
    """
    spec = make_spec(agents=1)
    ends = np.ones((1, 1), np.int64)
    rollouts = [
        written_rollout(spec, {"agent": np.ones((2, 1, 1))}, {"agent": np.full((1, 1, 1), reward)}, ends)
        for reward in (0.0, 2.0)
    ]
    algorithm = make(spec)
    algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    begun = algorithm.begin_batch(rollouts)
    assert [rollout.records["agent"].advantages.item() for rollout in begun] == pytest.approx([-1.0, 1.0])
    assert [rollout.records["agent"].targets.item() for rollout in begun] == [0.0, 2.0]


def test_parts_sum_to_the_whole_with_normalised_advantages():
    algorithm, rollouts = make(TEAM_AND_PREY), rollouts_of(TEAM_AND_PREY, slots=4)
    begun = algorithm.begin_batch(rollouts)
    move(algorithm)
    parts = [select(rollout, np.array(slots)) for rollout in begun for slots in ([0, 2], [1, 3])]
    summed = sum(algorithm.gradient([part])[0] for part in parts)
    np.testing.assert_allclose(summed, algorithm.gradient(begun)[0], atol=2e-4)


@pytest.mark.parametrize("critic", ["joint_observation", "independent"])
def test_later_gradient_equals_the_bare_torch_loop(critic):
    config = load_config(
        SPREAD,
        [
            "algo={name: ppo, advantages: once, value_clip: 0.1}",
            f"algo.critic={critic}",
            "algo.network.hidden=[8]",
        ],
    )
    spec = make_spec()
    algorithm = make_algorithm(spec, config.algo, 0)
    bare = ReferenceValueCritic(config, algorithm)
    begun = algorithm.begin_batch(rollouts_of(spec, count=1))
    inputs = bare.settled(bare.stack(begun))
    move(algorithm)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(algorithm.parameters), bare.module.parameters())
    own, other = algorithm.gradient(begun)[0] / begun[0].count, -bare.gradient(inputs)
    assert np.abs(other).max() > 1e-2
    np.testing.assert_allclose(own, other, atol=2e-5, rtol=2e-4)
