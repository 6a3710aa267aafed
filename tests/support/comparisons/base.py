"""The type of a comparison, and the list of all comparisons."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.types import Array

KINDS = ("algorithm", "optimizer", "rule", "maths", "published figure")  # in the order of the page


class Result(NamedTuple):
    """One row of the table.

    Attributes:
        kind: One of KINDS.
        subject: Name in the registry, or of the formula.
        quantity: Quantity compared.
        against: Reference.
        cases: Number of random cases, in `unit`.
        unit: Cases, episodes or similar.
        difference: Largest difference over all cases; see `difference`.
        bound: Largest difference that passes.
        largest: Largest absolute entry of the reference, which reveals comparisons of zeros.
    """

    kind: str
    subject: str
    quantity: str
    against: str
    cases: int
    unit: str
    difference: float
    bound: float
    largest: float


@dataclass(frozen=True)
class Comparison:
    """A quantity computed by hpcmarl and by a reference, for any seed.

    Attributes:
        function: Seed -> (found, wanted): arrays, or sequences of arrays, of equal shapes.
        cases: Number of seeds for the page.
        few: Number of seeds for the tests.
        unit: Unit of the cases.
        each: Cases per seed.
        runs: Whether it trains on virtual ranks, which unit tests do not.
        needs: Package that it needs besides those of hpcmarl; empty: none.
    """

    kind: str
    subject: str
    quantity: str
    against: str
    function: Callable[[int], tuple[Any, Any]]
    cases: int
    few: int
    bound: float
    unit: str
    each: int
    runs: bool
    needs: str

    @property
    def possible(self) -> bool:
        """Whether the needed package is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    @property
    def name(self) -> str:
        """Name for a test."""
        return f"{self.subject}: {self.quantity}, {self.against}".replace("`", "")

    def measure(self, seeds: int | None = None) -> Result:
        """Compare for a number of seeds, by default `cases`."""
        seeds, worst, largest = seeds or self.cases, 0.0, 0.0
        for seed in range(seeds):
            found, wanted = self.function(seed)
            worst = max(worst, difference(found, wanted))
            largest = max(largest, max(float(np.abs(part).max(initial=0.0)) for part in _parts(wanted)))
        return Result(
            self.kind,
            self.subject,
            self.quantity,
            self.against,
            seeds * self.each,
            self.unit,
            worst,
            self.bound,
            largest,
        )


COMPARISONS: list[Comparison] = []


def compared(
    kind: str,
    subject: str,
    quantity: str,
    against: str,
    *,
    bound: float,
    cases: int = 1,
    few: int = 2,
    unit: str = "cases",
    each: int = 1,
    runs: bool = False,
    needs: str = "",
) -> Callable[[Callable[[int], tuple[Any, Any]]], Callable[[int], tuple[Any, Any]]]:
    """Return a decorator that adds a function to COMPARISONS; the arguments are those of Comparison."""
    assert kind in KINDS

    def add(function: Callable[[int], tuple[Any, Any]]) -> Callable[[int], tuple[Any, Any]]:
        COMPARISONS.append(
            Comparison(
                kind,
                subject,
                quantity,
                against,
                function,
                cases,
                min(few, cases),
                bound,
                unit,
                each,
                runs,
                needs,
            )
        )
        return function

    return add


def difference(found: Any, wanted: Any) -> float:
    """Return the largest difference between two arrays, or between two sequences of arrays, pair by pair.

    The difference of a pair is max |found - wanted| / max(1, max |wanted|). It is infinite if a value is not
    finite.

    Raises:
        ValueError: If shapes differ.
    """
    worst = 0.0
    for first, second in zip(_parts(found), _parts(wanted), strict=True):
        if first.shape != second.shape:
            raise ValueError(f"shapes {first.shape} and {second.shape} differ")
        if first.size:
            apart = float(np.abs(first - second).max()) / max(1.0, float(np.abs(second).max()))
            worst = max(worst, apart if np.isfinite(apart) else np.inf)
    return worst


def _parts(values: Any) -> list[Array]:
    """Return the arrays of a sequence; an array, a number or a list of numbers counts as one array."""
    if isinstance(values, list | tuple) and any(np.ndim(value) for value in values):
        return [np.asarray(value, np.float64) for value in values]
    return [np.asarray(values, np.float64)]
