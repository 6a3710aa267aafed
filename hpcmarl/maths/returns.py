"""Discounted rewards to go. Called by algos/reinforce.py; knows no networks and no rollouts."""

from __future__ import annotations

import numpy as np

from hpcmarl.types import Array, BoolArray, FloatArray, IntArray


def rewards_to_go(
    reward: Array, discount: float, mask: BoolArray | None = None, first_step: IntArray | None = None
) -> FloatArray:
    """G_t = sum over h >= t of discount^h r_h: the weights of the trajectory gradient of arXiv 2509.24305.

    The discount counts from the episode's start, not from t, as the paper writes it. Summed in double
    precision.

    reward [T, ...]: one column an episode (and agent); mask [T, ...] bool: false on padding, whose rewards do
    not count; first_step: index in its episode of row 0, broadcast against reward[0] (default 0). Returns [T,
    ...] float32.
    """
    rows = np.arange(reward.shape[0]).reshape(-1, *(1,) * (reward.ndim - 1))
    exponent = rows if first_step is None else rows + first_step
    weighted = reward * np.power(float(discount), exponent)
    if mask is not None:
        weighted = np.where(mask, weighted, 0.0)
    return np.flip(np.cumsum(np.flip(weighted, 0), axis=0), 0).astype(np.float32)
