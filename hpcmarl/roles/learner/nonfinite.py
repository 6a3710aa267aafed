"""Keeps gradients that are not finite from being sent. Called by the learner; knows no queue and no
message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from hpcmarl.config import Config
from hpcmarl.maths.finite import all_finite
from hpcmarl.types import FloatArray

logger = logging.getLogger(__name__)
BAD_IN_A_ROW = 100  # gradients that are not finite, until even faults.on_nan: skip gives up


class NonFiniteGradientFilter:
    """`refused` counts since the learner last set it to 0."""

    def __init__(self, config: Config) -> None:
        # a deterministic run may leave nothing out: the next one would be another run
        self.skip = config.faults.on_nan == "skip" and not config.deterministic
        self.refused = 0
        self._in_a_row = 0

    def accepts(self, vector: FloatArray, actor_ranks: Iterable[int], version: int) -> bool:
        """Whether a gradient [P] of rollouts from these ranks is finite. Raises FloatingPointError where such
        gradients are not left out.
        """
        if all_finite(vector):
            self._in_a_row = 0
            return True
        bad = int(np.flatnonzero(~np.isfinite(vector))[0])
        ranks = ", ".join(map(str, sorted(set(actor_ranks))))
        problem = (
            f"the gradient of rollouts from rank {ranks} at version {version} is not finite (parameter "
            f"{bad} is {vector[bad]})"
        )
        self.refused += 1
        self._in_a_row += 1
        if not self.skip:
            raise FloatingPointError(
                f"{problem}; lower optimizer.step_size or set optimizer.max_gradient_norm; faults.on_nan: "
                "skip "
                "leaves it out"
            )
        if self._in_a_row == BAD_IN_A_ROW:
            raise FloatingPointError(
                f"{problem}, the {BAD_IN_A_ROW}th in a row; lower optimizer.step_size or set "
                "optimizer.max_gradient_norm"
            )
        logger.warning("%s; left out", problem)
        return False
