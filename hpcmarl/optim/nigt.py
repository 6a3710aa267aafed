"""Normalised momentum with implicit gradient transport: the outer loop of Rennala and Malenia NIGT (arXiv 2509.24305).

    d_0     = g_0                                             first batch
    d_t     = (1 - eta) d_{t-1} + eta g_t                     momentum
    theta_{t+1} = theta_t + alpha d_t / |d_t|                 normalised step
    point_t = theta_t + ((1 - eta) / eta)(theta_t - theta_{t-1})     where g_t is taken (t >= 1)

symbol -> variable: alpha -> step_size, eta -> config.momentum, d -> average [P], theta -> parameters [P], point -> point() [P].
So |point_t - theta_t| = alpha (1 - eta) / eta exactly, in every segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.config import NigtConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array


class Nigt(Optimizer):
    """See the module; `extrapolate: false` takes gradients at theta, `normalise: false` steps by alpha d."""

    config: NigtConfig

    def __init__(self, config: NigtConfig, parameters: Array, segments: Sequence[slice] = ()) -> None:
        super().__init__(config, parameters, segments)
        self.average: Array = np.zeros_like(self.parameters)
        self.movement: Array = np.zeros_like(self.parameters)  # theta_t - theta_{t-1}

    def point(self) -> Array:
        if not self.config.extrapolate or self.updates == 0:
            return self.parameters
        ahead = (1.0 - self.config.momentum) / self.config.momentum
        return np.asarray(self.parameters + ahead * self.movement, dtype=self.parameters.dtype)

    def _move(self, direction: Array) -> None:
        if self.updates == 0:
            self.average = direction.copy()
        else:
            self.average *= 1.0 - self.config.momentum
            self.average += self.config.momentum * direction
        self.movement = self.config.step_size * self.average
        if self.config.normalise:
            for segment in self.segments:
                norm = float(np.linalg.norm(self.average[segment]))
                # a zero momentum has no direction: stay
                self.movement[segment] = self.average[segment] * (self.config.step_size / norm) if norm > 0 else 0.0
        self.parameters = self.parameters + self.movement

    def _remembered(self) -> tuple[Array, ...]:
        return self.average, self.movement

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "average": self.average.copy(), "movement": self.movement.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.average = np.array(state["average"], dtype=self.parameters.dtype)
        self.movement = np.array(state["movement"], dtype=self.parameters.dtype)
