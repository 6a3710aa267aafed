"""n-step targets for columns with gaps. Called by algos/q_learning.py; knows no networks and no rollouts.

    R_t = sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n}     cut short where the episode ends: nothing follows a
        termination, and after a truncation V
                                                          is of the last observation, however few rewards come
                                                          before

Time is counted in a column's own decisions: a row in which it does not act adds its reward and discounts
nothing, as in vtrace.py. TD(lambda) targets are a mixture of these: R^lambda = (1 - lambda) sum_n
lambda^(n-1) R^(n), of which lambda 0 is n = 1 and lambda 1 the whole episode. One n looks as far as lambda =
1 - 1/n does on average, but never further than n steps.

Rewards on the way are those of the policy that played: no ratio corrects for it, as in Rainbow (arXiv
1710.02298) and R2D2.

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
    """Compute the targets of the module's docstring, each column on its own.

    Args:
        value: V of each row, shape [T, ...]; read where the column acts.
        bootstrap: V after the last row, shape [...].
        reward: Shape [T, ...].
        acts: Whether the column takes a decision, shape [T, ...].
        terminated: Whether it ends there, shape [T, ...]. A row that is truncated as well counts as
            terminated.
        truncated: Whether it is cut off there, shape [T, ...].
        final_value: V of the last observation, shape [T, ...]; read at truncated rows.
        discount: gamma.
        n_step: n, at least 1.

    Returns:
        R, shape [T, ...], zero in rows in which the column does not act.
    """
    gamma = np.float32(discount)
    targets = np.zeros_like(reward)
    ahead = np.repeat(bootstrap[None], n_step, 0)  # returns of 0 to n - 1 decisions, seen from the row before
    for row in range(len(reward) - 1, -1, -1):
        ahead = np.where(truncated[row], final_value[row], ahead)
        ahead = np.where(terminated[row], np.float32(0.0), ahead)
        longer = reward[row] + gamma * ahead
        targets[row] = np.where(active[row], longer[-1], np.float32(0.0))
        ahead = np.where(active[row], np.concatenate([value[row][None], longer[:-1]]), reward[row] + ahead)
    return targets
