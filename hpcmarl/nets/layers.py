"""Dense layers for training in torch; acting uses numpy_layers.py.

One hand-written backward pass covers the whole stack of layers (`DenseStack`). On 2400 rows it takes three
quarters of the time of torch's separate layers. The reason is that the float32 tanh of torch costs twice as
much as its logistic function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hpcmarl.nets.layer_shapes import DenseShape, GRUShape, LayerNormShape, LSTMShape

MINUS_ONE = torch.tensor(-1.0)


class BareLinear(nn.Linear):
    """A linear layer with uninitialised weights.

    The skip_init function of torch is no alternative: it uses the meta device, which imports sympy and costs
    0.6 s per rank.
    """

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised; torch would draw from its global generator."""


class BareGRUCell(nn.GRUCell):
    """A GRU cell with uninitialised weights."""

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised; torch would draw from its global generator."""


class BareLSTMCell(nn.LSTMCell):
    """An LSTM cell with uninitialised weights."""

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised; torch would draw from its global generator."""


def layer_norm(shape: LayerNormShape) -> nn.LayerNorm:
    """Create a layer normalisation; FlatParameters sets its weights (flat.py)."""
    return nn.LayerNorm(shape.size)


def lstm_cell(shape: LSTMShape) -> nn.LSTMCell:
    """Create an LSTM cell with uninitialised weights."""
    return BareLSTMCell(shape.inputs, shape.memory)


def gru_cell(shape: GRUShape) -> nn.GRUCell:
    """Create a GRU cell with uninitialised weights."""
    return BareGRUCell(shape.inputs, shape.memory)


def make_cell(shape: GRUShape | LSTMShape) -> nn.GRUCell | nn.LSTMCell:
    """Create the cell that a shape describes, with uninitialised weights."""
    return gru_cell(shape) if isinstance(shape, GRUShape) else lstm_cell(shape)


class Dense(nn.Module):
    """The layers of a DenseShape, with uninitialised weights.

    Attributes:
        plain: Whether to use torch's own layers, which autocast and torch.compile know (arithmetic.py).
    """

    def __init__(self, shape: DenseShape) -> None:
        super().__init__()
        self.activation, self.activate_last = shape.activation, shape.activate_last
        self.layers = nn.ModuleList(BareLinear(inputs, outputs) for inputs, outputs in pairwise(shape.sizes))
        if shape.layer_norm:
            self.norms = nn.ModuleList(layer_norm(LayerNormShape(size)) for size in shape.normalised)
        self.layer_norm = shape.layer_norm
        self.plain = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layers; differentiable once in the parameters and the inputs.

        Args:
            inputs: Shape [..., first size].

        Returns:
            Outputs, shape [..., last size].
        """
        if not self.layers:
            return inputs
        if self.layer_norm or self.plain:
            return self._layer_by_layer(inputs)
        parameters = cast(
            "list[torch.Tensor]",
            [parameter for layer in self.layers for parameter in (layer.weight, layer.bias)],
        )
        rows = inputs.reshape(-1, inputs.shape[-1])
        run = DenseStack.apply if torch.is_grad_enabled() else last_stage
        outputs: torch.Tensor = run(rows, self.activation, self.activate_last, *parameters)
        return outputs.view(*inputs.shape[:-1], outputs.shape[-1])

    def _layer_by_layer(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply torch's layers, with a layer normalisation before each activation if the shape has them."""
        activation = torch.tanh if self.activation == "tanh" else functional.relu
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if index < len(self.layers) - 1 or self.activate_last:
                hidden = activation(self.norms[index](hidden) if self.layer_norm else hidden)
        return hidden


def stages_of(
    inputs: torch.Tensor, activation: str, activate_last: bool, parameters: Sequence[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Compute dense layers one after the other; not differentiable.

    tanh(x) is computed as 2 sigmoid(2x) - 1, which is exact to 2e-7.

    Args:
        inputs: Shape [n, first size].
        activation: "tanh" or "relu".
        activate_last: Whether the activation also follows the last layer.
        parameters: Weight [outputs, inputs] and bias [outputs] of each layer, in turn.

    Yields:
        The outputs [n, outputs] of each layer.
    """
    hidden = inputs
    for index in range(0, len(parameters), 2):
        weight, bias = parameters[index], parameters[index + 1]
        if index + 2 == len(parameters) and not activate_last:
            hidden = torch.addmm(bias, hidden, weight.t())
        elif activation == "tanh":
            hidden = torch.addmm(bias, hidden, weight.t(), beta=2, alpha=2).sigmoid_()
            torch.add(MINUS_ONE, hidden, alpha=2, out=hidden)
        else:
            hidden = torch.addmm(bias, hidden, weight.t()).relu_()
        yield hidden


def last_stage(
    inputs: torch.Tensor, activation: str, activate_last: bool, *parameters: torch.Tensor
) -> torch.Tensor:
    """Return the last output of `stages_of` without keeping the others, for calls without a gradient."""
    hidden = inputs
    for hidden in stages_of(inputs, activation, activate_last, parameters):  # noqa: B007  only the last is used
        pass
    return hidden


class DenseStack(torch.autograd.Function):
    """All layers of a Dense as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, activation: str, activate_last: bool, *parameters: torch.Tensor
    ) -> torch.Tensor:
        """Compute the layers.

        Args:
            ctx: The autograd context.
            inputs: Shape [n, first size].
            activation: "tanh" or "relu".
            activate_last: Whether the activation also follows the last layer.
            *parameters: Weight [outputs, inputs] and bias [outputs] of each layer, in turn.

        Returns:
            Outputs, shape [n, last size].
        """
        stages = [inputs, *stages_of(inputs, activation, activate_last, parameters)]
        ctx.activation, ctx.activate_last = activation, activate_last
        ctx.save_for_backward(*stages, *parameters)
        return stages[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the derivatives with respect to the inputs and every parameter.

        Args:
            ctx: The autograd context.
            slope: Derivative with respect to the outputs, shape [n, last size].

        Returns:
            One entry per argument of `forward`; None for arguments without a derivative.
        """
        saved = ctx.saved_tensors
        layers = (len(saved) - 1) // 3
        stages, parameters = saved[: layers + 1], saved[layers + 1 :]
        gradients: list[torch.Tensor | None] = [None] * (3 + 2 * layers)
        for layer in range(layers - 1, -1, -1):
            if layer < layers - 1 or ctx.activate_last:
                after = stages[layer + 1]
                slope = (
                    torch.ops.aten.tanh_backward(slope, after)
                    if ctx.activation == "tanh"
                    else torch.ops.aten.threshold_backward(slope, after, 0)
                )
            if ctx.needs_input_grad[3 + 2 * layer]:  # parameters may be constants
                gradients[3 + 2 * layer] = slope.t() @ stages[layer]
            if ctx.needs_input_grad[4 + 2 * layer]:
                gradients[4 + 2 * layer] = slope.sum(0)
            if layer > 0 or ctx.needs_input_grad[0]:
                slope = slope @ parameters[2 * layer]
        gradients[0] = slope if ctx.needs_input_grad[0] else None
        return tuple(gradients)
