"""Every comparison of docs/correctness.md with a few cases.

Every entry of the registries must have a comparison.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.algos import ALGORITHMS
from hpcmarl.optim import OPTIMIZERS
from hpcmarl.optim.rounds import RULES
from tests.support.comparisons import COMPARISONS, Comparison, difference

TEXT = (Path(__file__).parents[3] / "docs/correctness.md").read_text()
PAGE = TEXT.partition("<!-- written by tools/correctness -->")[2].partition("<!-- end -->")[0]
QUICK = [each for each in COMPARISONS if not each.runs]


@pytest.mark.parametrize("comparison", QUICK, ids=lambda each: each.name)
def test_difference_is_within_its_bound(comparison: Comparison) -> None:
    if not comparison.possible:
        pytest.skip(f"needs {comparison.needs}")
    result = comparison.measure(comparison.few)
    assert result.difference <= result.bound
    # The compared values must not all be near zero.
    assert result.largest > 100 * result.bound or result.largest > 0.3


@pytest.mark.parametrize(
    ("kind", "registry"), [("algorithm", ALGORITHMS), ("optimizer", OPTIMIZERS), ("rule", RULES)]
)
def test_everything_registered_is_compared(kind: str, registry: dict[str, type]) -> None:
    subjects = {each.subject for each in COMPARISONS if each.kind == kind}
    assert {subject.partition(",")[0] for subject in subjects} == set(registry)
    assert kind != "rule" or "rennala, all_begun" in subjects
    assert all(f"| {subject} |" in PAGE for subject in subjects)


@pytest.mark.parametrize(
    "rule", ["sync", "rennala, all_begun", "rennala, first_finished", "malenia", "afedpg"]
)
def test_each_admission_has_its_direction_measured(rule: str) -> None:
    assert [each for each in COMPARISONS if each.subject == rule and "mean direction" in each.quantity]


def test_page_has_a_row_for_each_comparison() -> None:
    rows = re.findall(
        r"(?m)^\| (.*?) \| (.*?) \| (.*?) \| [\d,]+[\w ]* \| ([\d.e+-]+) \| ([\d.e+-]+) \|$", PAGE
    )
    assert [row[:3] for row in rows] == [(each.subject, each.quantity, each.against) for each in COMPARISONS]
    assert all(float(found) <= float(bound) for *_, found, bound in rows)


def test_difference_is_a_share_of_large_references() -> None:
    assert difference([0.5, 0.25], [0.5, 0.5]) == 0.25
    assert difference(np.array([[10.0, 3.0]]), np.array([[10.0, 4.0]])) == pytest.approx(0.1)
    assert difference([np.zeros(2), np.ones(3)], [np.zeros(2), np.full(3, 3.0)]) == pytest.approx(2 / 3)
    assert difference([np.nan], [1.0]) == np.inf
    with pytest.raises(ValueError, match="shapes"):
        difference(np.zeros(2), np.zeros(3))
