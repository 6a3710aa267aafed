"""Adam as ascent on the aggregated gradient, with warm-up, linear decay and clipping by part.

Source: arXiv 1412.6980.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.config import AdamConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part

# Entries that a step computes together; their intermediate results stay in the cache of a core.
BLOCK = 1 << 14


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
        count = self.updates + 1
        size = self.step_size() / (1.0 - config.beta1**count)
        movement = np.empty_like(self.parameters)
        for start in range(0, gradient.size, BLOCK):
            block = slice(start, start + BLOCK)
            slope, first, second, scratch = (
                array[block] for array in (gradient, self.first, self.second, self._scratch)
            )
            np.multiply(slope, 1.0 - config.beta1, out=scratch)
            first *= config.beta1
            first += scratch
            np.square(slope, out=scratch)
            scratch *= 1.0 - config.beta2
            second *= config.beta2
            second += scratch
            np.divide(second, 1.0 - config.beta2**count, out=scratch)
            np.sqrt(scratch, out=scratch)
            scratch += config.epsilon
            np.multiply(first, size, out=movement[block])
            movement[block] /= scratch
        self._advance(movement)
