"""Durations of simulated work: the time of a trajectory (h_i) and of a round trip (kappa_i) of worker i.

h_i(t) = mean_i · (1 + drift · sin(2 pi (t / period + i / n))) · noise,   with noise of mean 1
"""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.config.simulation import BYTES_OF_A_PARAMETER, CommunicationConfig
from hpcmarl.types import Array

BLOCK = 4096  # noise is drawn in blocks, because a single draw costs a microsecond


def worker_means(
    config: CommunicationConfig, workers: int, dimension: int, generator: np.random.Generator
) -> Array:
    """Return the mean time of each worker, float64 [n], in the order of the workers."""
    numbers = np.arange(1, workers + 1, dtype=np.float64)
    if config.values is not None:
        means = np.array(config.values, dtype=np.float64)
    else:
        shape = {"constant": np.ones(workers), "sqrt": np.sqrt(numbers), "linear": numbers}
        if config.law == "random":
            shape["random"] = np.exp(
                config.spread * generator.standard_normal(workers) - 0.5 * config.spread**2
            )
        means = config.scale * shape[config.law]
    means *= float(dimension) ** config.dimension_exponent
    if config.bandwidth is not None:
        means += 2 * BYTES_OF_A_PARAMETER * dimension / config.bandwidth
    return means


class Times:
    """Times of all workers.

    Args:
        config: Law, noise and drift.
        workers: Number of workers, n.
        dimension: Number of parameters.
        generator: For random means and noise.

    Attributes:
        fixed: Time of each worker if times are constant, else None.
    """

    def __init__(
        self, config: CommunicationConfig, workers: int, dimension: int, generator: np.random.Generator
    ) -> None:
        self.config = config
        self.generator = generator
        self.means = worker_means(config, workers, dimension, generator)
        varies = config.noise != "none" or config.drift > 0
        self.fixed: list[float] | None = None if varies else self.means.tolist()
        self._means: list[float] = self.means.tolist()
        self._phases = np.arange(workers) / workers
        self._block: list[float] = []

    def draw(self, worker: int, now: float) -> float:
        """Return the duration of work that `worker` begins at time `now`."""
        if self.fixed is not None:
            return self.fixed[worker]
        time = self._means[worker]
        config = self.config
        if config.drift:
            time *= 1.0 + config.drift * math.sin(
                2 * math.pi * (now / config.drift_period + self._phases[worker])
            )
        if config.noise != "none":
            if not self._block:
                self._block = self._noise(BLOCK).tolist()
            time *= self._block.pop()
        return time

    def draw_all(self, now: float) -> list[float]:
        """Return the duration of work of every worker that begins at time `now`."""
        if self.fixed is not None:
            return self.fixed
        times = self.means
        if self.config.drift:
            times = times * (
                1.0 + self.config.drift * np.sin(2 * np.pi * (now / self.config.drift_period + self._phases))
            )
        if self.config.noise != "none":
            times = times * self._noise(len(times))
        listed: list[float] = times.tolist()
        return listed

    def _noise(self, count: int) -> Array:
        """Draw factors with mean 1, [count]."""
        if self.config.noise == "exponential":
            return self.generator.standard_exponential(count)
        spread = self.config.noise_spread
        return np.exp(spread * self.generator.standard_normal(count) - 0.5 * spread**2)
