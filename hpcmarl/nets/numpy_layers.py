"""Layers as numpy runs them, reading the arrays of a parameter vector: for the small batches of acting numpy
is quicker than torch.

Measured for 18-64-64-5 on 48 rows: numpy 37 microseconds, torch 55; numpy was not slower at any size tried
(up to 400-512-512). The same functions in torch: layers.py, moments.py, dueling.py. A layer's weights are in
`weights`; who changes them tells each by `refresh`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.nets.shapes import DenseShape, GRUShape
from hpcmarl.nets.sparse import DenseWeight, SparseWeight
from hpcmarl.types import BoolArray, FloatArray

SMALLEST_DEVIATION = 1e-3  # of 1 + |mean|: what varies less is not blown up
LARGEST = 10.0  # normalised features are cut off here
ZERO = np.float32(0.0)
Arrays = Mapping[str, FloatArray]  # a network's parameters by their names in it; views that stay valid


class NumpyDense:
    """Linear layers with the activation after each of them but, unless `activate_last`, the last."""

    def __init__(self, shape: DenseShape, arrays: Arrays) -> None:
        count = len(shape.sizes) - 1
        self.weights: list[DenseWeight | SparseWeight] = [
            DenseWeight(arrays[f"layers.{index}.weight"].T) for index in range(count)
        ]
        self._biases = [arrays[f"layers.{index}.bias"] for index in range(count)]
        self._plain_last = -1 if shape.activate_last else count - 1
        self._tanh = shape.activation == "tanh"

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """inputs [rows, first size] float32 -> [rows, last size] float32."""
        hidden = inputs
        for index, weight in enumerate(self.weights):
            hidden = weight.product(hidden)
            hidden += self._biases[index]
            if index != self._plain_last:
                if self._tanh:
                    np.tanh(hidden, out=hidden)
                else:
                    np.maximum(hidden, ZERO, out=hidden)
        return hidden


class NumpyRecurrence:
    """One step of torch's GRUCell."""

    def __init__(self, shape: GRUShape, arrays: Arrays) -> None:
        self._width = shape.memory
        self._biases = (arrays["bias_ih"], arrays["bias_hh"])
        self.weights: list[DenseWeight | SparseWeight] = [
            DenseWeight(arrays[name].T) for name in ("weight_ih", "weight_hh")
        ]

    def __call__(self, inputs: FloatArray, memory: FloatArray) -> FloatArray:
        """inputs [rows, I], memory [rows, H] -> new memory [rows, H]."""
        width = self._width
        from_input, from_memory = self.weights[0].product(inputs), self.weights[1].product(memory)
        from_input += self._biases[0]
        from_memory += self._biases[1]
        # The logistic function as a tanh: it cannot overflow.
        gates = from_input[:, : 2 * width] + from_memory[:, : 2 * width]
        gates *= 0.5
        np.tanh(gates, out=gates)
        gates += 1.0
        gates *= 0.5
        reset, update = gates[:, :width], gates[:, width:]
        candidate: FloatArray = np.tanh(from_input[:, 2 * width :] + reset * from_memory[:, 2 * width :])
        after: FloatArray = candidate + update * (memory - candidate)
        return after


class NumpyMoments:
    """Features in deviations from their mean so far, cut off at LARGEST."""

    def __init__(self, arrays: Arrays) -> None:
        self._moments = arrays["moments"]

    def __call__(self, rows: FloatArray) -> FloatArray:
        """rows [..., D] float32 -> [..., D] float32."""
        mean, deviation = mean_and_deviation(self._moments)
        normalised = rows - mean
        normalised /= deviation
        return np.clip(normalised, -LARGEST, LARGEST, out=normalised)


def mean_and_deviation(moments: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[1 + 2D] float32 -> [D], [D]."""
    size = len(moments) // 2
    if moments[0] <= 0:
        return np.zeros(size, np.float32), np.ones(size, np.float32)
    mean = moments[1 : 1 + size] / moments[0]
    variance = moments[1 + size :] / moments[0] - np.square(mean)
    smallest = SMALLEST_DEVIATION * (1.0 + np.abs(mean))
    return mean, np.sqrt(np.maximum(variance, np.square(smallest)))


def numpy_dueling_values(advantages: FloatArray, value: FloatArray, mask: BoolArray | None) -> FloatArray:
    """Q [n, A] of advantages [n, A] and a value [n, 1] (dueling.py); rows in which nothing is allowed
    subtract nothing."""
    values: FloatArray
    if mask is None:
        values = value + advantages - advantages.mean(-1, keepdims=True)
    else:
        count = np.maximum(mask.sum(-1, keepdims=True), 1).astype(np.float32)
        values = value + advantages - (advantages * mask).sum(-1, keepdims=True) / count
    return values
