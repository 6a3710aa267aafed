"""V-trace, generalised advantages, TD(lambda) targets and the mixers against torchrl's own implementations (tests only, extra `dev`), to 1e-5.

torchrl knows no gaps: a column's acting rows are given to it one after the other, each with what our definition says comes after it. Time is
counted in own decisions, so the rewards of a gap count, discounted once, with the decision before it. Rows: reward, value, value after
(next acting row; bootstrap after the unroll; the last observation where an episode was truncated), done, terminated.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.actor_critic import Columns
from hpcmarl.algos.batch import join
from hpcmarl.algos.episodes import episodes_of
from hpcmarl.config import AgentNetworkConfig, IQLConfig, PPOConfig, VDNConfig
from hpcmarl.maths.vtrace import vtrace
from hpcmarl.nets.mixers import MonotonicMixer, SumMixer
from tests.support.rollouts import make_spec, random_rollout


def estimates() -> Any:
    """torchrl's estimates of values, imported where a test runs: collecting tests need not take two seconds longer."""
    return importlib.import_module("torchrl.objectives.value.functional")


def mixers() -> Any:
    """torchrl's mixers."""
    return importlib.import_module("torchrl.modules.models.multiagent")


CLOSE = {"rtol": 1e-5, "atol": 1e-5}
seeds, lengths, unit = st.integers(0, 100_000), st.integers(1, 40), st.floats(0.0, 1.0)
discounts, actings = st.floats(0.5, 1.0), st.sampled_from([1.0, 0.6])


@dataclass
class Sequence:
    """The acting rows of one column as torchrl takes them, [n, 1] each; `rows` says where they were."""

    rows: list[int]
    reward: torch.Tensor
    value: torch.Tensor
    after: torch.Tensor
    done: torch.Tensor
    terminated: torch.Tensor


def random_columns(seed: int, steps: int, columns: int, acting: float) -> tuple[Columns, np.random.Generator]:
    """Several episodes in a row, ended by terminations and truncations, some of them in a gap; agents that die early or come late are gaps."""
    generator = np.random.default_rng(seed)
    shape = (steps, 1, columns)

    def normal(*size: int) -> np.ndarray:
        return generator.standard_normal(size).astype(np.float32)

    acts, ends = generator.random(shape) < acting, generator.random(shape)
    return Columns(normal(*shape), normal(*shape[1:]), normal(*shape), normal(*shape), acts, ends < 0.1, (ends >= 0.1) & (ends < 0.2)), generator


def sequence_of(data: Columns, column: int, discount: float) -> Sequence:
    """One column, row by row: from each acting row on through its gap until the next one or the episode's end."""
    own = {name: np.asarray(array)[:, 0, column] for name, array in vars(data).items() if name != "last"}
    rows = np.flatnonzero(own["acts"]).tolist()
    reward, after, done = [], [], []
    for row in rows:
        earned, at = float(own["reward"][row]), row
        while not (own["terminated"][at] or own["truncated"][at]) and at + 1 < len(own["acts"]) and not own["acts"][at + 1]:
            at += 1
            earned += discount * float(own["reward"][at])
        last = at + 1 == len(own["acts"])
        done.append((bool(own["terminated"][at] or own["truncated"][at]), bool(own["terminated"][at])))
        going_on = float(data.last[0, column]) if last else float(own["value"][at + 1])
        after.append(float(own["final"][at]) if own["truncated"][at] else going_on)
        reward.append(earned)
    numbers = [torch.tensor(array, dtype=torch.float32).view(-1, 1) for array in (reward, own["value"][rows], after)]
    flags = torch.tensor(done, dtype=torch.bool).view(-1, 2)
    return Sequence(rows, *numbers, flags[:, :1], flags[:, 1:])


def check(found: np.ndarray, column: int, sequence: Sequence, wanted: torch.Tensor) -> None:
    """found [T, 1, C] is `wanted` [n, 1] in the sequence's rows and zero in all others."""
    expected = np.zeros(len(found), np.float32)
    expected[sequence.rows] = wanted[:, 0].numpy()
    np.testing.assert_allclose(found[:, 0, column], expected, **CLOSE)


