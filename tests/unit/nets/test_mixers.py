"""Mixers against the equations, written with loops.

No agent's utility can lower the value of a monotonic mixer.
"""

import numpy as np
import torch

from hpcmarl.nets.mixers import SumMixer
from hpcmarl.nets.shapes import MonotonicMixerShape, UnrestrictedMixerShape
from tests.support.algorithms import make


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(dense, index, x):
    layer = dense.layers[index]
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]


def two_layers(dense, x):
    return linear(dense, 1, [max(0.0, value) for value in linear(dense, 0, x)])


def test_monotonic_mixer_equals_the_qmix_equation():
    mixer, agents, width = make(MonotonicMixerShape(3, 5, 4, 6)), 3, 4
    state, utilities = torch.randn(2, 5, generator=generator(1)), torch.randn(2, 7, 3, generator=generator(2))
    found = mixer(utilities, state)
    assert found.shape == (2, 7)
    for row in range(2):
        s = state[row].tolist()
        first = np.abs(np.reshape(two_layers(mixer.first, s), (agents, width)))
        second, bias, value = (
            np.abs(two_layers(mixer.second, s)),
            linear(mixer.bias, 0, s),
            two_layers(mixer.value, s)[0],
        )
        for joint in range(7):
            hidden = np.array(utilities[row, joint].tolist()) @ first + bias
            hidden = np.where(hidden > 0, hidden, np.exp(hidden) - 1)
            np.testing.assert_allclose(
                found[row, joint].item(), hidden @ second + value, rtol=1e-4, atol=1e-5
            )


def test_tanh_mixer_weights_are_bounded_in_the_state():
    near = torch.randn(6, 5, generator=generator(1))
    for activation, bounded in (("relu", False), ("tanh", True)):
        mixer = make(MonotonicMixerShape(3, 5, 4, 6, activation))
        sizes = [float(mixer.first(near * far).detach().abs().max()) for far in (10.0, 1e6)]
        assert (sizes[1] < 2 * sizes[0]) == bounded


def test_monotonic_mixer_gradients_are_non_negative():
    mixer = make(MonotonicMixerShape(4, 6, 8, 8), 3)
    state = torch.randn(50, 6, generator=generator(4))
    utilities = torch.randn(50, 1, 4, generator=generator(5), requires_grad=True)
    mixer(utilities, state).sum().backward()
    assert (utilities.grad >= 0).all()
    assert (utilities.grad > 0).any()


def test_unrestricted_mixer_may_have_negative_gradients():
    mixer = make(UnrestrictedMixerShape(4, 6, 8), 3)
    state, utilities = (
        torch.randn(9, 6, generator=generator(4)),
        torch.randn(9, 3, 4, generator=generator(5), requires_grad=True),
    )
    values = mixer(utilities, state)
    for row, joint in ((0, 0), (8, 2)):
        np.testing.assert_allclose(
            values[row, joint].item(),
            mixer(utilities[row : row + 1, joint : joint + 1], state[row : row + 1]).item(),
            rtol=1e-5,
        )
    values.sum().backward()
    assert (utilities.grad < 0).any()


def test_vdn_mixer_sums_utilities():
    assert SumMixer()(torch.tensor([[1.0, 2.0, 4.0]]), None).tolist() == [7.0]
