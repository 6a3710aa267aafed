"""What a simulated cluster maximises: J(x) = (1/n) sum_i J_i(x), one J_i a worker. Called by the cluster;
knows no time and no rule.

A new objective is a class here, one line in OBJECTIVES and a section in config/simulation.py.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.config.simulation import NonconvexConfig, QuadraticsConfig, SimulationConfig
from hpcmarl.types import Array, Part

LARGEST_BLOCK = 1 << 20  # numbers in the gradients that are taken together


class Objective(ABC):
    """`size`: number of parameters, P. Vectors are float64. `parts`: what of them is optimised apart
    (optim/base.py)."""

    size: int
    parts: tuple[Part, ...] = ()

    @abstractmethod
    def initial(self) -> Array:
        """The first point, [P]."""

    @abstractmethod
    def gradient(self, worker: int, point: Array, generator: np.random.Generator) -> Array:
        """The ascent direction [P] that one trajectory of `worker` gives at `point` [P]: grad J_i and
        noise."""

    def gradients(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> Array:
        """The same for several trajectories, [number of workers, P]; an objective that can do better than one
        by one overrides it."""
        return np.array([self.gradient(worker, point, generator) for worker in workers])

    def apart(self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> Array:
        """One gradient of each of several workers, which stand at points [P] of their own: [number of
        workers, P]."""
        return np.array(
            [self.gradient(worker, point, generator) for worker, point in zip(workers, points, strict=True)]
        )

    def weighted(
        self, workers: Sequence[int], weights: Array, point: Array, generator: np.random.Generator
    ) -> Array:
        """The sum of what `gradients` gives, each times its weight (weights [number of workers]): [P]."""
        total = np.zeros(self.size)
        rows = max(1, LARGEST_BLOCK // self.size)
        for first in range(0, len(workers), rows):
            total += weights[first : first + rows] @ self.gradients(
                workers[first : first + rows], point, generator
            )
        return total

    @abstractmethod
    def value(self, point: Array) -> float:
        """J at `point` [P], without noise; where that is not known, an estimate from what was sampled since
        it was last asked for, or NaN."""

    @abstractmethod
    def slope(self, point: Array) -> Array:
        """grad J at `point`, [P], without noise; NaN where it is not known."""

    def close(self) -> None:  # noqa: B027  formulas hold nothing open
        """Let go of what was opened. Harmless when called twice."""


class Analytic(Objective):
    """Gradients that are a formula: `slopes` gives grad J_i for many workers, Gaussian noise of `deviation`
    (over all coordinates) is added."""

    deviation: float

    @abstractmethod
    def slopes(self, workers: Sequence[int], point: Array) -> Array:
        """grad J_i at `point` [P] for each of the workers, [number of workers, P], a new array."""

    def gradient(self, worker: int, point: Array, generator: np.random.Generator) -> Array:
        return np.asarray(self.gradients([worker], point, generator)[0])

    def gradients(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> Array:
        vectors = self.slopes(workers, point)
        if self.deviation:
            vectors += generator.standard_normal(vectors.shape) * (self.deviation / math.sqrt(self.size))
        return vectors


class Quadratics(Analytic):
    """J_i(x) = -c/2 |x - o_i|², so grad J_i = c (o_i - x)."""

    def __init__(self, config: QuadraticsConfig, workers: int, generator: np.random.Generator) -> None:
        self.config, self.size, self.deviation = config, config.dimension, config.noise
        own = [config.optima[worker % len(config.optima)] for worker in range(workers)]
        self.optima = np.repeat(np.array(own, np.float64)[:, None], self.size, axis=1)
        self.centre = np.full(self.size, np.mean(own))
        self.variance = float(np.var(own)) * self.size

    def initial(self) -> Array:
        return np.full(self.size, self.config.start, np.float64)

    def slopes(self, workers: Sequence[int], point: Array) -> Array:
        return np.asarray(self.config.curvature * (self.optima[workers] - point))

    def value(self, point: Array) -> float:
        return -0.5 * self.config.curvature * (float(np.sum((point - self.centre) ** 2)) + self.variance)

    def slope(self, point: Array) -> Array:
        return np.asarray(self.config.curvature * (self.centre - point))


class Nonconvex(Analytic):
    """J_i(x) = -sum_k w_k u_k²/(1 + u_k²) with u = R(x - o_i): rotation R [P, P], weights w [P], optima o [n,
    P].

    Each term is convex near its optimum only (|u| < 1/sqrt 3) and nearly flat far away; gradient and Hessian
    are Lipschitz."""

    def __init__(self, config: NonconvexConfig, workers: int, generator: np.random.Generator) -> None:
        self.config, self.size, self.deviation = config, config.dimension, config.noise
        size = self.size
        self.rotation = np.linalg.qr(generator.standard_normal((size, size)))[0]
        self.weights = config.condition ** -(np.arange(size) / max(1, size - 1))
        self.offsets = self._directions(generator, workers) * config.heterogeneity
        self.offsets -= self.offsets.mean(axis=0)
        self.start = self._directions(generator, 1)[0] * config.start
        self.rotated = self.offsets @ self.rotation.T

    def _directions(self, generator: np.random.Generator, count: int) -> Array:
        """Random unit vectors, [count, P]."""
        drawn: Array = generator.standard_normal((count, self.size))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    def initial(self) -> Array:
        return np.array(self.start)

    def slopes(self, workers: Sequence[int], point: Array) -> Array:
        return np.asarray(self._slope_of(self.rotation @ point - self.rotated[workers]) @ self.rotation)

    def _slope_of(self, own: Array) -> Array:
        """d/du of -sum_k w_k u_k²/(1 + u_k²), for one u [P] or many [n, P]."""
        return np.asarray(-2.0 * self.weights * own / (1.0 + own * own) ** 2)

    def value(self, point: Array) -> float:
        own = self.rotation @ point - self.rotated
        return -float(np.mean((own * own / (1.0 + own * own)) @ self.weights))

    def slope(self, point: Array) -> Array:
        return np.asarray(self.slopes(range(len(self.rotated)), point).mean(axis=0))


# name -> the class, or module:name of one that is imported when it is asked for
OBJECTIVES: dict[str, Any] = {
    "quadratics": Quadratics,
    "nonconvex": Nonconvex,
    "policy": "hpcmarl.sim.sampled:Sampled",
}


def make_objective(config: SimulationConfig, generator: np.random.Generator) -> Objective | None:
    """The objective that `objective.name` asks for, drawn from `generator`; None where gradients are only
    counted."""
    chosen: Any = OBJECTIVES.get(config.objective.name)
    if isinstance(chosen, str):
        module, _, name = chosen.partition(":")
        chosen = getattr(importlib.import_module(module), name)
    return None if chosen is None else chosen(config.objective, config.sim.workers, generator)
