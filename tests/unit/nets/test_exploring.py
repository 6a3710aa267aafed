"""Choosers of MADDPG and MASAC, and the codes and samples of actions in torch."""

import numpy as np
import pytest
import torch

from hpcmarl.nets.action_codes import ActionCode, squashed_sample
from hpcmarl.nets.choosers import CategoricalChooser, TanhGaussianChooser
from hpcmarl.nets.exploring_choosers import NoisyTanhChooser, RandomAtFirst
from hpcmarl.types import ActionSpace

BOX = ActionSpace("continuous", (2,), (-1.0, 0.0), (3.0, 0.5))
PAIR = ActionSpace("multi_discrete", (2, 3))
ROWS = 4000


def generator():
    return np.random.default_rng(0)


def test_noise_has_its_deviation_and_stays_in_bounds():
    chooser = NoisyTanhChooser(BOX, 0.1, lambda steps: 0.1 + steps)
    raw = np.tile(np.float32([[0.0, 0.3]]), (ROWS, 1))
    action, logp = chooser.choose(raw, None, chooser.draw(ROWS, generator()))
    scaled = (action - [1.0, 0.25]) / [2.0, 0.25]
    np.testing.assert_allclose(scaled.mean(0), np.tanh(raw[0]), atol=0.01)
    np.testing.assert_allclose(scaled.std(0), 0.1, rtol=0.05)
    assert not logp.any()
    np.testing.assert_allclose(chooser.choose(raw[:1], None, None)[0], [[1.0, 0.25 + 0.25 * np.tanh(0.3)]])
    chooser.on_progress(2)
    wild, _ = chooser.choose(raw, None, chooser.draw(ROWS, generator()))
    assert BOX.holds(wild)
    assert ((wild == np.float32([-1.0, 0.0])) | (wild == np.float32([3.0, 0.5]))).mean() > 0.5


def test_actions_are_uniform_until_the_steps_are_made():
    inner = NoisyTanhChooser(BOX, 0.0)
    chooser = RandomAtFirst(inner, BOX, 100)
    raw = np.zeros((ROWS, 2), np.float32)
    chooser.on_progress(99)
    action, logp = chooser.choose(raw, None, chooser.draw(ROWS, generator()))
    assert BOX.holds(action)
    np.testing.assert_allclose(action.mean(0), [1.0, 0.25], atol=0.05)
    np.testing.assert_allclose(action.var(0), np.square([4.0, 0.5]) / 12, rtol=0.05)
    np.testing.assert_allclose(logp, -np.log(4.0 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(chooser.choose(raw, None, None)[0], inner.choose(raw, None, None)[0])
    chooser.on_progress(100)
    np.testing.assert_allclose(
        chooser.choose(raw, None, chooser.draw(ROWS, generator()))[0], [[1.0, 0.25]] * ROWS
    )


def test_random_discrete_actions_respect_the_mask():
    chooser = RandomAtFirst(CategoricalChooser(PAIR), PAIR, 10)
    chooser.on_progress(0)
    raw = np.tile(np.float32([[9.0, 0.0, 9.0, 0.0, 0.0]]), (ROWS, 1))
    mask = np.tile([[True, True, True, False, True]], (ROWS, 1))
    action, logp = chooser.choose(raw, mask, chooser.draw(ROWS, generator()))
    np.testing.assert_allclose(np.bincount(action[:, 0]) / ROWS, [0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(np.bincount(action[:, 1]) / ROWS, [0.5, 0.0, 0.5], atol=0.03)
    np.testing.assert_allclose(logp, -np.log(4.0), rtol=1e-5)
    chooser.on_progress(10)
    assert (chooser.choose(raw, mask, chooser.draw(ROWS, generator()))[0] == 0).mean() > 0.99


def test_squashed_samples_equal_those_of_the_actors():
    """Actors and learners compute the same action and density from the same noise."""
    chooser, code = TanhGaussianChooser(BOX), ActionCode(BOX)
    raw = generator().standard_normal((50, 4)).astype(np.float32)
    noise = generator().standard_normal((50, 2)).astype(np.float32)
    action, logp = chooser.choose(raw, None, (noise,))
    sampled, density = squashed_sample(torch.from_numpy(raw), torch.from_numpy(noise))
    np.testing.assert_allclose(sampled, code.encode(torch.from_numpy(action)), atol=1e-5)
    np.testing.assert_allclose(density, logp + chooser.log_scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", [ActionSpace("discrete", (3,)), PAIR])
def test_gumbel_samples_are_one_hot_with_softmax_probabilities(space):
    code, size = ActionCode(space), sum(space.sizes)
    logits = torch.linspace(-0.5, 0.5, size).repeat(ROWS, 1).requires_grad_()
    mask = torch.ones(ROWS, size, dtype=torch.bool)
    mask[:, -1] = False
    noise = torch.from_numpy(-np.log(generator().standard_exponential((ROWS, size), dtype=np.float32)))
    sampled = code.gumbel(logits, mask, noise)
    assert set(sampled.detach().unique().round(decimals=5).tolist()) == {0.0, 1.0}
    allowed = logits[0].detach().masked_fill(~mask[0], -torch.inf)
    ends = np.cumsum(space.sizes).tolist()
    expected = torch.cat(
        [torch.softmax(allowed[end - n : end], 0) for end, n in zip(ends, space.sizes, strict=True)]
    )
    np.testing.assert_allclose(sampled.detach().mean(0), expected, atol=0.03)
    sampled[:, 0].sum().backward()
    assert logits.grad[:, 0].min() > 0
    assert not logits.grad[:, -1].any()
