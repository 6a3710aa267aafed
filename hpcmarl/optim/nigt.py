"""Normalised momentum with implicit gradient transport: the outer loop of Rennala and Malenia NIGT.

    d_0         = g_0                                                first batch
    d_t         = (1 - eta) d_{t-1} + eta g_t                        momentum
    theta_{t+1} = theta_t + alpha d_t / |d_t|                        normalised step
    point_t     = theta_t + ((1 - eta) / eta)(theta_t - theta_{t-1}) g_t is taken here (t >= 1)

    symbol -> variable: alpha -> step_size, eta -> config.momentum, d -> average [P],
        theta -> parameters [P], point -> query_point() [P]

Hence |theta_{t+1} - theta_t| = alpha and |point_t - theta_t| = alpha (1 - eta) / eta.

`optimizer.normalise` selects the parameters over which these norms are taken:

    all      the actors of all policies together: theta of the paper, and the step is along d
    policy   each policy's actor separately: with K policies the step has length alpha sqrt(K) and is not
             along d
    none     no norm: the step is alpha d (ablation)

The paper has no critic. With `all` and `policy` a critic is normalised separately, with critic_step_size for
alpha. Its gradient grows with the scale of the rewards, so that in a common norm it would reduce the actor's
part of the step. A learned entropy cost is normalised separately as well.

Source: arXiv 2509.24305.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcmarl.config import NigtConfig
from hpcmarl.optim.base import Optimizer
from hpcmarl.types import Array, Part


class Nigt(Optimizer):
    """Normalised momentum with implicit gradient transport (see the module docstring).

    With `extrapolate: false`, gradients are taken at theta.

    Attributes:
        average: Momentum d, [P].
        movement: theta_t - theta_{t-1}, [P].
    """

    config: NigtConfig
    state_keys = ("average", "movement")

    def __init__(self, config: NigtConfig, parameters: Array, parts: Sequence[Part] = ()) -> None:
        super().__init__(config, parameters, parts)
        self._normalised = self._groups()
        self.average: Array = np.zeros_like(self.parameters)
        self.movement: Array = np.zeros_like(self.parameters)

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
                # A zero momentum has no direction, so the parameters do not move.
                self.movement[place] = self.average[place] * (size / norm) if norm > 0 else 0.0
        self.parameters = self.parameters + self.movement

    def _groups(self) -> list[tuple[list[slice], float]]:
        """Return the slices that share a norm, each list with the length of its step; empty without norms."""
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
