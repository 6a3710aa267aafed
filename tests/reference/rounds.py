"""The round rules as the papers define them.

All deliveries are kept, and all counts are computed from scratch after each delivery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from hpcmarl.types import Array


class Delivery(NamedTuple):
    """Sum of the gradients of `count` trajectories of one group at one version.

    Without a vector it reports that the group has nothing under way.
    """

    group: int
    version: int
    count: int
    vector: Array | None


def directions(
    rule: str, groups: int, batch: int, deliveries: Sequence[Delivery], *, all_begun: bool = False
) -> list[Array]:
    """Return the direction of each round, [P] each.

    - afedpg: every delivery, at any staleness, is a round. The other rules drop deliveries of earlier rounds.
    - sync: every group owes ceil(batch / groups) trajectories.
    - rennala: the batch-th trajectory ends the round. With all_begun, each group then finishes the
      trajectories that it has under way, and they count, too.
    - malenia (arXiv 2509.24305): the round ends when the harmonic mean of the counts is batch / groups. All
      groups have equal weight.

    Args:
        rule: Name of the rule.
        groups: Number of groups.
        batch: Trajectories per round, M.
        deliveries: Deliveries in order of arrival.
        all_begun: Whether rennala counts all trajectories that had begun.
    """
    found: list[Array] = []
    held: list[Delivery] = []
    ready: set[int] = set()
    for each in deliveries:
        if each.vector is not None and rule == "afedpg":
            found.append(each.vector / each.count)
            continue
        if each.version < len(found):
            continue
        if each.vector is None:
            ready.add(each.group)
        else:
            held.append(each)
        counts = [sum(one.count for one in held if one.group == group) for group in range(groups)]
        if _complete(rule, groups, batch, counts) and (not all_begun or len(ready) == groups):
            found.append(_direction(rule, groups, held, counts))
            held, ready = [], set()
    return found


def _complete(rule: str, groups: int, batch: int, counts: list[int]) -> bool:
    if rule == "sync":
        return min(counts) >= math.ceil(batch / groups)
    if rule == "rennala":
        return sum(counts) >= batch
    return min(counts) > 0 and groups / sum(Fraction(1, count) for count in counts) >= Fraction(batch, groups)


def _direction(rule: str, groups: int, held: list[Delivery], counts: list[int]) -> Array:
    vectors = [
        [one.vector for one in held if one.group == group and one.vector is not None]
        for group in range(groups)
    ]
    sums = [np.sum(own, 0) for own in vectors if own]
    if rule == "malenia":
        total: Array = np.sum([own / count for own, count in zip(sums, counts, strict=True)], 0) / groups
    else:
        total = np.sum(sums, 0) / sum(counts)
    return total


def counted_time(compute: Sequence[float], enough: Callable[[list[int]], bool]) -> float:
    """Return the first time at which enough(counts) is true, by counting trajectories one by one.

    Args:
        compute: Time of one trajectory of each worker.
        enough: Returns whether these numbers of trajectories per worker end the round.
    """
    counts, moments = [0] * len(compute), list(compute)
    while True:
        worker = min(range(len(compute)), key=moments.__getitem__)
        now = moments[worker]
        counts[worker] += 1
        moments[worker] = compute[worker] * (counts[worker] + 1)
        if enough(counts):
            return now
