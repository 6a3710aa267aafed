"""Optimizers against slow twins, and the invariants of the papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import AdamConfig, NigtConfig, RmspropConfig, SgdConfig
from hpcmarl.optim import OPTIMIZERS, make_optimizer

SEEDS = st.integers(0, 2**32 - 1)


def directions(seed: int, count: int, size: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.001, 0.1, 0.5, 1.0]), st.floats(1e-3, 0.5))
def test_nigt_equals_the_published_loop(seed, eta, alpha):
    gradients = directions(seed, 6)
    optimizer = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), np.zeros(7))
    theta = [np.zeros(7)]
    d = gradients[0]
    theta.append(theta[0] + alpha * d / np.linalg.norm(d))
    assert np.array_equal(optimizer.point(), theta[0])
    optimizer.step(gradients[0])
    for t in range(1, 6):
        ahead = theta[t] + (1 - eta) / eta * (theta[t] - theta[t - 1])
        np.testing.assert_allclose(optimizer.point(), ahead, rtol=1e-9, atol=1e-9 / eta)
        assert np.linalg.norm(optimizer.point() - optimizer.parameters) == pytest.approx(alpha * (1 - eta) / eta, rel=1e-6, abs=1e-12)
        d = (1 - eta) * d + eta * gradients[t]
        theta.append(theta[t] + alpha * d / np.linalg.norm(d))
        optimizer.step(gradients[t])
    np.testing.assert_allclose(optimizer.parameters, theta[6], rtol=1e-9, atol=1e-12)


def test_nigt_normalises_each_policy_separately():
    optimizer = make_optimizer(NigtConfig(step_size=0.5), np.zeros(5), [slice(0, 2), slice(2, 5)])
    optimizer.step(np.array([3.0, 4.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(optimizer.parameters, [0.3, 0.4, 0, 0, 0])


@pytest.mark.parametrize("flag", ["extrapolate", "normalise"])
def test_nigt_ablations_change_only_their_own_part(flag):
    gradients = directions(3, 3)
    plain = make_optimizer(NigtConfig(), np.zeros(7))
    ablated = make_optimizer(NigtConfig(**{flag: False}), np.zeros(7))
    for gradient in gradients:
        plain.step(gradient)
        ablated.step(gradient)
    assert np.array_equal(plain.parameters, ablated.parameters) == (flag == "extrapolate")
    assert np.array_equal(ablated.point(), ablated.parameters) == (flag == "extrapolate")


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_adam_equals_torch_adam_maximising(seed):
    torch = pytest.importorskip("torch")
    gradients = directions(seed, 8)
    start = directions(seed + 1, 1)[0]
    parameter = torch.nn.Parameter(torch.tensor(start))
    twin = torch.optim.Adam([parameter], lr=0.02, betas=(0.8, 0.95), eps=1e-6, maximize=True)
    optimizer = make_optimizer(AdamConfig(step_size=0.02, beta1=0.8, beta2=0.95, epsilon=1e-6), start)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        twin.step()
        optimizer.step(gradient)
    np.testing.assert_allclose(optimizer.parameters, parameter.detach().numpy(), rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_rmsprop_equals_torch_rmsprop_maximising(seed):
    torch = pytest.importorskip("torch")
    gradients = directions(seed, 8)
    start = directions(seed + 1, 1)[0]
    parameter = torch.nn.Parameter(torch.tensor(start))
    twin = torch.optim.RMSprop([parameter], lr=0.02, alpha=0.9, eps=1e-4, maximize=True)
    optimizer = make_optimizer(RmspropConfig(step_size=0.02, decay=0.9, epsilon=1e-4, max_gradient_norm=2.0), start)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient * min(1.0, 2.0 / np.linalg.norm(gradient)))
        twin.step()
        optimizer.step(gradient)
    np.testing.assert_allclose(optimizer.parameters, parameter.detach().numpy(), rtol=1e-9)


def test_adam_warms_up_and_decays():
    optimizer = make_optimizer(AdamConfig(step_size=1.0, warmup_updates=4, decay_updates=10, final_fraction=0.2), np.zeros(1))
    sizes = []
    for _ in range(20):
        sizes.append(optimizer.step_size())
        optimizer.step(np.ones(1))
    assert sizes[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert sizes[4] == pytest.approx(1.0)
    assert sizes[14:] == pytest.approx([0.2] * 6)


def test_clipping_limits_each_segment_and_keeps_its_direction():
    optimizer = make_optimizer(SgdConfig(step_size=1.0, max_gradient_norm=1.0), np.zeros(4), [slice(0, 2), slice(2, 4)])
    optimizer.step(np.array([30.0, 40.0, 0.3, 0.4]))
    np.testing.assert_allclose(optimizer.parameters, [0.6, 0.8, 0.3, 0.4])


def test_sgd_momentum_accumulates_steps():
    optimizer = make_optimizer(SgdConfig(step_size=0.1, momentum=0.5), np.zeros(1))
    for _ in range(3):
        optimizer.step(np.ones(1))
    assert optimizer.parameters[0] == pytest.approx(0.1 * (1 + 1.5 + 1.75))


@pytest.mark.parametrize("config", [NigtConfig(), AdamConfig(), SgdConfig(momentum=0.9), RmspropConfig()])
def test_restored_optimizer_continues_bit_for_bit(config):
    gradients = directions(11, 10).astype(np.float32)
    whole = make_optimizer(config, np.zeros(7, np.float32))
    for gradient in gradients:
        whole.step(gradient)
    first = make_optimizer(config, np.zeros(7, np.float32))
    for gradient in gradients[:4]:
        first.step(gradient)
    second = make_optimizer(config, np.ones(7, np.float32))
    second.load_state_dict(first.state_dict())
    for gradient in gradients[4:]:
        second.step(gradient)
    assert second.parameters.dtype == np.float32
    assert np.array_equal(second.parameters, whole.parameters)
    assert np.array_equal(second.point(), whole.point())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_reject_wrong_sizes(name):
    configs = {"nigt": NigtConfig(), "adam": AdamConfig(), "sgd": SgdConfig(), "rmsprop": RmspropConfig()}
    optimizer = OPTIMIZERS[name](configs[name], np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(np.zeros(4))
    with pytest.raises(ValueError, match="parameters"):
        optimizer.load_state_dict({**optimizer.state_dict(), "parameters": np.zeros(5)})
