"""How a number changes in the course of a run. Pure functions; knows no algorithm."""

from __future__ import annotations


def falling(start: float, final: float, steps: int, done: int) -> float:
    """Linearly from `start` to `final` over `steps` steps, of which `done` are behind; constant
    afterwards."""
    return start + (final - start) * min(1.0, done / steps)
