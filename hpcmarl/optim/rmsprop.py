"""RMSprop as ascent on the aggregated gradient, not centred and without momentum, as in torch and PyMARL.

    square     = decay · square + (1 - decay) · gradient²
    parameters = parameters + step_size · gradient / (√square + epsilon)

Source: Tieleman and Hinton 2012.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.config import RmspropConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part


class Rmsprop(Optimizer):
    """The RMSprop optimizer.

    Attributes:
        square: Running mean of the squared gradient after clipping, [P].
    """

    config: RmspropConfig
    state_keys = ("square",)

    def __init__(self, config: RmspropConfig, parameters: Array, parts: Sequence[Part] = ()) -> None:
        super().__init__(config, parameters, parts)
        self.square: Array = np.zeros_like(self.parameters)

    def _move(self, direction: Array) -> None:
        config = self.config
        gradient = self._clipped(direction)
        scratch = np.square(gradient, out=self._scratch)
        scratch *= 1.0 - config.decay
        self.square *= config.decay
        self.square += scratch
        np.sqrt(self.square, out=scratch)
        scratch += config.epsilon
        movement = config.step_size * gradient
        movement /= scratch
        self._advance(movement)
