"""Discounted rewards to go."""

from __future__ import annotations

import numpy as np

from hpcmarl.types import Array, BoolArray, FloatArray, IntArray


def rewards_to_go(
    reward: Array, discount: float, mask: BoolArray | None = None, first_step: IntArray | None = None
) -> FloatArray:
    """Compute G_t = sum over h >= t of discount^h r_h.

    These are the weights of the trajectory gradient of arXiv 2509.24305. The discount counts from the start
    of the episode, not from t, as in the paper. The sum is computed in double precision.

    Args:
        reward: Shape [T, ...], one column for each episode (and agent).
        discount: Discount factor.
        mask: Shape [T, ...] bool; false on padding, where rewards do not count.
        first_step: Index of row 0 in its episode, broadcast against reward[0]; default 0.

    Returns:
        G, shape [T, ...] float32.
    """
    rows = np.arange(reward.shape[0]).reshape(-1, *(1,) * (reward.ndim - 1))
    exponent = rows if first_step is None else rows + first_step
    weighted = reward * np.power(float(discount), exponent)
    if mask is not None:
        weighted = np.where(mask, weighted, 0.0)
    return np.flip(np.cumsum(np.flip(weighted, 0), axis=0), 0).astype(np.float32)
