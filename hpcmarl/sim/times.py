"""How long a worker takes for a trajectory (h_i), or a message for its round trip (kappa_i). Called by the
cluster.

h_i(t) = mean_i · (1 + drift · sin(2 pi (t / period + i / n))) · noise, with noise of mean 1. Knows no event
and no rule.
"""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.config.simulation import BYTES_OF_A_PARAMETER, CommunicationConfig
from hpcmarl.types import Array

BLOCK = 4096  # noise is drawn in blocks: one number at a time costs a microsecond


def worker_means(
    config: CommunicationConfig, workers: int, dimension: int, generator: np.random.Generator
) -> Array:
    """The mean time of each worker, [n] float64, in the order of the workers."""
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
    """`fixed`: each worker's time where it never varies, else None; `draw` gives the time of what begins
    now."""

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
        """The time of what `worker` begins at `now`."""
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
        """The times of what all workers begin at `now`."""
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
        """Factors of mean 1, [count]."""
        if self.config.noise == "exponential":
            return self.generator.standard_exponential(count)
        spread = self.config.noise_spread
        return np.exp(spread * self.generator.standard_normal(count) - 0.5 * spread**2)
