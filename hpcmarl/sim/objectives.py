"""Objectives of a simulated cluster: maximise J(x) = (1/n) sum_i J_i(x), with one J_i per worker.

A new objective needs a class here, a line in OBJECTIVES and a section in config/simulation.py.
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

LARGEST_BLOCK = 1 << 20  # upper limit for the number of gradient entries computed together


class Objective(ABC):
    """Base class of objectives. All vectors are float64.

    Attributes:
        size: Number of parameters, P.
        parts: Slices of the vector that are optimised separately (optim/base.py).
    """

    size: int
    parts: tuple[Part, ...] = ()

    @abstractmethod
    def initial(self) -> Array:
        """Return the first point, [P]."""

    @abstractmethod
    def gradient(self, worker: int, point: Array, generator: np.random.Generator) -> Array:
        """Return the ascent direction of one trajectory: grad J_i plus noise.

        Args:
            worker: Worker i that plays the trajectory.
            point: Parameters, [P].
            generator: For actions and noise.

        Returns:
            The ascent direction, [P].
        """

    def gradients(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> Array:
        """Return the ascent directions of several trajectories at one point, [number of workers, P].

        Subclasses override this method if they can compute many gradients faster than one by one.
        """
        return np.array([self.gradient(worker, point, generator) for worker in workers])

    def apart(self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> Array:
        """Return one ascent direction per worker, each at the worker's own point, [number of workers, P]."""
        return np.array(
            [self.gradient(worker, point, generator) for worker, point in zip(workers, points, strict=True)]
        )

    def weighted(
        self, workers: Sequence[int], weights: Array, point: Array, generator: np.random.Generator
    ) -> Array:
        """Return the weighted sum of the ascent directions at one point.

        Args:
            workers: Worker of each trajectory.
            weights: Weight of each trajectory, [number of workers].
            point: Parameters, [P].
            generator: For actions and noise.

        Returns:
            The sum, [P].
        """
        total = np.zeros(self.size)
        rows = max(1, LARGEST_BLOCK // self.size)
        for first in range(0, len(workers), rows):
            total += weights[first : first + rows] @ self.gradients(
                workers[first : first + rows], point, generator
            )
        return total

    @abstractmethod
    def value(self, point: Array) -> float:
        """Return J at `point` [P] without noise.

        If J is not known exactly, return an estimate from the samples since the previous call, or NaN.
        """

    @abstractmethod
    def slope(self, point: Array) -> Array:
        """Return grad J at `point`, [P], without noise; NaN if it is not known."""

    def close(self) -> None:  # noqa: B027  analytic objectives have nothing to close
        """Close open resources, such as environments. Repeated calls have no effect."""


class Analytic(Objective):
    """Objective whose gradients are a formula with Gaussian noise.

    Attributes:
        deviation: Standard deviation of a gradient, over all coordinates together.
    """

    deviation: float

    @abstractmethod
    def slopes(self, workers: Sequence[int], point: Array) -> Array:
        """Return grad J_i at `point` [P] for each of the workers, as a new array [number of workers, P]."""

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
    """J_i(x) = -sum_k w_k u_k²/(1 + u_k²) with u = R(x - o_i).

    R is a rotation [P, P], w are weights [P], and o are the optima of the workers [n, P]. Each term is convex
    only near its optimum (|u_k| < 1/sqrt 3) and nearly flat far away. Gradient and Hessian are Lipschitz.
    """

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
        """Draw random unit vectors, [count, P]."""
        drawn: Array = generator.standard_normal((count, self.size))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    def initial(self) -> Array:
        return np.array(self.start)

    def slopes(self, workers: Sequence[int], point: Array) -> Array:
        return np.asarray(self._slope_of(self.rotation @ point - self.rotated[workers]) @ self.rotation)

    def _slope_of(self, own: Array) -> Array:
        """Return d/du of -sum_k w_k u_k²/(1 + u_k²), for one u [P] or many [n, P]."""
        return np.asarray(-2.0 * self.weights * own / (1.0 + own * own) ** 2)

    def value(self, point: Array) -> float:
        own = self.rotation @ point - self.rotated
        return -float(np.mean((own * own / (1.0 + own * own)) @ self.weights))

    def slope(self, point: Array) -> Array:
        return np.asarray(self.slopes(range(len(self.rotated)), point).mean(axis=0))


# name -> class, or "module:class" if the module is imported on first use
OBJECTIVES: dict[str, Any] = {
    "quadratics": Quadratics,
    "nonconvex": Nonconvex,
    "policy": "hpcmarl.sim.sampled:Sampled",
}


def make_objective(config: SimulationConfig, generator: np.random.Generator) -> Objective | None:
    """Make the objective that `objective.name` selects.

    Args:
        config: Configuration of the simulation.
        generator: For the random parts of the objective.

    Returns:
        The objective; None if gradients are only counted (`objective.name: none`).
    """
    chosen: Any = OBJECTIVES.get(config.objective.name)
    if isinstance(chosen, str):
        module, _, name = chosen.partition(":")
        chosen = getattr(importlib.import_module(module), name)
    return None if chosen is None else chosen(config.objective, config.sim.workers, generator)
