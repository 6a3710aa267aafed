"""Dense layers that torch trains and numpy runs: for the small batches of acting numpy is the faster of the two.

Measured for 18-64-64-5 on 48 rows: numpy 37 microseconds, torch 55; numpy was not slower at any size tried (up to 400-512-512).
Training goes through one hand-written backward pass for the whole stack (`DenseStack`): on 2400 rows it takes three
quarters of the time of torch's own layer by layer, since torch's float32 tanh costs twice as much as its logistic function.
Used by policy.py and critic.py; knows no action space.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from hpcmarl.nets.sparse import SparseWeight
from hpcmarl.types import FloatArray

MINUS_ONE = torch.tensor(-1.0)
GAINS = {"tanh": 5.0 / 3.0, "relu": 2.0**0.5}


class BareLinear(nn.Linear):
    """A linear layer whose weights are still to be set. (torch's skip_init goes by way of its meta device, which imports sympy: 0.6 s a rank.)"""

    def reset_parameters(self) -> None:
        """Draw nothing: torch would draw from its global generator."""


class BareGRUCell(nn.GRUCell):
    """A GRU cell whose weights are still to be set."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def gru_cell(inputs: int, memory: int, generator: torch.Generator) -> nn.GRUCell:
    """Make a GRU cell with orthogonal weights, gate by gate, and zero biases."""
    cell = BareGRUCell(inputs, memory)
    for weight in (cell.weight_ih, cell.weight_hh):
        for gate in torch.split(weight.data, memory):
            nn.init.orthogonal_(gate, 1.0, generator=generator)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return cell


class Dense(nn.Module):
    """Linear layers with the activation after each of them but, unless `activate_last`, the last.

    Orthogonal weights drawn from `generator`, zero biases; `last_gain` scales the last layer's weights.
    """

    def __init__(
        self, sizes: Sequence[int], activation: str, generator: torch.Generator, *, activate_last: bool = False, last_gain: float | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        self.activate_last = activate_last
        self.layers = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            layer = BareLinear(inputs, outputs)
            last = index == len(sizes) - 2
            gain = last_gain if last and last_gain is not None else GAINS[activation]
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [..., first size] -> [..., last size]. Differentiable once, in the parameters and the inputs."""
        if not self.layers:
            return inputs
        parameters = [parameter for layer in self.layers for parameter in (layer.weight, layer.bias)]
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs: torch.Tensor = DenseStack.apply(rows, self.activation, self.activate_last, *parameters)  # type: ignore[no-untyped-call]
        return outputs.view(*inputs.shape[:-1], outputs.shape[-1])


class DenseStack(torch.autograd.Function):
    """All layers of a Dense in one node of torch's graph. tanh(x) is computed as 2 sigmoid(2x) - 1 (within 2e-7)."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, activation: str, activate_last: bool, *parameters: torch.Tensor) -> torch.Tensor:
        """inputs [n, first size]; parameters: weight [outputs, inputs] and bias of each layer. Returns [n, last size]."""
        hidden, stages = inputs, [inputs]
        for index in range(0, len(parameters), 2):
            weight, bias = parameters[index], parameters[index + 1]
            if index + 2 == len(parameters) and not activate_last:
                hidden = torch.addmm(bias, hidden, weight.t())
            elif activation == "tanh":
                hidden = torch.addmm(bias, hidden, weight.t(), beta=2, alpha=2).sigmoid_()
                torch.add(MINUS_ONE, hidden, alpha=2, out=hidden)
            else:
                hidden = torch.addmm(bias, hidden, weight.t()).relu_()
            stages.append(hidden)
        ctx.activation, ctx.activate_last = activation, activate_last
        ctx.save_for_backward(*stages, *parameters)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """slope [n, last size]: the derivative by the outputs; returns those by the inputs and by every parameter."""
        saved = ctx.saved_tensors
        layers = (len(saved) - 1) // 3
        stages, parameters = saved[: layers + 1], saved[layers + 1 :]
        gradients: list[torch.Tensor | None] = [None] * (3 + 2 * layers)
        for layer in range(layers - 1, -1, -1):
            if layer < layers - 1 or ctx.activate_last:
                after = stages[layer + 1]
                slope = torch.ops.aten.tanh_backward(slope, after) if ctx.activation == "tanh" else torch.ops.aten.threshold_backward(slope, after, 0)
            gradients[3 + 2 * layer] = slope.t() @ stages[layer]
            gradients[4 + 2 * layer] = slope.sum(0)
            if layer > 0 or ctx.needs_input_grad[0]:
                slope = slope @ parameters[2 * layer]
        gradients[0] = slope if ctx.needs_input_grad[0] else None
        return tuple(gradients)


class NumpyDense:
    """The same function on numpy arrays [rows, first size], reading the very memory that torch trains.

    Made after FlatParameters has bound the module: the arrays are views that stay valid because nothing rebinds `.data`.
    """

    def __init__(self, dense: Dense) -> None:
        linear = [layer for layer in dense.layers if isinstance(layer, nn.Linear)]
        self._weights: list[tuple[FloatArray | SparseWeight, FloatArray]] = [
            (layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear
        ]
        self._plain_last = -1 if dense.activate_last else len(self._weights) - 1
        self._tanh = dense.activation == "tanh"

    def become_sparse(self, *, measured: bool) -> list[SparseWeight]:
        """Multiply by `SparseWeight`s from now on; returns them."""
        self._weights = [(SparseWeight(weight, measured=measured), bias) for weight, bias in self._weights if isinstance(weight, np.ndarray)]
        return [weight for weight, _ in self._weights if isinstance(weight, SparseWeight)]

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """inputs [rows, first size] float32 -> [rows, last size] float32."""
        hidden = inputs
        for index, (weight, bias) in enumerate(self._weights):
            hidden = hidden @ weight
            hidden += bias
            if index != self._plain_last:
                if self._tanh:
                    np.tanh(hidden, out=hidden)
                else:
                    np.maximum(hidden, 0.0, out=hidden)
        return hidden


class NumpyRecurrence:
    """One step of torch's GRUCell on numpy arrays, reading the cell's own memory."""

    def __init__(self, cell: nn.GRUCell) -> None:
        self._width = cell.hidden_size
        self._biases = (cell.bias_ih.detach().numpy(), cell.bias_hh.detach().numpy())
        self._input: FloatArray | SparseWeight = cell.weight_ih.detach().numpy().T
        self._hidden: FloatArray | SparseWeight = cell.weight_hh.detach().numpy().T

    def become_sparse(self, *, measured: bool) -> list[SparseWeight]:
        """Multiply by `SparseWeight`s from now on; returns them."""
        assert isinstance(self._input, np.ndarray)
        assert isinstance(self._hidden, np.ndarray)
        sparse = [SparseWeight(weight, measured=measured) for weight in (self._input, self._hidden)]
        self._input, self._hidden = sparse
        return sparse

    def __call__(self, inputs: FloatArray, memory: FloatArray) -> FloatArray:
        """inputs [rows, I], memory [rows, H] -> new memory [rows, H]."""
        width = self._width
        from_input = inputs @ self._input + self._biases[0]
        from_memory = memory @ self._hidden + self._biases[1]
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
