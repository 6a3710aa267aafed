"""n-step targets for columns with gaps.

    R_t = sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n}

The sum is cut short at the end of the episode. Nothing follows a termination. After a truncation V is the
value of the last observation, however few rewards come before it.

Time is counted in the decisions of a column. A row in which the column does not act adds its reward and
discounts nothing, as in vtrace.py. TD(lambda) targets are a mixture of these targets:

    R^lambda = (1 - lambda) sum_n lambda^(n-1) R^(n)

So lambda = 0 is n = 1, and lambda = 1 is the whole episode. With lambda = 1 - 1/n a TD(lambda) target looks n
steps ahead on average; an n-step target never looks further than n steps.

The rewards in the sum come from the policy that acted. No importance ratio corrects for that, as in Rainbow
(arXiv 1710.02298) and R2D2.

    symbol -> argument: n n_step   V value   V_T bootstrap   V^f final_value
"""

from __future__ import annotations

import numpy as np

from hpcmarl.types import BoolArray, FloatArray


def n_step_targets(
    value: FloatArray,
    bootstrap: FloatArray,
    reward: FloatArray,
    active: BoolArray,
    terminated: BoolArray,
    truncated: BoolArray,
    final_value: FloatArray,
    *,
    discount: float,
    n_step: int,
) -> FloatArray:
    """Compute the n-step targets of each column (see the docstring of the module).

    Args:
        value: V of each row, shape [T, ...]; read in rows in which the column acts.
        bootstrap: V after the last row, shape [...].
        reward: Shape [T, ...].
        active: Whether the column makes a decision, shape [T, ...].
        terminated: Whether the episode terminated in the row, shape [T, ...]. A row that is truncated as well
            counts as terminated.
        truncated: Whether the episode was truncated in the row, shape [T, ...].
        final_value: V of the last observation, shape [T, ...]; read in truncated rows.
        discount: gamma.
        n_step: n, at least 1.

    Returns:
        R, shape [T, ...]; zero in rows in which the column does not act.
    """
    gamma = np.float32(discount)
    targets = np.zeros_like(reward)
    # Returns over 0 to n - 1 decisions, seen from the row before.
    ahead = np.repeat(bootstrap[None], n_step, 0)
    for row in range(len(reward) - 1, -1, -1):
        ahead = np.where(truncated[row], final_value[row], ahead)
        ahead = np.where(terminated[row], np.float32(0.0), ahead)
        longer = reward[row] + gamma * ahead
        targets[row] = np.where(active[row], longer[-1], np.float32(0.0))
        ahead = np.where(active[row], np.concatenate([value[row][None], longer[:-1]]), reward[row] + ahead)
    return targets
