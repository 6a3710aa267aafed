"""V-trace with gaps, written as its recursion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Column:
    """Arguments of maths.vtrace.vtrace, [steps, columns] each; the bootstrap has shape [columns]."""

    log_ratio: np.ndarray
    value: np.ndarray
    bootstrap: np.ndarray
    reward: np.ndarray
    active: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_value: np.ndarray

    def arguments(self) -> tuple[np.ndarray, ...]:
        """Return all arrays in the order of the arguments of `vtrace`."""
        return tuple(vars(self).values())


def random_columns(
    seed: int, steps: int, columns: int, *, acting: float = 0.7, ends: float = 0.2, ratio: float = 0.7
) -> Column:
    """Draw random columns.

    Args:
        seed: Seed of the generator.
        steps: Number of rows.
        columns: Number of columns.
        acting: Share of rows with a decision.
        ends: Share of rows that end an episode.
        ratio: Standard deviation of the log-ratios.
    """
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    shape = (steps, columns)
    return Column(
        ratio * normal(*shape), normal(*shape), normal(columns), normal(*shape),
        generator.random(shape) < acting, generator.random(shape) < ends / 2,
        generator.random(shape) < ends / 2, normal(*shape),
    )  # fmt: skip


def slow_vtrace(
    data: Column, column: int, gamma: float, lam: float, rho_max: float, c_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute targets and advantages of one column, [steps] each.

    The recursion asks at each row for value and target of the following row.
    """
    steps = len(data.value)
    targets, advantages = np.zeros(steps), np.zeros(steps)

    def after(t: int) -> tuple[float, float]:
        if data.terminated[t, column]:
            return 0.0, 0.0
        if data.truncated[t, column]:
            return float(data.final_value[t, column]), float(data.final_value[t, column])
        return (float(data.bootstrap[column]),) * 2 if t == steps - 1 else row(t + 1)

    def row(t: int) -> tuple[float, float]:
        next_value, next_target = after(t)
        reward, value = float(data.reward[t, column]), float(data.value[t, column])
        if not data.active[t, column]:
            return next_value + reward, next_target + reward
        w = float(np.exp(np.float64(data.log_ratio[t, column])))
        rho, c = min(rho_max, w), lam * min(c_max, w)
        target = value + rho * (reward + gamma * next_value - value) + gamma * c * (next_target - next_value)
        targets[t], advantages[t] = target, rho * (reward + gamma * next_target - value)
        return value, target

    for t in range(steps):
        row(t)
    return targets, advantages
