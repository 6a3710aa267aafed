"""Optimizers against slow twins, and the invariants of the papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import AdamConfig, NigtConfig, RmspropConfig, SgdConfig
from hpcmarl.optim import OPTIMIZERS, make_optimizer
from hpcmarl.types import Part
from tests.reference.nigt import course as course_of_the_paper

SEEDS = st.integers(0, 2**32 - 1)


def directions(seed: int, count: int, size: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.001, 0.1, 0.5, 1.0]), st.floats(1e-3, 0.5))
def test_nigt_equals_the_published_loop(seed, eta, alpha):
    gradients = directions(seed, 6)
    optimizer = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), np.zeros(7))
    points, theta = course_of_the_paper(gradients, np.zeros(7), alpha, eta)
    for t, gradient in enumerate(gradients):
        np.testing.assert_allclose(optimizer.query_point(), points[t], rtol=1e-9, atol=1e-9 / eta)
        apart = alpha * (1 - eta) / eta if t else 0.0
        assert np.linalg.norm(optimizer.query_point() - optimizer.parameters) == pytest.approx(
            apart, rel=1e-6, abs=1e-12
        )
        optimizer.step(gradient)
    np.testing.assert_allclose(optimizer.parameters, theta[6], rtol=1e-9, atol=1e-12)


def actors(*sizes):
    """Return actors with the given numbers of parameters, one after the other."""
    ends = np.cumsum(sizes).tolist()
    return [
        Part(f"policy_{number}", "actor", slice(end - size, end))
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def test_nigt_steps_along_the_direction_of_all_policies():
    optimizer = make_optimizer(NigtConfig(step_size=0.5), np.zeros(5), actors(2, 3))
    optimizer.step(np.array([3.0, 4.0, 12.0, 0.0, 0.0]))
    np.testing.assert_allclose(optimizer.parameters, [1.5 / 13, 2 / 13, 6 / 13, 0, 0])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 7), st.sampled_from([0.01, 0.1, 1.0]))
def test_nigt_step_length_does_not_depend_on_policies(seed, policies, eta):
    gradients, alpha = directions(seed, 5), 0.25
    sizes = [1] * (policies - 1) + [8 - policies]
    optimizer = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), np.zeros(7), actors(*sizes))
    whole = make_optimizer(NigtConfig(step_size=alpha, momentum=eta), np.zeros(7))
    for gradient in gradients:
        before = optimizer.parameters
        optimizer.step(gradient)
        whole.step(gradient)
        assert np.linalg.norm(optimizer.parameters - before) == pytest.approx(alpha, rel=1e-12)
        assert np.linalg.norm(optimizer.query_point() - optimizer.parameters) == pytest.approx(
            alpha * (1 - eta) / eta, rel=1e-9, abs=1e-12
        )
    np.testing.assert_allclose(optimizer.parameters, whole.parameters, rtol=1e-12, atol=1e-14)


def test_nigt_can_normalise_each_policy_by_itself():
    optimizer = make_optimizer(NigtConfig(step_size=0.5, normalise="policy"), np.zeros(7), actors(2, 3, 2))
    optimizer.step(np.array([3.0, 4.0, 12.0, 0.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(optimizer.parameters, [0.3, 0.4, 0.5, 0, 0, 0, 0])


@pytest.mark.parametrize(
    "change", [{"extrapolate": False}, {"normalise": "none"}], ids=["extrapolate", "normalise"]
)
def test_nigt_ablations_change_only_their_own_part(change):
    gradients = directions(3, 3)
    plain = make_optimizer(NigtConfig(), np.zeros(7))
    ablated = make_optimizer(NigtConfig(**change), np.zeros(7))
    for gradient in gradients:
        plain.step(gradient)
        ablated.step(gradient)
    assert np.array_equal(plain.parameters, ablated.parameters) == ("extrapolate" in change)
    assert np.array_equal(ablated.query_point(), ablated.parameters) == ("extrapolate" in change)


def test_unnormalised_nigt_steps_by_its_momentum():
    config = NigtConfig(step_size=0.5, momentum=0.25, normalise="none", critic_step_size=2.0)
    optimizer = make_optimizer(config, np.zeros(8), PARTS)
    first, second = directions(1, 2, 8)
    optimizer.step(first)
    optimizer.step(second)
    size = np.where(CRITIC, 2.0, 0.5)
    np.testing.assert_allclose(optimizer.parameters, size * (first + 0.75 * first + 0.25 * second))


# ---- actors, critics and learned costs

PARTS = [
    Part("team", "actor", slice(0, 2)),
    Part("team", "critic", slice(2, 4)),
    Part("team", "cost", slice(4, 5)),
    Part("prey", "actor", slice(5, 6)),
    Part("prey", "critic", slice(6, 8)),
]
CRITIC = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
COST = np.array([0, 0, 0, 0, 1, 0, 0, 0], bool)
EVERY = [
    NigtConfig(),
    NigtConfig(normalise="policy"),
    AdamConfig(max_gradient_norm=0.5),
    SgdConfig(momentum=0.9, max_gradient_norm=0.5),
    RmspropConfig(max_gradient_norm=0.5),
]
NAMES = ["nigt", "nigt-policy", "adam", "sgd", "rmsprop"]


def course(config, gradients, start=0.0):
    """Return the parameters after each step."""
    optimizer = make_optimizer(config, np.full(8, start), PARTS)
    found = []
    for gradient in gradients:
        optimizer.step(gradient)
        found.append(optimizer.parameters.copy())
    return np.array(found)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
@pytest.mark.parametrize("others", [CRITIC, COST], ids=["critic", "cost"])
def test_actor_steps_ignore_the_scale_of_other_parts(config, others):
    gradients = directions(7, 6, 8)
    plain, scaled = course(config, gradients), course(config, gradients * np.where(others, 100.0, 1.0))
    np.testing.assert_array_equal(scaled[:, ~others], plain[:, ~others])
    assert np.abs(plain[:, ~others]).min() > 0


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
def test_critic_step_size_scales_critics_alone(config):
    gradients = directions(5, 6, 8)
    plain = course(config, gradients)
    changed = course(config.model_copy(update={"critic_step_size": 3 * config.step_size}), gradients)
    np.testing.assert_array_equal(changed[:, ~CRITIC], plain[:, ~CRITIC])
    np.testing.assert_allclose(changed[:, CRITIC], 3 * plain[:, CRITIC], rtol=1e-12)


def test_nigt_gives_each_critic_a_step_of_its_own():
    optimizer = make_optimizer(NigtConfig(step_size=0.5, critic_step_size=2.0), np.zeros(8), PARTS)
    optimizer.step(np.array([3.0, 0.0, 30.0, 40.0, -7.0, 4.0, 0.3, 0.4]))
    np.testing.assert_allclose(optimizer.parameters, [0.3, 0, 1.2, 1.6, -0.5, 0.4, 1.2, 1.6])


@pytest.mark.parametrize("config", [AdamConfig, SgdConfig, RmspropConfig])
def test_critics_have_a_clip_of_their_own(config):
    gradient = np.array([30.0, 40.0, 30.0, 40.0, 70.0, 50.0, 0.03, 0.04])
    clipped = np.array([0.6, 0.8, 3.0, 4.0, 1.0, 1.0, 0.03, 0.04])
    found = course(config(max_gradient_norm=1.0, critic_max_gradient_norm=5.0, step_size=0.1), [gradient])
    np.testing.assert_allclose(
        found, course(config(max_gradient_norm=None, step_size=0.1), [clipped]), rtol=1e-12
    )
    same = course(config(max_gradient_norm=1.0, step_size=0.1), [gradient])
    clipped[CRITIC] = [0.6, 0.8, 0.03, 0.04]
    np.testing.assert_allclose(
        same, course(config(max_gradient_norm=None, step_size=0.1), [clipped]), rtol=1e-12
    )


def test_a_critic_clip_alone_leaves_actors_unclipped():
    found = course(
        SgdConfig(step_size=1.0, critic_max_gradient_norm=1.0),
        [np.array([30.0, 40.0, 30.0, 40.0, 70.0, 50.0, 0.0, 0.0])],
    )
    np.testing.assert_allclose(found[0], [30, 40, 0.6, 0.8, 70, 50, 0, 0])


def test_adam_warms_critics_up_too():
    config = AdamConfig(step_size=1.0, critic_step_size=4.0, warmup_updates=3, epsilon=1e-12)
    found = course(config, np.ones((4, 8)))
    moved = np.diff(found, axis=0, prepend=0.0)
    np.testing.assert_allclose(moved[:, 0], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(moved[:, 2], [1, 2, 3, 4])


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
    optimizer = make_optimizer(
        RmspropConfig(step_size=0.02, decay=0.9, epsilon=1e-4, max_gradient_norm=2.0), start
    )
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient * min(1.0, 2.0 / np.linalg.norm(gradient)))
        twin.step()
        optimizer.step(gradient)
    np.testing.assert_allclose(optimizer.parameters, parameter.detach().numpy(), rtol=1e-9)


def test_adam_warms_up_and_decays():
    optimizer = make_optimizer(
        AdamConfig(step_size=1.0, warmup_updates=4, decay_updates=10, final_fraction=0.2), np.zeros(1)
    )
    sizes = []
    for _ in range(20):
        sizes.append(optimizer.step_size())
        optimizer.step(np.ones(1))
    assert sizes[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert sizes[4] == pytest.approx(1.0)
    assert sizes[14:] == pytest.approx([0.2] * 6)


def test_clipping_limits_each_policy_and_keeps_its_direction():
    optimizer = make_optimizer(SgdConfig(step_size=1.0, max_gradient_norm=1.0), np.zeros(4), actors(2, 2))
    optimizer.step(np.array([30.0, 40.0, 0.3, 0.4]))
    np.testing.assert_allclose(optimizer.parameters, [0.6, 0.8, 0.3, 0.4])


def test_sgd_momentum_accumulates_steps():
    optimizer = make_optimizer(SgdConfig(step_size=0.1, momentum=0.5), np.zeros(1))
    for _ in range(3):
        optimizer.step(np.ones(1))
    assert optimizer.parameters[0] == pytest.approx(0.1 * (1 + 1.5 + 1.75))


@pytest.mark.parametrize("config", [*EVERY, NigtConfig(normalise="none")], ids=[*NAMES, "nigt-none"])
@pytest.mark.parametrize("critic_step_size", [None, 0.4])
def test_restored_optimizer_continues_bit_for_bit(config, critic_step_size):
    config = config.model_copy(update={"critic_step_size": critic_step_size})
    gradients = directions(11, 10, 8).astype(np.float32)
    whole = make_optimizer(config, np.zeros(8, np.float32), PARTS)
    for gradient in gradients:
        whole.step(gradient)
    first = make_optimizer(config, np.zeros(8, np.float32), PARTS)
    for gradient in gradients[:4]:
        first.step(gradient)
    second = make_optimizer(config, np.ones(8, np.float32), PARTS)
    second.load_state_dict(first.state_dict())
    for gradient in gradients[4:]:
        second.step(gradient)
    assert second.parameters.dtype == np.float32
    assert np.array_equal(second.parameters, whole.parameters)
    assert np.array_equal(second.query_point(), whole.query_point())


@pytest.mark.parametrize(
    "config",
    [AdamConfig(max_gradient_norm=0.5), RmspropConfig(max_gradient_norm=0.5), SgdConfig(momentum=0.5)],
)
def test_steps_change_neither_direction_nor_former_point(config):
    optimizer, (first, second) = make_optimizer(config, np.ones(7)), directions(3, 2)
    optimizer.step(first)
    point, direction = optimizer.query_point(), second.copy()
    before = point.copy()
    optimizer.step(second)
    np.testing.assert_array_equal(point, before)
    np.testing.assert_array_equal(second, direction)
    assert (optimizer.query_point() != before).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_reject_wrong_sizes(name):
    configs = {"nigt": NigtConfig(), "adam": AdamConfig(), "sgd": SgdConfig(), "rmsprop": RmspropConfig()}
    optimizer = OPTIMIZERS[name](configs[name], np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(np.zeros(4))
    with pytest.raises(ValueError, match="parameters"):
        optimizer.load_state_dict({**optimizer.state_dict(), "parameters": np.zeros(5)})
