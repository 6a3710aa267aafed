"""Comparisons of algorithms, optimizers, round rules and formulas with references.

tools/correctness prints the table; tests check every bound.
"""

from tests.support.comparisons import algorithms, maths, optimizers, published, rules  # noqa: F401  they fill COMPARISONS
from tests.support.comparisons.base import COMPARISONS, KINDS, Comparison, Result, difference

COMPARISONS.sort(key=lambda each: KINDS.index(each.kind))

__all__ = ["COMPARISONS", "KINDS", "Comparison", "Result", "difference"]
