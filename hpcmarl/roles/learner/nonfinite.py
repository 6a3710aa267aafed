"""Filter that keeps non-finite gradients from the server."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from hpcmarl.config import Config
from hpcmarl.maths.finite import all_finite
from hpcmarl.types import FloatArray

logger = logging.getLogger(__name__)
BAD_IN_A_ROW = 100  # consecutive non-finite gradients at which the run stops despite faults.on_nan: skip


class NonFiniteGradientFilter:
    """Reject gradients that contain NaN or infinity before they reach the server.

    Attributes:
        skip: Whether a rejected gradient is left out; otherwise it stops the run.
        refused: Gradients rejected since the learner last reset the counter.
    """

    def __init__(self, config: Config) -> None:
        # A deterministic run may not leave a gradient out: its results would no longer be reproducible.
        self.skip = config.faults.on_nan == "skip" and not config.deterministic
        self.refused = 0
        self._in_a_row = 0

    def accepts(self, vector: FloatArray, actor_ranks: Iterable[int], version: int) -> bool:
        """Check one gradient.

        Args:
            vector: Ascent direction, shape [P].
            actor_ranks: Ranks that sampled the rollouts, for the message.
            version: Version of the parameters at which the gradient was taken.

        Returns:
            True if every entry is finite; False if the gradient is to be left out (`faults.on_nan: skip`).

        Raises:
            FloatingPointError: The gradient is not finite and may not be left out, or it is the
                BAD_IN_A_ROW-th such gradient in a row.
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
                f"{problem}; lower optimizer.step_size, set optimizer.max_gradient_norm, or set "
                "faults.on_nan: skip to leave such gradients out"
            )
        if self._in_a_row == BAD_IN_A_ROW:
            raise FloatingPointError(
                f"{problem}, the {BAD_IN_A_ROW}th in a row; lower optimizer.step_size or set "
                "optimizer.max_gradient_norm"
            )
        logger.warning("%s; it is left out", problem)
        return False
