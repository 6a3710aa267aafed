"""Round times and rates of workers with fixed speeds: exact values, and the bounds of arXiv 2509.24305.

All times are in the unit of the caller. All functions raise ValueError if a compute time is not finite and
positive.

    symbol -> variable: h_i -> compute [n] (time of a trajectory)   M -> batch   n -> len(compute)
                        kappa_i -> exchange [n] (time of a round trip)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from hpcmarl.types import Array


def harmonic_means(compute: ArrayLike) -> Array:
    """Return the harmonic means H_m = m / sum_{i<=m} 1/h_i of the m fastest workers, for m = 1 … n.

    Args:
        compute: h, shape [n].

    Returns:
        H, shape [n].
    """
    ordered = np.sort(_positive(compute))
    means: Array = np.arange(1, ordered.size + 1) / np.cumsum(1.0 / ordered)
    return means


def rennala_bound(compute: ArrayLike, batch: int) -> float:
    """Return an upper bound of the time of a round of M trajectories: min_m (M + m) / sum_{i<=m} 1/h_i."""
    means = harmonic_means(compute)
    workers = np.arange(1, means.size + 1)
    return float(np.min((batch + workers) / workers * means))


def malenia_bound(compute: ArrayLike, batch: int) -> float:
    """Return an upper bound of the time of a Malenia round: max{h_n, 2 (M/n) mean(h)}."""
    times = _positive(compute)
    return float(max(times.max(), 2.0 * batch / times.size * times.mean()))


def rennala_time(compute: ArrayLike, batch: int) -> float:
    """Return the time that n workers need for M trajectories if they start together and never pause.

    This is the least t with sum_i floor(t / h_i) >= M.
    """
    times = _positive(compute)
    longest = rennala_bound(times, batch)
    finished = [time * np.arange(1, math.floor(longest / time * (1 + 1e-12)) + 2) for time in times.tolist()]
    return float(np.partition(np.concatenate(finished), batch - 1)[batch - 1])


def malenia_time(compute: ArrayLike, batch: int) -> float:
    """Return the time until the harmonic mean of the trajectory counts of n workers is at least M/n.

    The workers start together and never pause. This is the least t >= h_n with n² >= M sum_i 1/floor(t /
    h_i).
    """
    times = _positive(compute)
    longest = malenia_bound(times, batch)
    finished = np.unique(
        np.concatenate(
            [time * np.arange(1, math.floor(longest / time * (1 + 1e-12)) + 2) for time in times.tolist()]
        )
    )
    moments = finished[finished >= times.max()]
    low, high = 0, len(moments) - 1
    while low < high:  # the harmonic mean never decreases with time
        middle = (low + high) // 2
        counts = np.floor(moments[middle] / times * (1 + 1e-12))
        low, high = (
            (low, middle)
            if times.size**2 * (1 + 1e-9) >= batch * np.sum(1.0 / counts)
            else (middle + 1, high)
        )
    return float(moments[low])


def ideal_rate(compute: ArrayLike) -> float:
    """Return the trajectories per time of workers that never pause: sum_i 1/h_i. No rule uses more."""
    return float(np.sum(1.0 / _positive(compute)))


def sync_rate(compute: ArrayLike, exchange: ArrayLike, batch: int) -> float:
    """Return the trajectories per time if every worker delivers ceil(M/n) in a round and all wait.

    This is n ceil(M/n) / max_i(ceil(M/n) h_i + kappa_i).
    """
    times = _positive(compute)
    each = math.ceil(batch / times.size)
    return float(times.size * each / np.max(each * times + np.asarray(exchange, dtype=np.float64)))


def afedpg_rate(compute: ArrayLike, exchange: ArrayLike, batch: int = 1) -> float:
    """Return the trajectories per time if no worker waits for another: sum_i M / (M h_i + kappa_i)."""
    return float(np.sum(batch / (batch * _positive(compute) + np.asarray(exchange, dtype=np.float64))))


def rennala_rate(compute: ArrayLike, exchange: ArrayLike, batch: int) -> float:
    """Return the trajectories per time of rounds that take `rennala_time` and then max kappa."""
    return batch / (rennala_time(compute, batch) + float(np.max(np.asarray(exchange, dtype=np.float64))))


def _positive(compute: ArrayLike) -> Array:
    times: Array = np.asarray(compute, dtype=np.float64).ravel()
    if times.size == 0 or not np.all(times > 0) or not np.all(np.isfinite(times)):
        raise ValueError(f"compute times must be finite and positive, not {times[:5].tolist()}")
    return times
