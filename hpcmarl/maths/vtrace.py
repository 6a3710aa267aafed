"""V-trace targets and advantages for columns with gaps.

The recursion runs backwards over the rows of a column:

    row after a row:  V', v' = 0, 0       if the row terminated
                               V^f, V^f   if it was truncated (V^f: value of the last observation)
                               the carry  otherwise (after the last row: V_T, V_T)
    row that acts:    rho = min(rho_max, w)   c = lambda min(c_max, w)   delta = rho (r + gamma V' - V)
                      v = V + delta + gamma c (v' - V')    advantage = rho (r + gamma v' - V)    carry: V, v
    gap row:          carry: V' + r, v' + r   (time is counted in own decisions: a gap discounts nothing)

Sources: V-trace, arXiv 1802.01561 eq. 1; lambda and the joint ratio as in MA-Trace, arXiv 2111.11229. Gaps
are an extension of hpcmarl, for agents that do not act in every row of a turn-based game. If all agents act
at once, the column of a team has no gaps inside an episode: its rows after a death count as acting
(algos/batch.game_rows).

    symbol -> argument: w exp(log_ratio)   V value   V_T bootstrap   V^f final_value
                        rho_max, c_max, lambda (trace_lambda) as named
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpcmarl.types import BoolArray, FloatArray

# exp() of a larger number could overflow float32. Every sensible clip is far below.
LARGEST_LOG_RATIO = np.float32(60.0)
SMALLEST = np.float32(1e-8)  # keeps denominators above zero


@dataclass(frozen=True)
class VTrace:
    """Result of `vtrace`.

    Attributes:
        targets: v, shape [T, ...] float32; zero in gap rows.
        advantages: Shape [T, ...] float32; zero in gap rows.
        rho: Clipped ratios, shape [T, ...] float32; zero in gap rows.
        mean_rho: Mean of rho over the rows that act.
        mean_c: Mean of c over the rows that act.
    """

    targets: FloatArray
    advantages: FloatArray
    rho: FloatArray
    mean_rho: float
    mean_c: float


def vtrace(
    log_ratio: FloatArray,
    value: FloatArray,
    bootstrap: FloatArray,
    reward: FloatArray,
    active: BoolArray,
    terminated: BoolArray,
    truncated: BoolArray,
    final_value: FloatArray,
    *,
    discount: float,
    trace_lambda: float = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
) -> VTrace:
    """Compute V-trace targets and advantages of each column (see the docstring of the module).

    Args:
        log_ratio: Logarithms of the importance ratios w, shape [T, ...] float32.
        value: V of each row, shape [T, ...] float32; read in acting rows only, but finite everywhere.
        bootstrap: V after the last row, shape [...] float32.
        reward: Shape [T, ...] float32.
        active: Whether the column acts, shape [T, ...] bool.
        terminated: Whether the episode terminated in the row, shape [T, ...] bool. A row that is truncated as
            well counts as terminated.
        truncated: Whether the episode was truncated in the row, shape [T, ...] bool.
        final_value: V of the last observation, shape [T, ...] float32; read in truncated rows only, but
            finite everywhere.
        discount: gamma.
        trace_lambda: lambda.
        rho_max: Clip of the ratios in rho.
        c_max: Clip of the ratios in c.

    Returns:
        Targets, advantages and ratios.
    """
    ratio = np.exp(np.minimum(log_ratio, LARGEST_LOG_RATIO))
    rho: FloatArray = np.minimum(ratio, np.float32(rho_max)) * active
    trace = np.minimum(ratio, np.float32(c_max)) * np.float32(trace_lambda)
    columns = _Columns(value, bootstrap, reward, active, terminated, truncated, final_value)
    gamma: FloatArray = np.asarray(discount, np.float32)
    delta, difference, targets = columns.targets(rho, trace, gamma)
    difference_after = np.concatenate([difference[1:], np.zeros_like(difference[:1])]) * ~columns.cut
    advantages: FloatArray = delta + rho * (gamma * difference_after)
    count = max(int(np.count_nonzero(active)), 1)
    return VTrace(targets, advantages, rho, float(rho.sum()) / count, float((trace * active).sum()) / count)


def trace_targets(
    value: FloatArray,
    bootstrap: FloatArray,
    reward: FloatArray,
    active: BoolArray,
    terminated: BoolArray,
    truncated: BoolArray,
    final_value: FloatArray,
    *,
    discount: float,
    trace_lambda: float,
) -> FloatArray:
    """Return the TD(lambda) targets, shape [T, ...].

    They are bit for bit the targets of `vtrace` with all ratios 1. The arguments are those of `vtrace`.
    """
    columns = _Columns(value, bootstrap, reward, active, terminated, truncated, final_value)
    return columns.targets(
        active.astype(np.float32), np.asarray(trace_lambda, np.float32), np.asarray(discount, np.float32)
    )[2]


@dataclass
class _Columns:
    """Inputs of the recursion, shape [T, ...] each, as in `vtrace`; bootstrap [...]."""

    value: FloatArray
    bootstrap: FloatArray
    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray
    final_value: FloatArray

    @cached_property
    def cut(self) -> BoolArray:
        """Rows in which the episode terminated or was truncated."""
        return self.terminated | self.truncated

    def targets(
        self, rho: FloatArray, trace: FloatArray, gamma: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return delta, v - V and the targets v, shape [T, ...] each.

        In gap rows v - V is that of the next decision, and v is 0.

        Args:
            rho: Clipped ratios, shape [T, ...].
            trace: c, shape [T, ...].
            gamma: Discount.
        """
        final = np.where(self.terminated, np.float32(0.0), self.final_value)
        after = _values_after(self.value, self.bootstrap, self.reward, self.active, self.cut, final)
        delta = np.asarray(rho * (self.reward + gamma * after - self.value), np.float32)
        # The difference v - V obeys a linear recursion: difference_t = delta_t + pass_t * difference_{t+1}.
        # In gap rows pass_t is 1, unless the episode ends there.
        passed = np.where(self.active, gamma * trace, np.float32(1.0)) * ~self.cut
        difference = linear_recursion(delta, passed, np.zeros_like(self.bootstrap))
        return delta, difference, np.where(self.active, self.value + difference, np.float32(0.0))


