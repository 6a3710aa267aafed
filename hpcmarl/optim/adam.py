"""Adam as ascent on the aggregated gradient, with warm-up, linear decay and clipping by part.

Source: arXiv 1412.6980.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.config import AdamConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part


class Adam(Optimizer):
    """The Adam optimizer.

    Attributes:
        first: Running mean of the gradient, [P].
        second: Running mean of the squared gradient, [P].
    """

    config: AdamConfig
    state_keys = ("first", "second")

    def __init__(self, config: AdamConfig, parameters: Array, parts: Sequence[Part] = ()) -> None:
        super().__init__(config, parameters, parts)
        self.first: Array = np.zeros_like(self.parameters)
        self.second: Array = np.zeros_like(self.parameters)

    def step_size(self) -> float:
        """Return the step size of the coming update.

        It rises linearly over warmup_updates, then falls linearly over decay_updates to final_fraction of its
        value. The step size of critics changes in proportion.
        """
        config = self.config
        size: float = config.step_size
        if self.updates < config.warmup_updates:
            return size * ((self.updates + 1) / (config.warmup_updates + 1))
        if config.decay_updates:
            done = min(1.0, (self.updates - config.warmup_updates) / config.decay_updates)
            size *= 1.0 - done * (1.0 - config.final_fraction)
        return size

    def _move(self, direction: Array) -> None:
        config = self.config
        gradient = self._clipped(direction)
        scratch = np.multiply(gradient, 1.0 - config.beta1, out=self._scratch)
        self.first *= config.beta1
        self.first += scratch
        np.square(gradient, out=scratch)
        scratch *= 1.0 - config.beta2
        self.second *= config.beta2
        self.second += scratch
        count = self.updates + 1
        np.divide(self.second, 1.0 - config.beta2**count, out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += config.epsilon
        movement = self.step_size() / (1.0 - config.beta1**count) * self.first
        movement /= scratch
        self._advance(movement)
