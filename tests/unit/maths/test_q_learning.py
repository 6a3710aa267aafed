"""Operators, joint actions and weights of value-based learning, against simple twins."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import RESConfig
from hpcmarl.maths.qlearning import (
    central_weights,
    greedy_actions,
    near_greedy,
    optimistic_weights,
    soft_mellowmax,
    softmax_value,
    taken,
)

SEEDS = st.integers(0, 2**32 - 1)


def some(seed, *shape):
    generator = np.random.default_rng(seed)
    values = torch.tensor(generator.standard_normal(shape) * 3)
    mask = torch.tensor(generator.random(shape) < 0.6)
    mask[..., generator.integers(shape[-1])] = True
    return values, mask


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.5, 5.0, 10.0]), st.sampled_from([0.0, 1.0, 3.0]))
def test_soft_mellowmax_is_its_formula_over_the_allowed_actions(seed, omega, alpha):
    values, mask = some(seed, 4, 6)
    found = soft_mellowmax(values, mask, omega, alpha)
    for row in range(4):
        q = [float(value) for value, allowed in zip(values[row], mask[row], strict=True) if allowed]
        weight = [math.exp(alpha * x) / sum(math.exp(alpha * y) for y in q) for x in q]
        assert float(found[row]) == pytest.approx(
            math.log(sum(w * math.exp(omega * x) for w, x in zip(weight, q, strict=True))) / omega
        )
        assert sum(w * x for w, x in zip(weight, q, strict=True)) - 1e-9 <= float(found[row]) <= max(q) + 1e-9


def test_soft_mellowmax_is_finite_and_tends_to_the_maximum():
    values = torch.tensor([[1e4, 2e4, -3e4]])
    assert float(soft_mellowmax(values, None, 10.0, 1.0)) == pytest.approx(2e4)
    values, mask = some(0, 50, 4)
    best = taken(values, greedy_actions(values, mask))
    assert float((best - soft_mellowmax(values, mask, 1e4, 1.0)).abs().max()) < 1e-2
    nothing_allowed = soft_mellowmax(values.float(), torch.zeros_like(mask), 5.0, 1.0)
    assert torch.isfinite(nothing_allowed).all()


def test_greedy_actions_are_allowed_and_first_among_ties():
    values = torch.tensor([[1.0, 3.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [False, False, True, True]])
    assert greedy_actions(values, mask).tolist() == [1, 2]
    assert greedy_actions(values, None).tolist() == [3, 0]
    assert taken(values, torch.tensor([1, 0])).tolist() == [3.0, 0.0]


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_near_greedy_lists_single_agent_deviations_once(seed):
    generator = np.random.default_rng(seed)
    (first, mask), (second, _) = some(seed, 3, 2, 4), some(seed + 1, 3, 1, 3)
    active = [torch.tensor(generator.random((3, 2)) < 0.8), torch.tensor(generator.random((3, 1)) < 0.8)]
    greedy = [greedy_actions(first, mask), greedy_actions(second, None)]
    utilities, exists = near_greedy([first, second], [mask, None], active, greedy)
    assert utilities.shape == (3, 1 + 2 * 4 + 3, 3)
    for row in range(3):
        agents = [
            (first[row, 0], mask[row, 0], active[0][row, 0]),
            (first[row, 1], mask[row, 1], active[0][row, 1]),
        ]
        agents.append((second[row, 0], torch.ones(3, dtype=torch.bool), active[1][row, 0]))
        best = [int(action) for action in (*greedy[0][row], greedy[1][row, 0])]
        wanted = set()
        for joint in itertools.product(range(4), range(4), range(3)):
            changed = [k for k in range(3) if joint[k] != best[k]]
            if len(changed) <= 1 and all(agents[k][2] and agents[k][1][joint[k]] for k in changed):
                wanted.add(
                    tuple(
                        float(values[a]) if alive else 0.0
                        for (values, _, alive), a in zip(agents, joint, strict=True)
                    )
                )
        found = [tuple(each) for each in utilities[row][exists[row]].tolist()]
        assert len(found) == len(set(found))
        assert {tuple(round(x, 9) for x in each) for each in found} == {
            tuple(round(x, 9) for x in each) for each in wanted
        }


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.3, 20.0]))
def test_softmax_value_equals_its_weighted_mean(seed, beta):
    (scores, exists), (values, _) = some(seed, 3, 7), some(seed + 1, 3, 7)
    for row, found in enumerate(softmax_value(scores, values, exists, beta).tolist()):
        there = [joint for joint in range(7) if exists[row, joint]]
        weight = [
            math.exp(beta * (float(scores[row, joint]) - max(float(scores[row, other]) for other in there)))
            for joint in there
        ]
        assert found == pytest.approx(
            sum(w * float(values[row, joint]) for w, joint in zip(weight, there, strict=True)) / sum(weight)
        )


def test_softmax_value_ignores_joint_actions_that_do_not_exist():
    scores, values = torch.tensor([[0.0, 99.0, 0.0]]), torch.tensor([[1.0, torch.inf, 3.0]])
    assert softmax_value(scores, values, torch.tensor([[True, False, True]]), 5.0).tolist() == [2.0]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("beta", [RESConfig().softmax_beta, 5.0])
def test_softmax_value_overestimates_less_than_double_q(beta, correlation):
    """Every joint action is worth 0, and both networks see noise.

    The noise has deviation 1 per agent and action. The target's noise is partly the same.
    """
    rows, agents, actions = 20_000, 3, 5
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, rows, agents, actions), generator=generator, dtype=torch.float64)
    online, target = noise[0], correlation * noise[0] + math.sqrt(1 - correlation**2) * noise[1]
    active, greedy = torch.ones(rows, agents, dtype=torch.bool), greedy_actions(online, None)
    double_q = taken(target, greedy).sum(-1).mean()
    (scores, exists), (values, _) = (
        near_greedy([each], [None], [active], [greedy]) for each in (online, target)
    )
    scores, values = scores.sum(-1), values.sum(-1)
    tempered, single = (softmax_value(weighing, values, exists, beta).mean() for weighing in (scores, values))
    # The standard error of their difference is below 0.005.
    assert tempered < double_q + 0.01
    # Values that weigh themselves favour their own noise.
    assert tempered < single - 0.005
    if beta == 5.0:
        assert single > double_q + 0.2
        assert tempered < double_q - 0.02 or correlation == 0.0


def test_overestimated_values_get_the_lower_weight():
    total, targets = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0])
    assert optimistic_weights(total, targets, 0.25).tolist() == [1.0, 0.25, 0.25]
    best, greedy = torch.tensor([1.0, 3.0, 3.0]), torch.tensor([False, False, True])
    assert central_weights(targets, best, greedy, 0.25).tolist() == [1.0, 0.25, 1.0]
