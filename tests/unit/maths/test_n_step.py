"""n-step targets against a walk along each column, TD(lambda) and closed forms.

TD(lambda) targets are a mixture of n-step targets.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.maths.n_step import n_step_targets
from hpcmarl.maths.vtrace import vtrace

GAMMA = 0.9


def random_columns(seed, steps, acting=0.7, ends=0.2):
    """Return value, bootstrap, reward, acts, terminated, truncated and final value of three columns."""
    generator = np.random.default_rng(seed)
    shape = (steps, 3)

    def normal(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    flags = (generator.random(shape) < share for share in (acting, ends / 2, ends / 2))
    return normal(*shape), normal(3), normal(*shape), *flags, normal(*shape)


def walk(data, column, start, n):
    """Return the n-step target of a decision.

    It adds the rewards of n decisions and of the rows between them, then the value of the next decision.
    """
    value, bootstrap, reward, active, terminated, truncated, final = (array[..., column] for array in data)
    total, weight, taken = 0.0, 1.0, 0
    for t in range(start, len(value)):
        if active[t] and taken == n:
            return total + weight * value[t]
        total += weight * reward[t]
        if active[t]:
            taken, weight = taken + 1, weight * GAMMA
        if terminated[t]:
            return total
        if truncated[t]:
            return total + weight * final[t]
    return total + weight * bootstrap


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.1]))
def test_n_step_targets_equal_a_walk_along_the_column(seed, steps, n, acting):
    data = random_columns(seed, steps, acting)
    found = n_step_targets(*data, discount=GAMMA, n_step=n)
    for t in range(steps):
        for column in range(3):
            wanted = walk(data, column, t, n) if data[3][t, column] else 0.0
            assert found[t, column] == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_td_lambda_targets_are_a_mixture_of_n_step_targets(seed, steps, trace_lambda):
    """The mixture is (1 - lambda) sum_n lambda^(n-1) R^(n).

    An n beyond the number of rows makes no difference.
    """
    data = random_columns(seed, steps)
    wanted = vtrace(
        np.zeros((steps, 3), np.float32), *data, discount=GAMMA, trace_lambda=trace_lambda
    ).targets
    each = [n_step_targets(*data, discount=GAMMA, n_step=n) for n in range(1, steps + 1)]
    mixed = (1 - trace_lambda) * sum(
        trace_lambda ** (n - 1) * own for n, own in enumerate(each[:-1], 1)
    ) + trace_lambda ** (steps - 1) * each[-1]
    np.testing.assert_allclose(mixed, wanted, atol=2e-5)


def test_n_step_targets_of_a_constant_reward_are_geometric_sums():
    """Reward 1, values of 5, ten rows, then a termination.

    The targets are (1 - g^n)/(1 - g) + 5 g^n, without the last term in the last n rows.
    """
    ones, no = np.ones((10, 1), np.float32), np.zeros((10, 1), bool)
    ended = no.copy()
    ended[-1] = True
    for n in (1, 3, 10, 40):
        found = n_step_targets(
            5 * ones, 7 * ones[0], ones, ~no, ended, no, 9 * ones, discount=GAMMA, n_step=n
        )[:, 0]
        left = np.minimum(n, 10 - np.arange(10))
        np.testing.assert_allclose(
            found, (1 - GAMMA**left) / (1 - GAMMA) + 5 * GAMMA**n * (np.arange(10) + n < 10), rtol=1e-5
        )
        cut = n_step_targets(5 * ones, 7 * ones[0], ones, ~no, no, ended, 9 * ones, discount=GAMMA, n_step=n)[
            :, 0
        ]
        np.testing.assert_allclose(
            cut,
            (1 - GAMMA**left) / (1 - GAMMA) + np.where(np.arange(10) + n < 10, 5, 9) * GAMMA**left,
            rtol=1e-5,
        )
