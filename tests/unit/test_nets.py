"""The flat vector, the dense layers and the distributions: torch, numpy and the theory agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.errors import UsageError
from hpcmarl.nets.critic import Critic
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.heads import make_head
from hpcmarl.nets.layers import Dense, NumpyDense, NumpyRecurrence
from hpcmarl.nets.policy import Actor, Policy
from hpcmarl.types import ActionSpace, PolicyFrame, PolicySpec
from tests.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, random_action, random_mask

SPACES = [DISCRETE, MULTI_DISCRETE, CONTINUOUS]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_modules() -> dict[str, nn.Module]:
    return {"left": Dense((3, 4, 2), "tanh", seeded(1)), "right": Critic(5, NetworkConfig(hidden=(6,)), seeded(2))}


# --- the flat vector


def test_flat_vector_holds_all_parameters_in_order() -> None:
    modules = two_modules()
    before = torch.cat([parameter.detach().reshape(-1).clone() for module in modules.values() for parameter in module.parameters()]).numpy()
    flat = FlatParameters(modules)
    assert flat.size == 16 + 10 + 36 + 7
    assert flat.segments == {"left": slice(0, 26), "right": slice(26, 69)}
    np.testing.assert_array_equal(flat.vector, before)


def test_loading_changes_the_modules_and_they_stay_views() -> None:
    modules = two_modules()
    flat = FlatParameters(modules)
    flat.load(np.arange(flat.size, dtype=np.float32))
    assert modules["left"].layers[0].weight[0].tolist() == [0.0, 1.0, 2.0]
    modules["left"].load_state_dict({key: torch.full_like(value, 7.0) for key, value in modules["left"].state_dict().items()})
    assert (flat.vector[flat.segments["left"]] == 7.0).all()
    assert (flat.vector[flat.segments["right"]] != 7.0).all()
    with pytest.raises(ValueError, match="69"):
        flat.load(np.zeros(3, np.float32))


def test_gradients_gather_in_the_flat_gradient_even_after_being_unbound() -> None:
    modules = two_modules()
    flat = FlatParameters(modules)
    for _ in range(2):
        modules["left"](torch.ones(5, 3)).sum().backward()
    twice = flat.gradient.copy()
    modules["left"].zero_grad(set_to_none=True)
    flat.zero_gradient()
    assert not flat.gradient.any()
    modules["left"](torch.ones(5, 3)).sum().backward()
    np.testing.assert_allclose(2 * flat.gradient, twice, rtol=1e-5)
    assert not flat.gradient[flat.segments["right"]].any()
    assert flat.gradient[flat.segments["left"]].any()


# --- dense layers


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("activate_last", [False, True])
def test_dense_equals_torch_and_numpy(activation: str, activate_last: bool) -> None:
    dense = Dense((6, 9, 7, 4), activation, seeded(), activate_last=activate_last)
    for layer in dense.layers:
        nn.init.normal_(layer.bias, generator=seeded(3))
    stages: list[nn.Module] = []
    for layer in dense.layers:
        stages += [layer, nn.Tanh() if activation == "tanh" else nn.ReLU()]
    twin = nn.Sequential(*(stages if activate_last else stages[:-1]))
    inputs = torch.randn(2, 11, 6, generator=seeded(4), requires_grad=True)
    slope = torch.randn(2, 11, 4, generator=seeded(5))
    wanted = torch.autograd.grad(twin(inputs), [inputs, *twin.parameters()], slope)
    found = torch.autograd.grad(dense(inputs), [inputs, *dense.parameters()], slope)
    assert torch.allclose(dense(inputs), twin(inputs), atol=1e-6)
    for left, right in zip(found, wanted, strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    numpy_outputs = NumpyDense(dense)(inputs.detach().numpy().reshape(-1, 6))
    np.testing.assert_allclose(numpy_outputs, dense(inputs).detach().numpy().reshape(-1, 4), atol=1e-5)


def test_dense_without_layers_is_the_identity() -> None:
    inputs = torch.ones(2, 3)
    assert Dense((3,), "tanh", seeded(), activate_last=True)(inputs) is inputs


def test_numpy_recurrence_equals_torch() -> None:
    cell = nn.GRUCell(5, 4)
    inputs, memory = torch.randn(7, 5, generator=seeded(1)) * 3, torch.randn(7, 4, generator=seeded(2))
    found = NumpyRecurrence(cell)(inputs.numpy(), memory.numpy())
    np.testing.assert_allclose(found, cell(inputs, memory).detach().numpy(), atol=1e-5)


# --- distributions


def random_rows(space: ActionSpace, seed: int, rows: int, masked: bool) -> tuple[np.ndarray, np.ndarray | None]:
    generator = np.random.default_rng(seed)
    raw = (2 * generator.standard_normal((rows, make_head(space).raw_size))).astype(np.float32)
    return raw, random_mask(space, (rows,), generator) if masked and space.mask_size else None


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SPACES), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_acting_and_learning_agree(space: ActionSpace, seed: int, masked: bool, greedy: bool) -> None:
    head = make_head(space)
    raw, mask = random_rows(space, seed, 40, masked)
    action, logp = head.mode(raw, mask) if greedy else head.sample(raw, mask, np.random.default_rng(seed))
    again, entropy = head.evaluate(torch.from_numpy(raw), torch.from_numpy(action), None if mask is None else torch.from_numpy(mask))
    assert action.shape == (40, *space.shape)
    assert action.dtype == space.dtype
    assert logp.dtype == np.float32
    np.testing.assert_allclose(logp, again.numpy(), atol=1e-4, rtol=1e-5)
    assert torch.isfinite(entropy).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([DISCRETE, MULTI_DISCRETE]), st.integers(0, 2**31), st.booleans())
def test_unavailable_actions_are_never_taken(space: ActionSpace, seed: int, greedy: bool) -> None:
    """Even where the logits of the available ones are far below all others."""
    head = make_head(space)
    raw, mask = random_rows(space, seed, 60, True)
    assert mask is not None
    raw = np.where(mask, raw - 300.0, raw + 300.0).astype(np.float32)
    action, logp = head.mode(raw, mask) if greedy else head.sample(raw, mask, np.random.default_rng(seed))
    start = 0
    for component, size in enumerate(space.sizes):
        taken = action if space.kind == "discrete" else action[:, component]
        assert mask[np.arange(60), start + taken].all()
        start += size
    assert (logp <= 1e-6).all()
    assert np.isfinite(logp).all()


class ZeroNoise:
    """A generator whose exponential noise is zero: the worst draw that can happen."""

    def standard_exponential(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)


def test_zero_noise_takes_an_available_action() -> None:
    mask = np.array([[False, False, True, True, False]])
    action, _ = make_head(DISCRETE).sample(np.zeros((1, 5), np.float32), mask, ZeroNoise())  # type: ignore[arg-type]
    assert action[0] in (2, 3)


@pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE])
def test_draws_have_the_right_frequencies(space: ActionSpace) -> None:
    head = make_head(space)
    raw, mask = random_rows(space, 5, 1, True)
    assert mask is not None
    action, _ = head.sample(np.repeat(raw, 40_000, 0), np.repeat(mask, 40_000, 0), np.random.default_rng(0))
    first = action if space.kind == "discrete" else action[:, 0]
    logits = np.where(mask[0], raw[0], -np.inf)[: space.sizes[0]]
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=space.sizes[0]) / 40_000, wanted, atol=0.012)


@pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE])
def test_entropy_is_the_mean_surprise_over_all_actions(space: ActionSpace) -> None:
    head = make_head(space)
    raw, mask = random_rows(space, 6, 4, True)
    assert mask is not None
    torch_mask = torch.from_numpy(mask)
    combinations = np.array(list(np.ndindex(*space.sizes)))
    surprise = np.zeros(4)
    for combination in combinations:
        action = torch.from_numpy(np.repeat(combination[None], 4, 0))
        action = action[:, 0] if space.kind == "discrete" else action
        logp = head.evaluate(torch.from_numpy(raw), action, torch_mask)[0].double().numpy()
        surprise -= np.exp(logp) * np.maximum(logp, -1e6)
    entropy = head.evaluate(torch.from_numpy(raw), action, torch_mask)[1]
    np.testing.assert_allclose(entropy.numpy(), surprise, atol=1e-5)
    uniform = head.evaluate(torch.zeros_like(torch.from_numpy(raw)), action, torch_mask)[1]
    np.testing.assert_allclose(head.maximum_entropy(torch_mask, 4).numpy(), uniform.numpy(), atol=1e-5)
    assert head.maximum_entropy(None, 2).tolist() == pytest.approx([math.log(math.prod(space.sizes))] * 2, rel=1e-6)


def test_continuous_density_integrates_to_one_and_entropy_matches_it() -> None:
    space = ActionSpace("continuous", (1,), (2.0,), (5.0,))
    head = make_head(space)
    raw = np.array([[0.4, 0.3]], np.float32)
    grid = np.linspace(2.0, 5.0, 60_001)[1:-1]
    logp, estimates = head.evaluate(torch.from_numpy(np.repeat(raw, len(grid), 0)), torch.from_numpy(grid.astype(np.float32)[:, None]), None)
    density = np.exp(logp.double().numpy())
    width = grid[1] - grid[0]
    assert density.sum() * width == pytest.approx(1.0, abs=2e-3)
    # The estimate at a point differs from the entropy; its mean under the distribution is the entropy.
    entropy = -(density * logp.double().numpy()).sum() * width
    assert (density * estimates.double().numpy()).sum() * width == pytest.approx(entropy, abs=5e-3)


def test_continuous_draws_fill_the_bounds_and_saturated_policies_stay_finite() -> None:
    head = make_head(CONTINUOUS)
    raw = np.array([[50.0, -50.0, -40.0, 40.0]] * 500, np.float32)
    action, logp = head.sample(raw, None, np.random.default_rng(0))
    assert (action >= np.array(CONTINUOUS.low)).all()
    assert (action <= np.array(CONTINUOUS.high)).all()
    assert np.isfinite(logp).all()
    leaf = torch.from_numpy(raw).requires_grad_()
    values, entropy = head.evaluate(leaf, torch.from_numpy(action), None)
    (values.sum() + entropy.sum()).backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_continuous_entropy_slope_is_that_of_the_entropy() -> None:
    """The pathwise slope of the estimate, averaged over draws, against finite differences of the averaged estimate itself."""
    head = make_head(ActionSpace("continuous", (1,), (-1.0,), (1.0,)))

    def entropy(mean: float, shift: float) -> float:
        grid = np.linspace(-1, 1, 20_001)[1:-1]
        raw = torch.tensor([[mean, shift]]).expand(len(grid), 2)
        logp = head.evaluate(raw, torch.from_numpy(grid.astype(np.float32)[:, None]), None)[0].double().numpy()
        return float(-(np.exp(logp) * logp).sum() * (grid[1] - grid[0]))

    leaf = torch.tensor([[0.5, 0.2]], requires_grad=True)
    raw = np.repeat(leaf.detach().numpy(), 100_000, 0)
    action, _ = head.sample(raw, None, np.random.default_rng(0))
    head.evaluate(leaf.expand(100_000, 2), torch.from_numpy(action), None)[1].mean().backward()
    assert leaf.grad is not None
    wanted = [(entropy(0.51, 0.2) - entropy(0.49, 0.2)) / 0.02, (entropy(0.5, 0.21) - entropy(0.5, 0.19)) / 0.02]
    np.testing.assert_allclose(leaf.grad[0].numpy(), wanted, atol=0.01)


@pytest.mark.parametrize(("low", "high"), [((-math.inf,), (1.0,)), ((1.0,), (1.0,)), ((), ())])
def test_unbounded_actions_are_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="finite"):
        make_head(ActionSpace("continuous", (1,), low, high))


# --- policies


def make_policy(space: ActionSpace, recurrent: bool, hidden: tuple[int, ...] = (8, 8)) -> Policy:
    spec = PolicySpec("p", ("a", "b"), (2, 3), space, bool(space.mask_size))
    return Policy(spec, NetworkConfig(hidden=hidden, recurrent=recurrent, memory=5), seeded())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("recurrent", [False, True])
def test_first_policy_is_nearly_uniform_and_seeded(space: ActionSpace, recurrent: bool) -> None:
    policy, again = make_policy(space, recurrent), make_policy(space, recurrent)
    for left, right in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    FlatParameters({"p": policy})
    if space.kind != "continuous":
        frame = PolicyFrame(np.ones((3, 2, 2, 3), np.float32), np.ones((3, 2), bool))
        memory = np.zeros((3, 2, 5), np.float32) if recurrent else None
        decision = Actor(policy).act(frame, np.zeros(3, bool), memory, np.random.default_rng(0), False)
        np.testing.assert_allclose(decision.logp, -math.log(math.prod(space.sizes)), atol=0.1)


@pytest.mark.parametrize("hidden", [(8, 8), ()])
def test_recurrent_unroll_equals_acting_step_by_step(hidden: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    policy = make_policy(MULTI_DISCRETE, True, hidden)
    flat = FlatParameters({"p": policy})
    flat.load(generator.standard_normal(flat.size).astype(np.float32))
    actor = Actor(policy)
    steps, slots = 9, 4
    obs = generator.standard_normal((steps, slots, 2, 2, 3)).astype(np.float32)
    alive, starts = generator.random((steps, slots, 2)) < 0.6, generator.random((steps, slots)) < 0.3
    first = memory = generator.standard_normal((slots, 2, 5)).astype(np.float32)
    actions, logps = [], []
    for step in range(steps):
        kept = memory.copy()
        decision = actor.act(PolicyFrame(obs[step], alive[step]), starts[step], memory, generator, False)
        np.testing.assert_array_equal(memory, kept)  # what was passed in is not changed
        assert decision.memory is not None
        silent = ~alive[step] & ~starts[step][:, None]
        np.testing.assert_array_equal(decision.memory[silent], memory[silent])
        assert not decision.memory[~alive[step] & starts[step][:, None]].any()
        assert not decision.logp[~alive[step]].any()
        memory = decision.memory
        actions.append(decision.action)
        logps.append(decision.logp)
    raw = policy.unroll(*map(torch.from_numpy, (obs.reshape(steps, slots, 2, 6), alive, starts, first)))
    again, _ = policy.head.evaluate(raw.reshape(-1, raw.shape[-1]), torch.from_numpy(np.stack(actions).reshape(-1, 2)), None)
    np.testing.assert_allclose(np.stack(logps)[alive], again.detach().numpy().reshape(alive.shape)[alive], atol=1e-4)


def test_actions_of_all_kinds_are_masked_out_for_the_dead() -> None:
    for space in SPACES:
        policy = make_policy(space, False)
        FlatParameters({"p": policy})
        alive = np.array([[True, False]])
        decision = Actor(policy).act(PolicyFrame(np.ones((1, 2, 2, 3), np.float32), alive), np.zeros(1, bool), None, np.random.default_rng(3), False)
        assert decision.action.shape == (1, 2, *space.shape)
        assert not np.any(decision.action[0, 1])
        assert decision.logp[0, 1] == 0
        assert decision.logp[0, 0] != 0


def test_random_actions_of_the_helper_are_valid() -> None:
    generator = np.random.default_rng(0)
    mask = random_mask(MULTI_DISCRETE, (50,), generator)
    action = random_action(MULTI_DISCRETE, (50,), generator, mask)
    assert mask[np.arange(50), action[:, 0]].all()
    assert mask[np.arange(50), 3 + action[:, 1]].all()
