"""The critics' losses, and the records made when a batch begins.

Losses are compared with closed forms, the literal PPO and the bare torch loops.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import join, select
from hpcmarl.algos.value_loss import clipped_value_losses, value_losses
from hpcmarl.bench.reference.critics import ReferenceCOMA, ReferenceValueCritic
from hpcmarl.comm.topology import Group
from hpcmarl.config import MinibatchPasses, NetworkConfig, PPOConfig
from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.minibatches import MinibatchSampler
from tests.reference.ppo import LiteralPPO, literal_gradient
from tests.support.algorithms import TEAM_AND_PREY, TURNS, rollouts_of
from tests.support.contexts import make_context
from tests.support.rollouts import make_spec
from tests.support.worlds import SPREAD

PLAIN = {"discount": 0.9, "trace_lambda": 0.8, "entropy_cost": 0.1, "normalise_advantages": False}


def vector_of(algorithm, seed, scale=0.6):
    return np.random.default_rng(seed).standard_normal(algorithm.size).astype(np.float32) * np.float32(scale)


def make(spec, **keys):
    algorithm = make_algorithm(spec, PPOConfig(**PLAIN, network=NetworkConfig(hidden=(5,)), **keys), 0)
    algorithm.load_parameters(vector_of(algorithm, 1))
    return algorithm


def recorded(algorithm, rollouts):
    """Begin a batch at the present parameters, then move the parameters a step away.

    Returns:
        The rollouts of the batch.
    """
    begun = algorithm.begin_batch(rollouts)
    algorithm.load_parameters(algorithm.parameters + vector_of(algorithm, 2, 0.1))
    return begun


def test_losses_and_slopes_in_closed_form():
    config = PPOConfig(value_loss="huber", huber_delta=2.0)
    outputs, wanted = (
        torch.tensor([0.0, 0.0, 0.0, 0.0], requires_grad=True),
        torch.tensor([1.0, -1.0, 5.0, -5.0]),
    )
    losses = value_losses(config, outputs, wanted)
    assert losses.tolist() == [1.0, 1.0, 16.0, 16.0]
    assert torch.autograd.grad(losses.sum(), outputs)[0].tolist() == [-2.0, 2.0, -4.0, 4.0]
    assert value_losses(PPOConfig(), outputs, wanted).tolist() == [1.0, 1.0, 25.0, 25.0]


@pytest.mark.parametrize(
    ("output", "target", "loss", "slope"),
    [
        (0.1, 1.0, 0.81, -1.8),  # hardly moved
        (0.5, 1.0, 0.64, 0.0),  # moved towards its target: clipped
        (-0.5, 1.0, 2.25, -3.0),  # moved away: not clipped
        # The output is beyond its target, and further from it than the clipped value is.
        (3.0, 1.0, 4.0, 4.0),
    ],
)
def test_clipped_losses_in_closed_form(output, target, loss, slope):
    outputs = torch.tensor([output], requires_grad=True)
    losses = clipped_value_losses(PPOConfig(), outputs, torch.tensor([target]), torch.zeros(1), 0.2)
    assert losses.item() == pytest.approx(loss)
    assert torch.autograd.grad(losses.sum(), outputs)[0].item() == pytest.approx(slope)


@pytest.mark.parametrize("critic", ["joint_observation", "state", "independent"])
@pytest.mark.parametrize("spec", [make_spec(), TEAM_AND_PREY], ids=["one_policy", "two_policies"])
def test_clipped_huber_gradient_equals_the_literal_one(spec, critic):
    algorithm = make(spec, critic=critic, value_clip=0.2, value_loss="huber", huber_delta=0.7)
    rollouts = rollouts_of(spec)
    policy = spec.policies[0]
    said = LiteralPPO(algorithm, rollouts[0], policy, 1).value(0, 0).item()
    begun = recorded(algorithm, rollouts)
    counts = LiteralPPO(algorithm, rollouts[0], policy, 1).counts(0, 0 if critic == "independent" else None)
    assert begun[0].records[policy.name].outputs[0, 1, 0] == pytest.approx(said if counts else 0.0, abs=1e-5)
    found = algorithm.gradient(begun)[0]
    np.testing.assert_allclose(found, literal_gradient(algorithm, begun), atol=2e-4, rtol=2e-4)
    assert np.abs(found - algorithm.gradient(rollouts)[0]).max() > 1e-2  # clipping matters


def test_clipped_gradient_in_turn_based_games_is_literal():
    algorithm = make(TURNS, critic="independent", value_clip=0.1)
    begun = recorded(algorithm, rollouts_of(TURNS, steps=6))
    np.testing.assert_allclose(
        algorithm.gradient(begun)[0], literal_gradient(algorithm, begun), atol=2e-4, rtol=2e-4
    )


def test_first_gradient_of_a_batch_is_not_clipped():
    algorithm, rollouts = make(make_spec(), value_clip=0.01), rollouts_of(make_spec())
    np.testing.assert_allclose(
        algorithm.gradient(algorithm.begin_batch(rollouts))[0], algorithm.gradient(rollouts)[0], atol=1e-5
    )


def test_records_follow_their_slots_into_minibatches():
    algorithm, rollouts = make(make_spec(), value_clip=0.2), rollouts_of(make_spec(), slots=4)
    begun = recorded(algorithm, rollouts)
    parts = [select(rollout, np.array(slots)) for rollout in begun for slots in ([0, 2], [1, 3])]
    summed = sum(algorithm.gradient([part])[0] for part in parts)
    np.testing.assert_allclose(summed, algorithm.gradient(begun)[0], atol=1e-4)
    assert join([begun[0], rollouts[1]]).records is None


def test_a_batch_keeps_the_values_of_its_beginning():
    """A batch keeps its values, however far the parameters move until its last gradient.

    The next batch has its own values.
    """
    spec = make_spec()
    algorithm = make(spec, value_clip=0.2, epochs=2, minibatches=1)
    source = MinibatchSampler(
        make_context(SPREAD, "algo.name=ppo"),
        Group(0, 0, (1,)),
        make_rule("sync", 1, 3),
        algorithm,
        MinibatchPasses(2, 1),
    )
    rollouts, said = rollouts_of(spec, count=2), []
    for version in range(4):
        if version % 2 == 0:
            rollouts[version // 2].version = version
            source.add(SimpleNamespace(source=1, release=lambda: None), rollouts[version // 2], version)
            expected = algorithm.begin_batch([rollouts[version // 2]])[0].records["agent"].outputs
        work = source.take(version, 0)
        said.append(work.rollouts[0].records["agent"].outputs)
        np.testing.assert_array_equal(said[-1], expected)
        algorithm.load_parameters(algorithm.parameters + vector_of(algorithm, version, 0.1))
        source.on_version(version + 1)
    assert not np.allclose(said[0], said[2])


@pytest.mark.parametrize(
    ("kind", "algo"),
    [
        (
            ReferenceValueCritic,
            "{name: ppo, critic: joint_observation, value_clip: 0.1, value_loss: huber, huber_delta: 0.5}",
        ),
        (ReferenceValueCritic, "{name: ppo, critic: independent, value_clip: 0.1}"),
        (ReferenceValueCritic, "{name: ma_trace, critic: state, value_loss: huber, huber_delta: 0.5}"),
        (ReferenceCOMA, "{name: coma, value_loss: huber, huber_delta: 0.5}"),
    ],
)
def test_gradient_equals_the_bare_torch_loop(kind, algo):
    config, spec = (
        load_config(SPREAD, [f"algo={algo}", "algo.network.hidden=[8]", "algo.normalise_advantages=false"]),
        make_spec(),
    )
    algorithm = make_algorithm(spec, config.algo, 0)
    bare = kind(config, algorithm)
    begun = recorded(algorithm, rollouts_of(spec, count=1))
    for module in (bare.module, bare.target):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(algorithm.parameters), module.parameters())
    algorithm.on_version(0)
    own, other = algorithm.gradient(begun)[0] / begun[0].count, -bare.gradient(bare.stack(begun))
    assert np.abs(other).max() > 1e-2
    np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-4)
