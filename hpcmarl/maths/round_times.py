"""Round times and rates of workers with fixed speeds: exact values and the bounds of arXiv 2509.24305. Called
by tests, reports and estimates.

symbol -> variable: h_i -> compute [n] (time of a trajectory), kappa_i -> exchange [n] (time of a round trip),
    M -> batch, n -> len(compute).
All times are in the caller's unit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from hpcmarl.types import Array


def harmonic_means(compute: ArrayLike) -> Array:
    """H_m of the m fastest workers, for m = 1 … n: m / sum_{i<=m} 1/h_i, [n]. Raises ValueError for times
    that are not positive."""
    ordered = np.sort(_positive(compute))
    means: Array = np.arange(1, ordered.size + 1) / np.cumsum(1.0 / ordered)
    return means


def rennala_bound(compute: ArrayLike, batch: int) -> float:
    """No round of M trajectories takes longer: min_m (M + m) / sum_{i<=m} 1/h_i. Raises ValueError as
    `harmonic_means`."""
    means = harmonic_means(compute)
    workers = np.arange(1, means.size + 1)
    return float(np.min((batch + workers) / workers * means))


def malenia_bound(compute: ArrayLike, batch: int) -> float:
    """No round takes longer: max{h_n, 2 (M/n) mean(h)}. Raises ValueError for times that are not positive."""
    times = _positive(compute)
    return float(max(times.max(), 2.0 * batch / times.size * times.mean()))


def rennala_time(compute: ArrayLike, batch: int) -> float:
    """How long n workers that begin together and never pause take for M trajectories: the least t with sum_i
    floor(t / h_i) >= M."""
    times = _positive(compute)
    longest = rennala_bound(times, batch)
    finished = [time * np.arange(1, math.floor(longest / time * (1 + 1e-12)) + 2) for time in times.tolist()]
    return float(np.partition(np.concatenate(finished), batch - 1)[batch - 1])


def malenia_time(compute: ArrayLike, batch: int) -> float:
    """The same until the harmonic mean of the counts is M/n: the least t with n² >= M sum_i 1/floor(t / h_i),
    and t >= h_n."""
    times = _positive(compute)
    longest = malenia_bound(times, batch)
    finished = np.unique(
        np.concatenate(
            [time * np.arange(1, math.floor(longest / time * (1 + 1e-12)) + 2) for time in times.tolist()]
        )
    )
    moments = finished[finished >= times.max()]
    low, high = 0, len(moments) - 1
    while low < high:  # more time never makes the harmonic mean smaller
        middle = (low + high) // 2
        counts = np.floor(moments[middle] / times * (1 + 1e-12))
        low, high = (
            (low, middle)
            if times.size**2 * (1 + 1e-9) >= batch * np.sum(1.0 / counts)
            else (middle + 1, high)
        )
    return float(moments[low])


def ideal_rate(compute: ArrayLike) -> float:
    """Trajectories per time of workers that never pause: sum_i 1/h_i. No rule uses more. Raises ValueError as
    `harmonic_means`."""
    return float(np.sum(1.0 / _positive(compute)))


def sync_rate(compute: ArrayLike, exchange: ArrayLike, batch: int) -> float:
    """Trajectories per time when every worker delivers ceil(M/n) a round and all wait: n ceil(M/n) /
    max_i(ceil(M/n) h_i + kappa_i)."""
    times = _positive(compute)
    each = math.ceil(batch / times.size)
    return float(times.size * each / np.max(each * times + np.asarray(exchange, dtype=np.float64)))


def afedpg_rate(compute: ArrayLike, exchange: ArrayLike, batch: int = 1) -> float:
    """Trajectories per time when nobody waits for anybody: sum_i M / (M h_i + kappa_i)."""
    return float(np.sum(batch / (batch * _positive(compute) + np.asarray(exchange, dtype=np.float64))))


def rennala_rate(compute: ArrayLike, exchange: ArrayLike, batch: int) -> float:
    """Trajectories per time of rounds that take `rennala_time` and then max kappa."""
    return batch / (rennala_time(compute, batch) + float(np.max(np.asarray(exchange, dtype=np.float64))))


def _positive(compute: ArrayLike) -> Array:
    times: Array = np.asarray(compute, dtype=np.float64).ravel()
    if times.size == 0 or not np.all(times > 0) or not np.all(np.isfinite(times)):
        raise ValueError(f"compute times must be finite and positive, not {times[:5].tolist()}")
    return times
