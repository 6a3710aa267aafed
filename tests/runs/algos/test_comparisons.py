"""The comparisons of docs/correctness.md that train on virtual ranks."""

import pytest

from tests.support.comparisons import COMPARISONS, Comparison


@pytest.mark.parametrize(
    "comparison", [each for each in COMPARISONS if each.runs], ids=lambda each: each.name
)
def test_mean_direction_is_within_its_bound(comparison: Comparison) -> None:
    result = comparison.measure(1)
    assert result.difference <= result.bound
    assert result.largest >= 0.24
