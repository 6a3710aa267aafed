"""Distributions over actions: drawing (numpy), evaluation (torch) and theory agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import UsageError
from hpcmarl.nets.choosers import Chooser, EpsilonGreedy, make_chooser
from hpcmarl.nets.heads import make_head
from hpcmarl.types import ActionSpace
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, random_mask

SPACES = [DISCRETE, MULTI_DISCRETE, CONTINUOUS]


def random_rows(
    space: ActionSpace, seed: int, rows: int, masked: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    generator = np.random.default_rng(seed)
    raw = (2 * generator.standard_normal((rows, make_chooser(space).raw_size))).astype(np.float32)
    return raw, random_mask(space, (rows,), generator) if masked and space.mask_size else None


def choose(
    chooser: Chooser, raw: np.ndarray, mask: np.ndarray | None, generator: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return actions and log-probabilities; without a generator, of the most probable actions."""
    action, logp = chooser.choose(raw, mask, None if generator is None else chooser.draw(len(raw), generator))
    assert logp is not None
    return action, logp


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SPACES), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_sampled_logp_equals_evaluated_logp(
    space: ActionSpace, seed: int, masked: bool, greedy: bool
) -> None:
    head, chooser = make_head(space), make_chooser(space)
    raw, mask = random_rows(space, seed, 40, masked)
    action, logp = choose(chooser, raw, mask, None if greedy else np.random.default_rng(seed))
    again, entropy = head.evaluate(
        torch.from_numpy(raw), torch.from_numpy(action), None if mask is None else torch.from_numpy(mask)
    )
    assert action.shape == (40, *space.shape)
    assert action.dtype == space.dtype
    assert logp.dtype == np.float32
    np.testing.assert_allclose(logp, again.numpy(), atol=1e-4, rtol=1e-5)
    assert torch.isfinite(entropy).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*SPACES, "values"]), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_actions_do_not_depend_on_wanting_logp(
    space: ActionSpace | str, seed: int, masked: bool, greedy: bool
) -> None:
    chooser = EpsilonGreedy(DISCRETE, 0.4) if isinstance(space, str) else make_chooser(space)
    raw, mask = random_rows(DISCRETE if isinstance(space, str) else space, seed, 40, masked)
    told = []
    for with_logp in (True, False):
        noise = None if greedy else chooser.draw(len(raw), np.random.default_rng(seed))
        told.append(chooser.choose(raw, mask, noise, with_logp))
    np.testing.assert_array_equal(told[0][0], told[1][0])
    assert told[0][1] is not None
    assert told[1][1] is None


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([DISCRETE, MULTI_DISCRETE]), st.integers(0, 2**31), st.booleans())
def test_unavailable_actions_are_never_taken(space: ActionSpace, seed: int, greedy: bool) -> None:
    """This holds even if the logits of the available actions are far below all others."""
    chooser = make_chooser(space)
    raw, mask = random_rows(space, seed, 60, True)
    assert mask is not None
    raw = np.where(mask, raw - 300.0, raw + 300.0).astype(np.float32)
    action, logp = choose(chooser, raw, mask, None if greedy else np.random.default_rng(seed))
    start = 0
    for component, size in enumerate(space.sizes):
        taken = action if space.kind == "discrete" else action[:, component]
        assert mask[np.arange(60), start + taken].all()
        start += size
    assert (logp <= 1e-6).all()
    assert np.isfinite(logp).all()


class ZeroNoise:
    """A generator with zero exponential noise: the worst possible draw."""

    def standard_exponential(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)


def test_zero_noise_takes_an_available_action() -> None:
    mask = np.array([[False, False, True, True, False]])
    action, _ = choose(make_chooser(DISCRETE), np.zeros((1, 5), np.float32), mask, ZeroNoise())  # type: ignore[arg-type]
    assert action[0] in (2, 3)


@pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE])
def test_sampled_frequencies_match_the_softmax(space: ActionSpace) -> None:
    chooser = make_chooser(space)
    raw, mask = random_rows(space, 5, 1, True)
    assert mask is not None
    action, _ = choose(
        chooser, np.repeat(raw, 40_000, 0), np.repeat(mask, 40_000, 0), np.random.default_rng(0)
    )
    first = action if space.kind == "discrete" else action[:, 0]
    logits = np.where(mask[0], raw[0], -np.inf)[: space.sizes[0]]
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=space.sizes[0]) / 40_000, wanted, atol=0.012)


@pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE])
def test_entropy_equals_the_mean_negative_logp(space: ActionSpace) -> None:
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
    assert head.maximum_entropy(None, 2).tolist() == pytest.approx(
        [math.log(math.prod(space.sizes))] * 2, rel=1e-6
    )


def test_continuous_density_integrates_to_one() -> None:
    space = ActionSpace("continuous", (1,), (2.0,), (5.0,))
    head = make_head(space)
    raw = np.array([[0.4, 0.3]], np.float32)
    grid = np.linspace(2.0, 5.0, 60_001)[1:-1]
    logp, estimates = head.evaluate(
        torch.from_numpy(np.repeat(raw, len(grid), 0)),
        torch.from_numpy(grid.astype(np.float32)[:, None]),
        None,
    )
    density = np.exp(logp.double().numpy())
    width = grid[1] - grid[0]
    assert density.sum() * width == pytest.approx(1.0, abs=2e-3)
    # The estimate at a point differs from the entropy; its mean under the distribution is the entropy.
    entropy = -(density * logp.double().numpy()).sum() * width
    assert (density * estimates.double().numpy()).sum() * width == pytest.approx(entropy, abs=5e-3)


def test_saturated_continuous_policies_stay_finite() -> None:
    head, chooser = make_head(CONTINUOUS), make_chooser(CONTINUOUS)
    raw = np.array([[50.0, -50.0, -40.0, 40.0]] * 500, np.float32)
    action, logp = choose(chooser, raw, None, np.random.default_rng(0))
    assert (action >= np.array(CONTINUOUS.low)).all()
    assert (action <= np.array(CONTINUOUS.high)).all()
    assert np.isfinite(logp).all()
    leaf = torch.from_numpy(raw).requires_grad_()
    values, entropy = head.evaluate(leaf, torch.from_numpy(action), None)
    (values.sum() + entropy.sum()).backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_continuous_entropy_gradient_equals_finite_differences() -> None:
    """The pathwise slope of the estimate, averaged over draws.

    It is compared with finite differences of the averaged estimate.
    """
    head, chooser = (
        make_head(ActionSpace("continuous", (1,), (-1.0,), (1.0,))),
        make_chooser(ActionSpace("continuous", (1,), (-1.0,), (1.0,))),
    )

    def entropy(mean: float, shift: float) -> float:
        grid = np.linspace(-1, 1, 20_001)[1:-1]
        raw = torch.tensor([[mean, shift]]).expand(len(grid), 2)
        logp = (
            head.evaluate(raw, torch.from_numpy(grid.astype(np.float32)[:, None]), None)[0].double().numpy()
        )
        return float(-(np.exp(logp) * logp).sum() * (grid[1] - grid[0]))

    leaf = torch.tensor([[0.5, 0.2]], requires_grad=True)
    raw = np.repeat(leaf.detach().numpy(), 100_000, 0)
    action, _ = choose(chooser, raw, None, np.random.default_rng(0))
    head.evaluate(leaf.expand(100_000, 2), torch.from_numpy(action), None)[1].mean().backward()
    assert leaf.grad is not None
    wanted = [
        (entropy(0.51, 0.2) - entropy(0.49, 0.2)) / 0.02,
        (entropy(0.5, 0.21) - entropy(0.5, 0.19)) / 0.02,
    ]
    np.testing.assert_allclose(leaf.grad[0].numpy(), wanted, atol=0.01)


@pytest.mark.parametrize(("low", "high"), [((-math.inf,), (1.0,)), ((1.0,), (1.0,)), ((), ())])
def test_invalid_continuous_bounds_are_rejected(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="finite"):
        make_head(ActionSpace("continuous", (1,), low, high))


def test_shares_of_random_actions_by_row_replace_the_schedule():
    chooser, generator = EpsilonGreedy(DISCRETE, 0.4), np.random.default_rng(1)
    rows = 3000
    raw = np.tile(np.arange(chooser.raw_size, dtype=np.float32), (rows, 1))
    shares = np.resize([0.0, 1.0, np.nan], rows)
    noise = chooser.with_shares(chooser.draw(rows, generator), shares)
    action, logp = chooser.choose(raw, None, noise)
    best = action == chooser.raw_size - 1
    expected = np.array([epsilon / chooser.raw_size + 1.0 - epsilon for epsilon in (0.0, 1.0, 0.4)])
    for kind, share in enumerate(expected):
        assert best[kind::3].mean() == pytest.approx(share, abs=0.06)
        np.testing.assert_allclose(np.exp(logp[kind::3][best[kind::3]]), share, rtol=1e-6)
