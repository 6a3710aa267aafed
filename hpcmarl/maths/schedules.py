"""Schedules of numbers that change during a run."""

from __future__ import annotations


def falling(start: float, final: float, steps: int, done: int) -> float:
    """Interpolate linearly from `start` to `final`; constant after the last step.

    Args:
        start: Value at step 0.
        final: Value at step `steps` and later.
        steps: Length of the schedule.
        done: Steps made so far.
    """
    return start + (final - start) * min(1.0, done / steps)
