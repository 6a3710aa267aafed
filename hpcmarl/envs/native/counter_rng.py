"""Random numbers for chance moves, as a function of the episode's seed and a counter.

The k-th number of an episode depends only on the seed and k, not on earlier numbers. One call serves one
episode or many. A numpy Generator for each episode would take longer than a game of poker.

Source:
    SplitMix64: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcmarl.types import Array

GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = (np.uint64(bits) for bits in (30, 27, 31, 11))


def uniform(seeds: Array, counts: Array) -> NDArray[np.float64]:
    """Return uniform random numbers in [0, 1), one for each pair of seed and count.

    Args:
        seeds: Seeds of the episodes, not negative, [n].
        counts: Index of the number in its episode, from 0, [n].

    Returns:
        Random numbers, [n].
    """
    state = _mix(np.asarray(seeds, np.uint64) + GAMMA)
    bits = _mix(state + (np.asarray(counts, np.uint64) + np.uint64(1)) * GAMMA) >> _11
    return bits.astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> _30)) * _FIRST
    bits = (bits ^ (bits >> _27)) * _SECOND
    return bits ^ (bits >> _31)
