"""A fast test for non-finite numbers."""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.types import Array


def all_finite(vector: Array) -> bool:
    """Return whether a vector holds neither NaN nor infinity.

    A finite sum of squares proves it at once. Otherwise the sum may have overflowed, so every entry is
    tested.

    Args:
        vector: Shape [P].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(vector, vector)
    return math.isfinite(squares) or bool(np.isfinite(vector).all())
