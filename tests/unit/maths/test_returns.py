"""Rewards to go against the double sum of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.maths.returns import rewards_to_go


def slow_rewards_to_go(reward: np.ndarray, discount: float, length: int, first: int) -> list[float]:
    """Return one column, written as in the paper."""
    return [
        sum(discount ** (first + h) * float(reward[h]) for h in range(t, length)) for t in range(len(reward))
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_rewards_to_go_equal_the_double_sum(steps: int, columns: int, discount: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    reward = generator.standard_normal((steps, columns)).astype(np.float32)
    length = generator.integers(1, steps + 1, size=columns)
    first = generator.integers(0, 5, size=columns)
    mask = np.arange(steps)[:, None] < length
    found = rewards_to_go(reward, discount, mask, first)
    for column in range(columns):
        np.testing.assert_allclose(
            found[:, column],
            slow_rewards_to_go(reward[:, column], discount, length[column], first[column]),
            atol=1e-5,
        )


def test_rewards_to_go_discount_from_the_episode_start() -> None:
    assert rewards_to_go(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 2.0, 1.0]


def test_rewards_to_go_ignore_padding() -> None:
    reward = np.ones((3, 1, 2), np.float32)
    reward[2] = np.nan
    found = rewards_to_go(reward, 1.0, np.array([True, True, False])[:, None, None])
    assert found.shape == (3, 1, 2)
    assert found[:, 0, 1].tolist() == [2.0, 1.0, 0.0]


def test_rewards_to_go_stay_precise_in_long_episodes() -> None:
    reward = np.full((20_000, 1), 0.1, np.float32)
    assert rewards_to_go(reward, 1.0)[0, 0] == pytest.approx(2000.0, rel=1e-6)
