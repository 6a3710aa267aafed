"""Whether all numbers of a vector are finite. Called for every gradient and every step; knows neither."""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.types import Array


def all_finite(vector: Array) -> bool:
    """Return whether no number of a vector [P] is infinite or NaN. The sum of squares says yes at once; only
    where it does not, all are looked at."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(vector, vector)
    return math.isfinite(squares) or bool(np.isfinite(vector).all())
