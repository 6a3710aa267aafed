"""Initial values of parameters, drawn with numpy from the seed of the run.

    fan_in     inputs of one output; those of a convolution include its kernel
    fan_out    outputs of one input, in the same way
    gain       factor of the weights: sqrt(2) before ReLU, 5/3 before tanh, or that of a last layer

Distributions (algo.network.initialisation):

- orthogonal: the rows or columns of a matrix are orthogonal, and their length is the gain (arXiv 1312.6120).
  Biases are 0.
- xavier: weights are uniform within gain sqrt(6 / (fan_in + fan_out)), which is equation 16 of Glorot and
  Bengio (2010) with a gain. Biases are 0.
- torch: weights and biases are those of torch.nn. Dense layers and convolutions are uniform within
  1 / sqrt(fan_in), cells within 1 / sqrt(units). Only last layers have a gain.

The gates of a cell are drawn separately, except with `torch`, where this changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcmarl.config import Initialisation
from hpcmarl.types import FloatArray

Draw = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]


def zeros(_generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Return zeros; an initial value that draws no random numbers."""
    return np.zeros(shape, np.float32)


def ones(_generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Return ones; an initial value that draws no random numbers."""
    return np.ones(shape, np.float32)


@dataclass(frozen=True)
class Weights:
    """Initial values of weights [O, I]; further dimensions are those of a convolution's kernel.

    Attributes:
        gain: Factor of the weights.
        bound: Largest weight with the initialisation `torch`.
        blocks: Number of blocks [O / blocks, I] that are drawn separately and stacked.
        initialisation: Distribution of the weights.
    """

    gain: float
    bound: float
    blocks: int = 1
    initialisation: Initialisation = "orthogonal"

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Draw weights."""
        if self.initialisation == "torch":
            return _uniform(generator, self.bound, shape)
        rows = shape[0] // self.blocks
        if self.initialisation == "orthogonal":
            parts = [_orthogonal(generator, rows, math.prod(shape[1:])) for _ in range(self.blocks)]
            return np.asarray(self.gain * np.concatenate(parts), np.float32).reshape(shape)
        fans = math.prod(shape[2:]) * (shape[1] + rows)
        return _uniform(generator, self.gain * math.sqrt(6.0 / fans), shape)


@dataclass(frozen=True)
class Bias:
    """Initial values of biases.

    Attributes:
        bound: Largest bias with the initialisation `torch`; otherwise biases are 0.
        initialisation: Distribution of the weights of the same layer.
    """

    bound: float
    initialisation: Initialisation = "orthogonal"

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Draw biases."""
        if self.initialisation != "torch":
            return zeros(generator, shape)
        return _uniform(generator, self.bound, shape)


def linear_bound(fan_in: int, factor: float | None = None) -> float:
    """Return the largest initial weight of torch's layers with `fan_in` inputs, times a factor; None: 1."""
    return (1.0 if factor is None else factor) / math.sqrt(max(fan_in, 1))


def _orthogonal(generator: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Draw a (semi-)orthogonal matrix [rows, columns] in double precision.

    The results in float32 therefore do not depend on the rounding of the linear-algebra library.
    """
    normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(normal)
    basis *= np.where(np.diagonal(triangle) < 0, -1.0, 1.0)  # makes the distribution uniform
    return np.asarray(basis if rows >= columns else basis.T)


def _uniform(generator: np.random.Generator, bound: float, shape: tuple[int, ...]) -> FloatArray:
    return np.asarray(generator.uniform(-bound, bound, shape), np.float32)
