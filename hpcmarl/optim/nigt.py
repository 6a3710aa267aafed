"""Normalised momentum with implicit gradient transport: the outer loop of Rennala and Malenia NIGT (arXiv
2509.24305).

    d_0     = g_0                                             first batch
    d_t     = (1 - eta) d_{t-1} + eta g_t                     momentum
    theta_{t+1} = theta_t + alpha d_t / |d_t|                 normalised step
    point_t = theta_t + ((1 - eta) / eta)(theta_t - theta_{t-1})     where g_t is taken (t >= 1)

symbol -> variable: alpha -> step_size, eta -> config.momentum, d -> average [P], theta -> parameters [P],
    point -> query_point() [P].
So |theta_{t+1} - theta_t| = alpha and |point_t - theta_t| = alpha (1 - eta) / eta.

`optimizer.normalise` says which parameters these norms are taken over:
    all      the actors of all policies together: theta of the paper, and the step is along d
    policy   each policy's actor by itself: with K policies the step is alpha sqrt(K) long and not along d
    none     no norm: the step is alpha d (ablation)
The paper has no critic. A critic is always normalised by itself, with critic_step_size for alpha: its
gradient grows with the scale of the rewards, and inside a common norm it would leave the actor less of the
step. A learned entropy cost is normalised by itself, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcmarl.config import NigtConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part


class Nigt(Optimizer):
    """See the module; `extrapolate: false` takes gradients at theta."""

    config: NigtConfig
    state_keys = ("average", "movement")

    def __init__(self, config: NigtConfig, parameters: Array, parts: Sequence[Part] = ()) -> None:
        super().__init__(config, parameters, parts)
        self._normalised = self._groups()
        self.average: Array = np.zeros_like(self.parameters)
        self.movement: Array = np.zeros_like(self.parameters)  # theta_t - theta_{t-1}

    def query_point(self) -> Array:
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
        self.movement = self._critics_scaled(self.config.step_size * self.average)
        for places, size in self._normalised:
            norm = math.hypot(*(float(np.linalg.norm(self.average[place])) for place in places))
            for place in places:
                # a zero momentum has no direction: stay
                self.movement[place] = self.average[place] * (size / norm) if norm > 0 else 0.0
        self.parameters = self.parameters + self.movement

    def _groups(self) -> list[tuple[list[slice], float]]:
        """Slices that share a norm, and the length of their step. Empty where nothing is normalised."""
        if self.config.normalise == "none":
            return []
        apart = [part for part in self.parts if part.kind != "actor"]
        groups = [
            (
                [part.place],
                self.config.step_size_of_critics if part.kind == "critic" else self.config.step_size,
            )
            for part in apart
        ]
        actors = [part.place for part in self.parts if part.kind == "actor"]
        together = [actors] if self.config.normalise == "all" else [[place] for place in actors]
        return [(places, self.config.step_size) for places in together] + groups
