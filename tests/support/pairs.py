"""Pairwise testing: few combinations that contain every pair of values.

Almost all faults depend on one setting or on two that meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def pairs_of(
    rows: Sequence[Sequence[str]], names: Sequence[str]
) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    """Return all pairs ((factor, value), (factor, value)) in the rows."""
    return {pair for row in rows for pair in itertools.combinations(zip(names, row, strict=True), 2)}


def choose(
    factors: Mapping[str, Sequence[str]], allowed: Callable[[Mapping[str, str]], bool]
) -> list[dict[str, str]]:
    """Choose combinations that contain every pair of values which any allowed combination contains.

    The combination that adds most new pairs is chosen repeatedly. Ties are resolved in a random order that is
    always the same.

    Args:
        factors: Name -> values.
        allowed: Returns whether a combination may be chosen.
    """
    names = list(factors)
    rows = np.array([row for row in itertools.product(*map(range, map(len, factors.values())))], np.int64)
    values = list(factors.values())
    rows = rows[
        [
            allowed(
                {
                    name: values[place][index]
                    for place, (name, index) in enumerate(zip(names, row, strict=True))
                }
            )
            for row in rows
        ]
    ]
    np.random.default_rng(0).shuffle(rows)
    columns = [
        (rows[:, left] == first) & (rows[:, right] == second)
        for left, right in itertools.combinations(range(len(names)), 2)
        for first, second in itertools.product(range(len(values[left])), range(len(values[right])))
    ]
    # [combinations, pairs]
    has = np.array([column for column in columns if column.any()]).T.astype(np.int16)
    missing = np.ones(has.shape[1], np.int16)
    chosen = []
    while missing.any():
        best = int(np.argmax(has @ missing))
        missing &= 1 - has[best]
        chosen.append(
            {
                name: values[place][index]
                for place, (name, index) in enumerate(zip(names, rows[best], strict=True))
            }
        )
    return chosen
