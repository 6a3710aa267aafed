"""Gradients of log-probabilities in numpy: what a policy's parameters do to the chances of the actions that
were taken. Without torch.

For policies of dense layers alone, and for the few rows of an episode, where torch takes longer to begin than
numpy to end. The functions are those of layers.py and heads.py (tests compare both).
"""

from __future__ import annotations

import numpy as np

from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.numpy_layers import Arrays
from hpcmarl.nets.shapes import DenseShape, PolicyShape
from hpcmarl.types import Array, BoolArray, FloatArray


def has_numpy_gradient(shape: PolicyShape) -> bool:
    """Whether a policy is made of dense layers alone."""
    return (
        shape.cell is None
        and shape.value is None
        and shape.moments is None
        and not shape.last_action
        and not shape.agent_id
    )


class ScoreGradient:
    """Adds up what log-probabilities change with the parameters of one policy."""

    def __init__(self, shape: PolicyShape, chooser: Chooser, arrays: Arrays, gradients: Arrays) -> None:
        """Make it for a policy of dense layers.

        Args:
            shape: Of the policy's network.
            chooser: How its agents act.
            arrays: Views of the vector of parameters, by their names in the network.
            gradients: Views of the vector that the gradient is added to, by the same names.
        """
        self._chooser = chooser
        self._layers = _Layers(shape.outputs, arrays, gradients)

    def add(self, inputs: FloatArray, action: Array, mask: BoolArray | None, weight: FloatArray) -> None:
        """Add the gradient of sum_n weight_n log pi(action_n | inputs_n).

        Args:
            inputs: What the network saw, [n, D].
            action: What was done, [n, *action.shape].
            mask: Allowed actions, [n, A]; None: all were.
            weight: [n].
        """
        slope = self._chooser.score(self._layers.forward(inputs), action, mask)
        slope *= weight[:, None]
        self._layers.backward(slope)


class _Layers:
    """Dense layers that remember what they saw."""

    def __init__(self, shape: DenseShape, arrays: Arrays, gradients: Arrays) -> None:
        names = [f"outputs.layers.{index}." for index in range(len(shape.sizes) - 1)]
        self._weights = [(arrays[f"{name}weight"], arrays[f"{name}bias"]) for name in names]
        self._gradients = [(gradients[f"{name}weight"], gradients[f"{name}bias"]) for name in names]
        self._tanh = shape.activation == "tanh"
        self._seen: list[FloatArray] = []  # what each layer saw

    def forward(self, inputs: FloatArray) -> FloatArray:
        """Raw outputs [n, K] of inputs [n, D]."""
        self._seen = [inputs]
        for index, (weight, bias) in enumerate(self._weights):
            outputs: FloatArray = self._seen[-1] @ weight.T
            outputs += bias
            if index == len(self._weights) - 1:
                return outputs
            self._seen.append(
                np.tanh(outputs, out=outputs) if self._tanh else np.maximum(outputs, 0.0, out=outputs)
            )
        return inputs

    def backward(self, slope: FloatArray) -> None:
        """Add the gradient of what has the slope [n, K] over the raw outputs."""
        for index in range(len(self._weights) - 1, -1, -1):
            seen, (weight, bias) = self._seen[index], self._gradients[index]
            weight += slope.T @ seen
            bias += slope.sum(0)
            if index:
                slope = slope @ self._weights[index][0]
                slope *= 1.0 - np.square(seen) if self._tanh else seen > 0.0
