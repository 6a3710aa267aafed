"""V-trace targets and advantages for columns with gaps. Called by algos/; knows no networks and no rollouts.

    row after a row: V', v' = 0, 0          where the row terminated
                              V^f, V^f      where it was truncated (V^f: the value of the episode's last
                                  observation)
                              the carry     otherwise (after the last row: V_T, V_T)
    row that acts:   rho = min(rho_max, w)   c = lambda min(c_max, w)   delta = rho (r + gamma V' - V)
                     v = V + delta + gamma c (v' - V')    advantage = rho (r + gamma v' - V)    carry: V, v
    gap row:         carry: V' + r, v' + r   (time is counted in own decisions: a gap discounts nothing)

Source: V-trace, arXiv 1802.01561 eq. 1; lambda and the joint ratio as in MA-Trace, arXiv 2111.11229. Gaps are
our extension for agents that do not act in every row of a turn-based game. Where all act at once a team's
column has no gaps inside an episode: its rows after a death count as acting (algos/batch.game_rows).

    symbol -> argument: w exp(log_ratio)   V value   V_T bootstrap   V^f final_value   rho_max, c_max, lambda
        the same
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpcmarl.types import BoolArray, FloatArray

# exp() of more would overflow float32; every sensible clip is far below.
LARGEST_LOG_RATIO = np.float32(60.0)
SMALLEST = np.float32(1e-8)  # instead of nothing in a denominator


@dataclass(frozen=True)
class VTrace:
    """targets, advantages and rho [T, ...] float32, zero in gap rows; mean clipped rho and c over the rows
    that act."""

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
    """The recursion of the module's docstring, each column on its own.

    log_ratio, value, reward, final_value [T, ...] float32; bootstrap [...] float32; acts, terminated,
    truncated [T, ...] bool. A row that is both terminated and truncated counts as terminated. final_value is
    read at truncated rows only, value at acting rows only; both must be finite everywhere.
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
    """Return the targets [T, ...] alone, to the bit those of `vtrace` where all ratios are 1: TD(lambda)'s.
    Arguments as there."""
    columns = _Columns(value, bootstrap, reward, active, terminated, truncated, final_value)
    return columns.targets(
        active.astype(np.float32), np.asarray(trace_lambda, np.float32), np.asarray(discount, np.float32)
    )[2]


@dataclass
class _Columns:
    """The columns of a recursion, [T, ...] each, as in `vtrace`; bootstrap [...]."""

    value: FloatArray
    bootstrap: FloatArray
    reward: FloatArray
    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray
    final_value: FloatArray

    @cached_property
    def cut(self) -> BoolArray:
        """Rows that end, either way."""
        return self.terminated | self.truncated

    def targets(
        self, rho: FloatArray, trace: FloatArray, gamma: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return delta, v - V (in gap rows that of the next decision) and the targets v (0 in gap rows), [T,
        ...] each, for rho [T, ...] and c."""
        final = np.where(self.terminated, np.float32(0.0), self.final_value)
        after = _values_after(self.value, self.bootstrap, self.reward, self.active, self.cut, final)
        delta = np.asarray(rho * (self.reward + gamma * after - self.value), np.float32)
        # The difference v - V obeys a linear recursion: difference_t = delta_t + pass_t * difference_{t+1},
        # where gaps pass all on.
        passed = np.where(self.active, gamma * trace, np.float32(1.0)) * ~self.cut
        difference = linear_recursion(delta, passed, np.zeros_like(self.bootstrap))
        return delta, difference, np.where(self.active, self.value + difference, np.float32(0.0))


def normalised_advantages(advantages: FloatArray, rho: FloatArray) -> FloatArray:
    """Advantages A = rho x [n] of any rows, as rho (x - b) in units of its standard deviation, with b =
    sum(rho x) / sum(rho).

    The baseline b is the mean of x under the policy that is learned, as far as the ratios rho [n] (float32,
    not negative) tell: without it a critic that lags behind a policy that gets worse finds fault with all
    that was done, and drives the policy to what was not.
    """
    if not advantages.size:
        return advantages
    # the differences may be small beside the numbers
    exact, weights = (
        advantages.astype(np.float64),
        rho.astype(np.float64),
    )
    centred = exact - weights * (exact.sum() / max(weights.sum(), SMALLEST))
    return np.asarray(centred / (centred.std() + SMALLEST), np.float32)


def linear_recursion(offset: FloatArray, factor: FloatArray, last: FloatArray) -> FloatArray:
    """x_t = offset_t + factor_t * x_{t+1}, backwards from x_T = last [...]; offset, factor and the result are
    [T, ...] float32."""
    result = np.empty_like(offset)
    after = last
    # quicker than by number
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
    """V' of every row: the value seen at the column's next decision, plus the rewards of the gap rows before
    it."""
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
