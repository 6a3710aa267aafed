"""Critics with a memory, against literal references and torch's own GRU.

The memory is carried over the borders of unrolls. Such critics learn values that others cannot.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import select
from hpcmarl.bench.reference.critics import ReferenceValueCritic
from hpcmarl.config import MATraceConfig, NetworkConfig, PPOConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.roles.learner.critic_memory import CriticMemory, following
from tests.reference import ma_trace, ppo
from tests.support.algorithms import TEAM_AND_PREY, TURNS, rollouts_of
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import SPREAD

PLAIN = {"discount": 0.9, "trace_lambda": 0.8, "entropy_cost": 0.1, "normalise_advantages": False}
REMEMBERING = NetworkConfig(hidden=(5,), body="gru", memory=4)


def make(spec, algorithm=MATraceConfig, **keys):
    config = algorithm(
        **{**PLAIN, "network": NetworkConfig(hidden=(5,)), "critic_network": REMEMBERING, **keys}
    )
    made = make_algorithm(spec, config, 0)
    made.load_parameters(
        np.random.default_rng(1).standard_normal(made.size).astype(np.float32) * np.float32(0.6)
    )
    return made


def remembering(algorithm, rollouts):
    """Give the critics a random memory at the start of the rollouts, and return the rollouts."""
    generator = np.random.default_rng(3)
    for rollout in rollouts:
        for name, memory in algorithm.critic_memory(rollout).items():
            rollout.policies[name].critic_memory = np.tanh(generator.standard_normal(memory.shape)).astype(
                np.float32
            )
    return rollouts


@pytest.mark.parametrize(
    ("algorithm", "literal"), [(MATraceConfig, ma_trace), (PPOConfig, ppo)], ids=["ma_trace", "ppo"]
)
@pytest.mark.parametrize(
    ("spec", "critic"),
    [
        (make_spec(), "state"),
        (make_spec(), "joint_observation"),
        (make_spec(), "independent"),
        (TEAM_AND_PREY, "state"),
        (TEAM_AND_PREY, "independent"),
        (TURNS, "independent"),
    ],
    ids=["state", "joint_observation", "independent", "two_full", "two_dec", "turns"],
)
def test_gradient_equals_the_literal_implementation(spec, critic, algorithm, literal):
    made = make(spec, algorithm, critic=critic)
    rollouts = remembering(made, rollouts_of(spec, steps=6, count=1))
    found = made.gradient(rollouts)[0]
    np.testing.assert_allclose(found, literal.literal_gradient(made, rollouts), atol=3e-4, rtol=3e-4)
    part = rollouts[0].policies[spec.policies[0].name]
    part.critic_memory = np.zeros_like(part.critic_memory)
    # The memory changes the gradient.
    assert np.abs(found - made.gradient(rollouts)[0]).max() > 1e-3


@pytest.mark.parametrize(
    "algo",
    [
        "{name: ma_trace, critic: independent}",
        "{name: ppo, critic: joint_observation, normalise_advantages: false}",
    ],
)
def test_gradient_equals_the_bare_torch_loop(algo):
    config = load_config(
        SPREAD,
        [
            f"algo={algo}",
            "algo.network={hidden: [8]}",
            "algo.critic_network={hidden: [8], body: gru, memory: 6}",
        ],
    )
    spec = make_spec()
    algorithm = make_algorithm(spec, config.algo, 0)
    bare = ReferenceValueCritic(config, algorithm)
    rollout = random_rollout(spec, 7, 3, np.random.default_rng(0), end_rate=0.0)
    own, other = algorithm.gradient([rollout])[0] / rollout.count, -bare.gradient(bare.stack([rollout]))
    assert np.abs(other).max() > 1e-2
    np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-4)


def pieces(rollout, length):
    """Split one long unroll into several, as an actor sends them."""
    for start in range(0, rollout.steps, length):
        rows, finals = (
            slice(start, start + length + 1),
            (rollout.final_index[:, 0] // length) == start // length,
        )
        inner = slice(start, start + length)
        policies = {}
        for name, part in rollout.policies.items():
            outer = {key: getattr(part, key)[rows] for key in ("obs", "alive")}
            within = {
                key: getattr(part, key)[inner]
                for key in ("action", "logp", "reward", "terminated", "truncated")
            }
            mask = None if part.action_mask is None else part.action_mask[rows]
            policies[name] = replace(
                part, **outer, **within, final_obs=part.final_obs[finals], action_mask=mask
            )
        episode, step = following(replace(rollout, episode_end=rollout.episode_end[:start]))
        yield replace(
            rollout,
            policies=policies,
            episode_start=rollout.episode_start[rows],
            episode_end=rollout.episode_end[inner],
            final_index=rollout.final_index[finals] - np.array([start, 0], np.int32),
            first_step=step,
            episode=episode,
            state=None if rollout.state is None else rollout.state[rows],
            final_state=None if rollout.final_state is None else rollout.final_state[finals],
        )


@pytest.mark.parametrize("critic", ["state", "independent"])
def test_memory_is_carried_from_unroll_to_unroll(critic):
    """Three unrolls of four rows have the same values as one unroll of twelve rows."""
    algorithm, spec = make(TEAM_AND_PREY, critic=critic), TEAM_AND_PREY
    whole = rollouts_of(spec, steps=12, count=1)[0]
    carrier, found = CriticMemory(algorithm), []
    for piece in pieces(whole, 4):
        carrier.attach(7, piece)
        found.append(algorithm.critic_memory(piece))
    for name, memory in algorithm.critic_memory(whole).items():
        assert np.abs(memory).max() > 0.1
        np.testing.assert_allclose(found[-1][name], memory, atol=1e-5)


def test_memory_is_forgotten_where_an_unroll_is_missing():
    algorithm = make(make_spec())
    generator = np.random.default_rng(5)
    whole = random_rollout(make_spec(), 12, 3, generator, end_rate=0.0)
    first, second, third = pieces(whole, 4)
    carrier = CriticMemory(algorithm)
    carrier.attach(7, first)
    assert not first.policies["agent"].critic_memory.any()
    # This unroll is from another actor.
    carrier.attach(8, second)
    assert not second.policies["agent"].critic_memory.any()
    carrier.attach(7, third)
    assert not third.policies["agent"].critic_memory.any()
    carrier.attach(7, first)
    carrier.attach(7, second)
    assert second.policies["agent"].critic_memory.any(-1).all()
    carrier.forget(7)
    carrier.attach(7, third)
    assert not third.policies["agent"].critic_memory.any()


def test_carried_memory_survives_a_checkpoint():
    algorithm = make(make_spec())
    first, second = pieces(random_rollout(make_spec(), 8, 3, np.random.default_rng(5), end_rate=0.0), 4)
    carrier, resumed = CriticMemory(algorithm), CriticMemory(algorithm)
    carrier.attach(7, first)
    resumed.load_state_dict(carrier.state_dict())
    resumed.attach(7, second)
    np.testing.assert_array_equal(
        second.policies["agent"].critic_memory, algorithm.critic_memory(first)["agent"]
    )


def test_slots_keep_their_memory_in_parts_of_rollouts():
    algorithm = make(TEAM_AND_PREY, critic="state")
    rollout = remembering(algorithm, rollouts_of(TEAM_AND_PREY, slots=5, count=1))[0]
    summed = sum(algorithm.gradient([select(rollout, np.array(slots))])[0] for slots in ([0, 3], [1], [2, 4]))
    np.testing.assert_allclose(summed, algorithm.gradient([rollout])[0], atol=1e-4)


def recalled(seed, border):
    """Return episodes of four steps that reward a memory of the first step.

    Sixteen slots see +1 or -1 in the first step and zeros later. The reward of the last step is that number.
    """
    generator = np.random.default_rng(seed)
    whole = random_rollout(make_spec(agents=1, state_size=None), 4, 16, generator, end_rate=0.0)
    part, number = whole.policies["agent"], generator.choice([-1.0, 1.0], 16).astype(np.float32)
    part.obs[:], part.reward[:] = 0.0, 0.0
    part.obs[0, :, 0, 0], part.reward[-1, :, 0] = number, number
    whole.episode_start[0], whole.episode_start[-1], whole.episode_end[-1], whole.first_step[:] = (
        True,
        True,
        1,
        0,
    )
    part.terminated[-1] = True
    return list(pieces(whole, border))


@pytest.mark.parametrize("remembers", [True, False])
def test_values_of_what_was_seen_before_the_border_are_learned(remembers):
    """The second unroll of each episode shows nothing.

    Only a memory that is carried over the border separates +1 from -1.
    """
    network = NetworkConfig(hidden=(8,), body="gru" if remembers else "mlp", memory=8)
    plain = {"discount": 1.0, "entropy_cost": 0.0, "value_cost": 0.5, "importance_sampling": False}
    config = MATraceConfig(**plain, network=NetworkConfig(hidden=(4,)), critic_network=network)
    algorithm = make_algorithm(make_spec(agents=1, state_size=None), config, 0)
    carrier, explained = CriticMemory(algorithm), 0.0
    optimizer = torch.optim.Adam(
        [vector := torch.nn.Parameter(torch.from_numpy(algorithm.initial_parameters()))], 0.02
    )
    for number in range(150):
        for piece in recalled(number, 2):
            carrier.attach(1, piece)
            gradient, told = algorithm.gradient([piece])
            vector.grad = -torch.from_numpy(gradient) / piece.count
            optimizer.step()
            algorithm.load_parameters(vector.detach().numpy())
            explained = told["explained_variance"]
    assert explained > 0.9 if remembers else explained < 0.2


def test_coma_refuses_a_recurrent_critic():
    with pytest.raises(
        ConfigError, match=r"algo\.critic_network\.body: gru does not work with algo\.name: coma"
    ):
        load_config(SPREAD, ["algo.name=coma", "algo.critic_network={body: gru}"])
