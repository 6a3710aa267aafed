"""Gradient ascent with heavy-ball momentum.

velocity   = momentum · velocity + gradient
parameters = parameters + step_size · velocity
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.config import SgdConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part


class Sgd(Optimizer):
    """Gradient ascent with momentum.

    Attributes:
        velocity: Sum of past gradients, decayed by momentum, [P]; with momentum 0 it is the gradient.
    """

    config: SgdConfig
    state_keys = ("velocity",)

    def __init__(self, config: SgdConfig, parameters: Array, parts: Sequence[Part] = ()) -> None:
        super().__init__(config, parameters, parts)
        self.velocity: Array = np.zeros_like(self.parameters)

    def _move(self, direction: Array) -> None:
        self.velocity *= self.config.momentum
        self.velocity += self._clipped(direction)
        self._advance(self.config.step_size * self.velocity)