def normalised_advantages(advantages: FloatArray, rho: FloatArray) -> FloatArray:
    """Centre advantages on a weighted mean and divide them by their standard deviation.

    With advantages A = rho x the result is rho (x - b) in units of its standard deviation, where

        b = sum(rho x) / sum(rho)

    The baseline b estimates, by the ratios rho, the mean of x under the policy that is trained. Without it, a
    critic that lags behind a deteriorating policy gives negative advantages to all actions that were taken.
    That would drive the policy towards actions that were not taken.

    Args:
        advantages: A, shape [n] float32, of any rows.
        rho: Clipped ratios, shape [n] float32, not negative.

    Returns:
        Normalised advantages, shape [n] float32.
    """
    if not advantages.size:
        return advantages
    # Double precision, because the differences may be much smaller than the numbers.
    exact, weights = (
        advantages.astype(np.float64),
        rho.astype(np.float64),
    )
    centred = exact - weights * (exact.sum() / max(weights.sum(), SMALLEST))
    return np.asarray(centred / (centred.std() + SMALLEST), np.float32)


def linear_recursion(offset: FloatArray, factor: FloatArray, last: FloatArray) -> FloatArray:
    """Solve x_t = offset_t + factor_t * x_{t+1}, backwards from x_T = last.

    Args:
        offset: Shape [T, ...] float32.
        factor: Shape [T, ...] float32.
        last: Shape [...] float32.

    Returns:
        x, shape [T, ...] float32.
    """
    result = np.empty_like(offset)
    after = last
    # Iterating over the rows is faster than indexing them.
    for row, own, share in zip(result[::-1], offset[::-1], factor[::-1], strict=True):
        after = np.add(np.multiply(share, after, out=row), own, out=row)
    return result


def _values_after(
    value: FloatArray,
    bootstrap: FloatArray,
    reward: FloatArray,
    active: BoolArray,
    cut: BoolArray,
    cut_value: FloatArray,
) -> FloatArray:
    """Return V' of every row.

    This is the value at the next decision of the column, plus the rewards of the gap rows before it.
    """
    if active.all():
        seen = value
    else:
        gap_cut = ~active & cut
        seen = linear_recursion(
            np.where(active, value, reward + np.where(gap_cut, cut_value, np.float32(0.0))),
            (~active & ~cut).astype(np.float32),
            bootstrap,
        )
    following = np.concatenate([seen[1:], bootstrap[None]])
    return np.where(cut, cut_value, following)
