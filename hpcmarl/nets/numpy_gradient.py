"""Gradients of a policy's log-probabilities in numpy, without torch.

They exist for policies of dense layers alone. For the few rows of an episode, the fixed cost of a torch call
exceeds the whole computation in numpy. Results agree with layers.py and heads.py; tests compare both.
"""

from __future__ import annotations

import numpy as np

from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.layer_shapes import DenseShape
from hpcmarl.nets.numpy_layers import Arrays
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, FloatArray


def has_numpy_gradient(shape: PolicyShape) -> bool:
    """Return whether a policy consists of dense layers alone and sees only observations."""
    return (
        shape.cell is None
        and shape.value is None
        and shape.moments is None
        and not shape.last_action
        and not shape.agent_id
    )


class ScoreGradient:
    """Accumulates weighted gradients of the log-probabilities of one policy."""

    def __init__(self, shape: PolicyShape, chooser: Chooser, arrays: Arrays, gradients: Arrays) -> None:
        """Create the gradient of a policy of dense layers.

        Args:
            shape: Description of the policy's network.
            chooser: Chooser of the policy's agents.
            arrays: Views of the parameter vector, by the parameters' names in the network.
            gradients: Views of the vector that receives the gradient, by the same names.
        """
        self._chooser = chooser
        self._layers = _Layers(shape.outputs, arrays, gradients)

    def add(self, inputs: FloatArray, action: Array, mask: BoolArray | None, weight: FloatArray) -> None:
        """Add the gradient of sum_n weight_n log pi(action_n | inputs_n).

        Args:
            inputs: Inputs of the network, shape [n, D].
            action: Actions taken, shape [n, *action.shape].
            mask: Allowed actions, shape [n, A]; None: all actions were allowed.
            weight: Weights of the rows, shape [n].
        """
        slope = self._chooser.score(self._layers.forward(inputs), action, mask)
        slope *= weight[:, None]
        self._layers.backward(slope)


class _Layers:
    """Dense layers that keep their inputs for the backward pass."""

    def __init__(self, shape: DenseShape, arrays: Arrays, gradients: Arrays) -> None:
        names = [f"outputs.layers.{index}." for index in range(len(shape.sizes) - 1)]
        self._weights = [(arrays[f"{name}weight"], arrays[f"{name}bias"]) for name in names]
        self._gradients = [(gradients[f"{name}weight"], gradients[f"{name}bias"]) for name in names]
        self._tanh = shape.activation == "tanh"
        self._seen: list[FloatArray] = []  # inputs of each layer

    def forward(self, inputs: FloatArray) -> FloatArray:
        """Return raw outputs [n, K] for inputs [n, D]."""
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
        """Add the gradients of a function with derivative `slope` [n, K] with respect to the raw outputs."""
        for index in range(len(self._weights) - 1, -1, -1):
            seen, (weight, bias) = self._seen[index], self._gradients[index]
            weight += slope.T @ seen
            bias += slope.sum(0)
            if index:
                slope = slope @ self._weights[index][0]
                slope *= 1.0 - np.square(seen) if self._tanh else seen > 0.0