@given(seeds, lengths, discounts, st.floats(0.1, 2.0), st.floats(0.1, 1.0), actings)
@settings(max_examples=60, deadline=None)
def test_v_trace_equals_torchrl(seed, steps, discount, rho_max, c_max, acting):
    """Targets and policy-gradient advantages of maths/vtrace.py with lambda 1 (torchrl's has no lambda)."""
    data, generator = random_columns(seed, steps, 3, acting)
    target, behaviour = (generator.standard_normal(data.value.shape).astype(np.float32) for _ in range(2))
    given_ = (target - behaviour, data.value, data.last, data.reward, data.acts, data.terminated, data.truncated, data.final)
    found = vtrace(*given_, discount=discount, rho_max=rho_max, c_max=c_max)
    for column in range(3):
        own = sequence_of(data, column, discount)
        if not own.rows:
            continue
        ratios = (torch.from_numpy(array[own.rows, 0, column])[:, None] for array in (target, behaviour))
        advantages, targets = estimates().vtrace_advantage_estimate(
            discount, *ratios, own.value, own.after, own.reward, own.done, own.terminated, rho_thresh=rho_max, c_thresh=c_max
        )
        check(found.targets, column, own, targets)
        check(found.advantages, column, own, advantages)


@given(seeds, lengths, discounts, unit, actings)
@settings(max_examples=60, deadline=None)
def test_generalised_advantages_equal_torchrl(seed, steps, discount, trace_lambda, acting):
    """What PPO's critic learns and what weighs its policy, before normalisation."""
    data, _ = random_columns(seed, steps, 3, acting)
    ppo = make_algorithm(make_spec(), PPOConfig(discount=discount, trace_lambda=trace_lambda), 0)
    found = ppo._trace(ppo.spec.policies[0], data, None, {})
    for column in range(3):
        own = sequence_of(data, column, discount)
        if not own.rows:
            continue
        advantages, targets = estimates().generalized_advantage_estimate(
            discount, trace_lambda, own.value, own.after, own.reward, own.done, own.terminated
        )
        check(found.targets, column, own, targets)
        check(found.advantages, column, own, advantages)


@given(seeds, st.lists(st.integers(1, 15), min_size=1, max_size=4), discounts, unit)
@settings(max_examples=40, deadline=None)
def test_team_td_lambda_targets_equal_torchrl(seed, steps, discount, trace_lambda):
    """VDN's targets R of whole episodes of unlike lengths: V of the row after, that of the last observation where the episode was truncated."""
    algorithm = make_algorithm(make_spec(), VDNConfig(discount=discount, trace_lambda=trace_lambda, network=AgentNetworkConfig(recurrent=False)), 0)
    generator = np.random.default_rng(seed)
    episodes = episodes_of(
        join([random_rollout(algorithm.spec, length, 1, generator, whole_episode=True) for length in steps]), algorithm.spec, agent_id=True
    )
    columns = algorithm._columns(episodes)
    future = torch.from_numpy(generator.standard_normal((max(steps) + 1, len(steps), 1)).astype(np.float32))
    found = algorithm._targets(columns, future)
    for slot, length in enumerate(steps):
        done = torch.zeros(length, 1, dtype=torch.bool)
        done[-1] = True
        reward, terminated = (torch.from_numpy(np.ascontiguousarray(array[:length, slot])) for array in (columns.reward, columns.terminated))
        wanted = estimates().td_lambda_return_estimate(discount, trace_lambda, future[1 : length + 1, slot], reward, done, terminated)
        np.testing.assert_allclose(found[:length, slot].numpy(), wanted.numpy(), **CLOSE)


