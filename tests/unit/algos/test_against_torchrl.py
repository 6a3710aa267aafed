"""V-trace, advantages, TD(lambda) targets and mixers against torchrl, to 1e-5.

The advantages are generalised advantage estimates. torchrl is needed by tests only (extra `dev`).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.actor_critic import Columns
from hpcmarl.algos.batch import join
from hpcmarl.algos.episodes import episodes_of
from hpcmarl.config import AgentNetworkConfig, IQLConfig, PPOConfig, VDNConfig
from hpcmarl.maths.vtrace import vtrace
from hpcmarl.nets.mixers import SumMixer
from tests.reference.torchrl import (
    estimates,
    generalised_advantages,
    lambda_returns,
    mixed,
    mixers,
    random_columns,
    vtrace_estimate,
)
from tests.support.rollouts import make_spec, random_rollout

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
seeds, lengths, unit = st.integers(0, 100_000), st.integers(1, 40), st.floats(0.0, 1.0)
discounts, actings = st.floats(0.5, 1.0), st.sampled_from([1.0, 0.6])


@given(seeds, lengths, discounts, st.floats(0.1, 2.0), st.floats(0.1, 1.0), actings)
@settings(max_examples=60, deadline=None)
def test_v_trace_equals_torchrl(seed, steps, discount, rho_max, c_max, acting):
    """Targets and policy-gradient advantages of maths/vtrace.py with lambda 1 (torchrl's has no lambda)."""
    data, generator = random_columns(seed, steps, 3, acting)
    target, behaviour = (generator.standard_normal(data.value.shape).astype(np.float32) for _ in range(2))
    given_ = (
        target - behaviour,
        data.value,
        data.last,
        data.reward,
        data.active,
        data.terminated,
        data.truncated,
        data.final,
    )
    found = vtrace(*given_, discount=discount, rho_max=rho_max, c_max=c_max)
    advantages, targets = vtrace_estimate(data, target, behaviour, discount, rho_max, c_max)
    np.testing.assert_allclose(found.targets, targets, **CLOSE)
    np.testing.assert_allclose(found.advantages, advantages, **CLOSE)


@given(seeds, lengths, discounts, unit, actings)
@settings(max_examples=60, deadline=None)
def test_generalised_advantages_equal_torchrl(seed, steps, discount, trace_lambda, acting):
    """Targets of PPO's critic and advantages of its policy, before normalisation."""
    data, _ = random_columns(seed, steps, 3, acting)
    ppo = make_algorithm(make_spec(), PPOConfig(discount=discount, trace_lambda=trace_lambda), 0)
    found = ppo._trace(ppo.spec.policies[0], data, None, {})
    advantages, targets = generalised_advantages(data, discount, trace_lambda)
    np.testing.assert_allclose(found.targets, targets, **CLOSE)
    np.testing.assert_allclose(found.advantages, advantages, **CLOSE)


@given(seeds, st.lists(st.integers(1, 15), min_size=1, max_size=4), discounts, unit)
@settings(max_examples=40, deadline=None)
def test_team_td_lambda_targets_equal_torchrl(seed, steps, discount, trace_lambda):
    """VDN's targets R of whole episodes of different lengths.

    They use V of the next row. Where the episode was truncated, they use V of the last observation.
    """
    algorithm = make_algorithm(
        make_spec(),
        VDNConfig(discount=discount, trace_lambda=trace_lambda, network=AgentNetworkConfig(body="mlp")),
        0,
    )
    generator = np.random.default_rng(seed)
    episodes = episodes_of(
        join([random_rollout(algorithm.spec, length, 1, generator, whole_episode=True) for length in steps]),
        algorithm.spec,
        algorithm.design.policies,
    )
    columns = algorithm._columns(episodes)
    future = torch.from_numpy(generator.standard_normal((max(steps) + 1, len(steps), 1)).astype(np.float32))
    found = algorithm._targets(columns, future)
    for slot, length in enumerate(steps):
        done = torch.zeros(length, 1, dtype=torch.bool)
        done[-1] = True
        reward, terminated = (
            torch.from_numpy(np.ascontiguousarray(array[:length, slot]))
            for array in (columns.reward, columns.terminated)
        )
        wanted = estimates().td_lambda_return_estimate(
            discount, trace_lambda, future[1 : length + 1, slot], reward, done, terminated
        )
        np.testing.assert_allclose(found[:length, slot].numpy(), wanted.numpy(), **CLOSE)


@given(seeds, st.integers(2, 15), discounts, unit)
@settings(max_examples=40, deadline=None)
def test_td_lambda_targets_of_dying_agents_equal_torchrl(seed, steps, discount, trace_lambda):
    """IQL's targets of each agent, until the agent's own end.

    A death in mid-episode counts as a termination.
    """
    algorithm = make_algorithm(
        make_spec(),
        IQLConfig(discount=discount, trace_lambda=trace_lambda, network=AgentNetworkConfig(body="mlp")),
        0,
    )
    generator = np.random.default_rng(seed)
    rollout = random_rollout(algorithm.spec, steps, 2, generator, deaths=True, whole_episode=True)
    part = rollout.policies["agent"]
    future = generator.standard_normal((steps + 1, 2, 3)).astype(np.float32)
    columns = Columns(
        future[:-1],
        np.zeros((2, 3), np.float32),
        future[1:],
        part.reward,
        part.alive[:-1],
        part.terminated,
        part.truncated,
    )
    found = algorithm._targets(columns, torch.from_numpy(future)).numpy()
    for slot in range(2):
        one = Columns(
            *(
                array[:, slot : slot + 1] if array.ndim == 3 else array[slot : slot + 1]
                for array in vars(columns).values()
            )
        )
        np.testing.assert_allclose(
            found[:, slot : slot + 1], lambda_returns(one, discount, trace_lambda), **CLOSE
        )


@pytest.mark.parametrize(
    ("agents", "state", "width", "hyper"), [(3, 7, 8, 12), (1, 4, 3, 5), (10, 60, 32, 64)]
)
@pytest.mark.parametrize("seed", range(3))
def test_qmix_mixer_equals_torchrl(agents, state, width, hyper, seed):
    """Q_tot and its gradients by the utilities, the state and every weight."""
    for found, wanted in zip(*mixed(agents, state, width, hyper, seed), strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_vdn_mixer_equals_torchrl():
    """The sum of the utilities."""
    utilities = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    theirs = mixers().VDNMixer(n_agents=4, device="cpu")
    torch.testing.assert_close(
        SumMixer()(utilities, None), theirs(utilities.unsqueeze(-1)).squeeze(-1), **CLOSE
    )
