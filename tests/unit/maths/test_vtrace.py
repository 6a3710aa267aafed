"""V-trace with gaps against a literal recursive twin, and the properties that the papers state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.maths.vtrace import VTrace, linear_recursion, normalised_advantages, trace_targets, vtrace
from tests.reference.vtrace import Column, random_columns, slow_vtrace


def run(data: Column, **settings_: float) -> VTrace:
    return vtrace(*data.arguments(), **{"discount": 0.9, **settings_})


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 8),
    st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.3, 0.99, 1.0]), st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.5, 1.0, 2.0]),
)  # fmt: skip
def test_vtrace_equals_the_recursive_reference(
    seed: int, steps: int, acting: float, gamma: float, lam: float, rho_max: float, c_max: float
) -> None:
    data = random_columns(seed, steps, 3, acting=acting)
    found = run(data, discount=gamma, trace_lambda=lam, rho_max=rho_max, c_max=c_max)
    for column in range(3):
        targets, advantages = slow_vtrace(data, column, gamma, lam, rho_max, c_max)
        np.testing.assert_allclose(found.targets[:, column], targets, atol=2e-5)
        np.testing.assert_allclose(found.advantages[:, column], advantages, atol=2e-5)
    active = data.active
    if active.any():
        assert found.mean_rho == pytest.approx(
            np.minimum(np.exp(data.log_ratio), rho_max)[active].mean(), abs=1e-5
        )
        assert found.mean_c == pytest.approx(
            lam * np.minimum(np.exp(data.log_ratio), c_max)[active].mean(), abs=1e-5
        )
    assert not found.targets[~active].any()
    assert not found.advantages[~active].any()


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("acting", [0.5, 1.1])
def test_trace_targets_equal_vtrace_with_ratios_one(acting: float, lam: float) -> None:
    data = random_columns(5, 12, 6, acting=acting, ratio=0.0)
    found = trace_targets(*data.arguments()[1:], discount=0.9, trace_lambda=lam)
    np.testing.assert_array_equal(found, run(data, trace_lambda=lam).targets)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_on_policy_vtrace_equals_the_n_step_return(seed: int, steps: int) -> None:
    data = random_columns(seed, steps, 2, acting=1.1, ends=0.0, ratio=0.0)
    found = run(data)
    for t in range(steps):
        n_step = (
            sum(0.9 ** (k - t) * data.reward[k] for k in range(t, steps))
            + 0.9 ** (steps - t) * data.bootstrap
        )
        np.testing.assert_allclose(found.targets[t], n_step, atol=1e-5)
        np.testing.assert_allclose(found.advantages[t], n_step - data.value[t], atol=1e-5)


def test_vtrace_with_lambda_zero_is_one_step() -> None:
    data = random_columns(3, 6, 4, acting=1.1, ends=0.0)
    found = run(data, trace_lambda=0.0)
    following = np.concatenate([data.value[1:], data.bootstrap[None]])
    rho = np.minimum(np.exp(data.log_ratio), 1)
    np.testing.assert_allclose(
        found.targets, data.value + rho * (data.reward + 0.9 * following - data.value), atol=1e-5
    )


def test_vtrace_cuts_at_termination_and_bootstraps_truncation() -> None:
    data = random_columns(4, 6, 1, acting=1.1, ends=0.0, ratio=0.0)
    data.terminated[2], data.truncated[4] = True, True
    before = run(data)
    changed = random_columns(4, 6, 1, acting=1.1, ends=0.0, ratio=0.0)
    changed.terminated, changed.truncated = data.terminated, data.truncated
    changed.reward[3:], changed.value[3:], changed.bootstrap[:], changed.final_value[:] = (
        7.0,
        -5.0,
        9.0,
        data.final_value,
    )
    after = run(changed)
    np.testing.assert_array_equal(before.targets[:3], after.targets[:3])
    np.testing.assert_array_equal(before.advantages[:3], after.advantages[:3])
    assert before.targets[2, 0] == pytest.approx(float(data.reward[2, 0]), abs=1e-6)
    assert before.targets[4, 0] == pytest.approx(
        float(data.reward[4, 0] + 0.9 * data.final_value[4, 0]), abs=1e-6
    )


def test_a_gap_adds_its_reward_without_a_discount() -> None:
    """The agent acts in rows 0 and 3 only; row 3 terminates.

    The target of row 0 is r0 + gamma (r1 + r2 + r3): r1 and r2 get no discount of their own.
    """
    data = random_columns(5, 4, 1, acting=1.1, ends=0.0, ratio=0.0)
    data.active[1:3], data.terminated[3] = False, True
    r = data.reward[:, 0]
    assert run(data).targets[0, 0] == pytest.approx(float(r[0] + 0.9 * (r[1] + r[2] + r[3])), abs=1e-5)


def test_huge_ratios_are_clipped_not_infinite() -> None:
    data = random_columns(6, 4, 2, acting=1.1)
    data.log_ratio[:] = 1e6
    found = run(data)
    assert np.isfinite(found.targets).all()
    assert found.mean_rho == 1.0


def test_vtrace_accepts_any_trailing_shape() -> None:
    data = random_columns(7, 5, 6)
    flat = run(data)
    folded = vtrace(*(array.reshape(*array.shape[:-1], 2, 3) for array in data.arguments()), discount=0.9)
    np.testing.assert_array_equal(folded.targets.reshape(5, 6), flat.targets)


def test_linear_recursion_computes_a_known_case() -> None:
    found = linear_recursion(
        np.array([[1.0], [2.0]], np.float32),
        np.array([[0.5], [3.0]], np.float32),
        np.array([10.0], np.float32),
    )
    assert found.tolist() == [[17.0], [32.0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.floats(-100, 100))
def test_normalised_advantages_are_standardised_for_any_offset(seed: int, rows: int, off: float) -> None:
    generator = np.random.default_rng(seed)
    rho, found = (
        generator.uniform(0, 1, rows).astype(np.float32),
        generator.normal(size=rows).astype(np.float32),
    )
    weighed = rho * found
    result = normalised_advantages(weighed, rho)
    assert result.mean() == pytest.approx(0.0, abs=1e-5)
    baseline = sum(map(float, weighed)) / sum(map(float, rho))
    slow = [float(x) - float(r) * baseline for r, x in zip(rho, weighed, strict=True)]
    # 1e-8 avoids a division by zero.
    np.testing.assert_allclose(result, np.array(slow) / (np.std(slow) + 1e-8), atol=1e-5)
    # Rounding of `weighed` and of its shifted twin, in units of the result.
    rounding = 2e-7 * (1 + abs(off)) / np.std(slow)
    np.testing.assert_allclose(
        normalised_advantages(rho * (found + np.float32(off)), rho), result, atol=1e-5 + 10 * rounding
    )


def test_normalised_advantages_of_zero_weight_rows_are_zero() -> None:
    rho, advantages = np.array([1.0, 0.0, 0.5], np.float32), np.array([3.0, 0.0, -1.0], np.float32)
    assert normalised_advantages(advantages, rho)[1] == 0.0
    for rows in (np.zeros(0, np.float32), np.zeros(3, np.float32)):
        np.testing.assert_array_equal(normalised_advantages(rows, rows), rows)
    np.testing.assert_array_equal(
        normalised_advantages(np.full(1, 7.0, np.float32), np.ones(1, np.float32)), [0.0]
    )