@given(seeds, st.integers(2, 15), discounts, unit)
@settings(max_examples=40, deadline=None)
def test_td_lambda_targets_of_dying_agents_equal_torchrl(seed, steps, discount, trace_lambda):
    """IQL's targets of each agent: until its own end, which is a termination where it died in mid-episode."""
    algorithm = make_algorithm(make_spec(), IQLConfig(discount=discount, trace_lambda=trace_lambda, network=AgentNetworkConfig(recurrent=False)), 0)
    generator = np.random.default_rng(seed)
    rollout = random_rollout(algorithm.spec, steps, 2, generator, deaths=True, whole_episode=True)
    part = rollout.policies["agent"]
    future = generator.standard_normal((steps + 1, 2, 3)).astype(np.float32)
    columns = Columns(future[:-1], np.zeros((2, 3), np.float32), future[1:], part.reward, part.alive[:-1], part.terminated, part.truncated)
    found = algorithm._targets(columns, torch.from_numpy(future)).numpy()
    for slot in range(2):
        one = Columns(*(array[:, slot : slot + 1] if array.ndim == 3 else array[slot : slot + 1] for array in vars(columns).values()))
        for agent in range(3):
            own = sequence_of(one, agent, discount)
            if own.rows:
                wanted = estimates().td_lambda_return_estimate(discount, trace_lambda, own.after, own.reward, own.done, own.terminated)
                check(found[:, slot : slot + 1], agent, own, wanted)


def torchrls_mixer(ours: MonotonicMixer, state: int) -> nn.Module:
    """torchrl's mixer with our weights: its weight-making networks are single layers, so that ours, of two, take their place."""
    theirs = mixers().QMixer(state_shape=(state,), mixing_embed_dim=ours.width, n_agents=ours.agents, device="cpu")
    theirs.hyper_w_1, theirs.hyper_w_final = copied(ours.first), copied(ours.second)
    theirs.hyper_b_1, theirs.V = copied(ours.bias), copied(ours.value)
    return theirs


def copied(dense: nn.Module) -> nn.Sequential:
    """Plain torch layers, ReLU between them, with the same weights."""
    layers: list[nn.Module] = []
    for layer in dense.layers:
        twin = nn.Linear(layer.in_features, layer.out_features)
        twin.load_state_dict(layer.state_dict())
        layers += [twin, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(("agents", "state", "width", "hyper"), [(3, 7, 8, 12), (1, 4, 3, 5), (10, 60, 32, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_qmix_mixer_equals_torchrl(agents, state, width, hyper, seed):
    """Q_tot and its gradients by the utilities, the state and every weight."""
    generator = torch.Generator().manual_seed(seed)
    ours = MonotonicMixer(agents, state, width, hyper, generator)
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)  # biases, too
    theirs = torchrls_mixer(ours, state)
    utilities = torch.randn(4, 6, agents, generator=generator, requires_grad=True)
    states = torch.randn(4, 6, state, generator=generator, requires_grad=True)
    weight = torch.randn(4, 6, generator=generator)
    found, wanted = ours(utilities.unsqueeze(-2), states).squeeze(-1), theirs(utilities.unsqueeze(-1), states).squeeze(-1)
    torch.testing.assert_close(found, wanted, **CLOSE)
    own = [parameter for part in (ours.first, ours.second, ours.bias, ours.value) for parameter in part.parameters()]
    other = [parameter for part in (theirs.hyper_w_1, theirs.hyper_w_final, theirs.hyper_b_1, theirs.V) for parameter in part.parameters()]
    slopes = torch.autograd.grad((found * weight).sum(), [utilities, states, *own])
    assert len(own) == len(other) == 14
    for slope, twin in zip(slopes, torch.autograd.grad((wanted * weight).sum(), [utilities, states, *other]), strict=True):
        torch.testing.assert_close(slope, twin, **CLOSE)


def test_vdn_mixer_equals_torchrl():
    """The sum of the utilities."""
    utilities = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    theirs = mixers().VDNMixer(n_agents=4, device="cpu")
    torch.testing.assert_close(SumMixer()(utilities, None), theirs(utilities.unsqueeze(-1)).squeeze(-1), **CLOSE)
