"""The value network: dense layers, with an optional GRU before the last layer.

The algorithms in algos/ define the meaning of its inputs and train it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.layers import Dense, gru_cell
from hpcmarl.nets.moments import Moments
from hpcmarl.nets.recurrence import Packing, recur
from hpcmarl.nets.shapes import CriticShape, DenseShape, GRUShape, MomentsShape, Shape
from hpcmarl.types import BoolArray


class Critic(nn.Module):
    """A value network with one output per row, or `outputs` of them if its shape sets that number.

    Inputs have the shape [..., D]; outputs have the shape [...] or [..., outputs].

    With `normalise_values`, an output is a value in units of the spread of all earlier targets (arXiv
    2103.01955, section 5.1). `normalise_inputs` normalises the inputs in the same way.

    A recurrent critic is evaluated by `unroll` and `step` instead of `forward`. A unit without a value in a
    row keeps its memory. The memory is zero at the first row of an episode.

    Attributes:
        memory_size: Length of the GRU's memory, H; 0 without a GRU.
    """

    def __init__(self, shape: CriticShape) -> None:
        """Build the layers; their weights are uninitialised until FlatParameters binds them (flat.py)."""
        super().__init__()
        self._single = shape.outputs is None
        self.memory_size = shape.memory_size
        parts = shape.children()
        self._inputs = _moments(parts.get("_inputs"))
        self._targets = _moments(parts.get("_targets"))
        self.body: Dense | None = None
        self.cell: nn.GRUCell | None = None
        if self.memory_size:
            self.body, self.cell, self.head = (
                _dense(parts["body"]),
                _cell(parts["cell"]),
                _dense(parts["head"]),
            )
        else:
            self.layers = _dense(parts["layers"])

    def unroll(
        self, inputs: torch.Tensor, active: BoolArray, starts: BoolArray, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate a recurrent critic on unrolls.

        Args:
            inputs: Shape [T, B, U, D].
            active: Rows that have a value, shape [T, B, U].
            starts: First rows of episodes, shape [T, B].
            memory: Memory before row 0, shape [B, U, H]; gradients do not flow into it.

        Returns:
            Outputs [n] (differentiable) and memories [n, H] of the n active rows, in the C order of [T, B,
            U].
        """
        assert self.body is not None
        assert self.cell is not None
        columns = active.shape[1] * active.shape[2]
        packing = Packing(
            active.reshape(-1, columns),
            np.broadcast_to(starts[..., None], active.shape).reshape(-1, columns),
            inputs.device,
        )
        hidden = recur(
            self.cell,
            self.body(self._normalise(inputs.reshape(-1, inputs.shape[-1])[packing.rows])),
            memory.reshape(columns, -1),
            packing,
        )
        hidden = hidden[torch.argsort(packing.rows)]
        return self._out(self.head(hidden)), hidden.detach()

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Evaluate a recurrent critic on single rows.

        Args:
            inputs: Shape [n, D].
            memory: Memory before each row, shape [n, H].

        Returns:
            Outputs, shape [n].
        """
        assert self.body is not None
        assert self.cell is not None
        return self._out(self.head(self.cell(self.body(self._normalise(inputs)), memory)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Evaluate a feed-forward critic."""
        return self._out(self.layers(self._normalise(inputs)))

    def _normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._inputs is None:
            return inputs
        normalised: torch.Tensor = self._inputs(inputs)
        return normalised

    def _out(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.squeeze(-1) if self._single else outputs

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Convert outputs [...] to values in units of the rewards."""
        if self._targets is None:
            return outputs
        mean, deviation = self._targets.mean_and_deviation()
        return outputs * deviation + mean

    def outputs_for(self, values: torch.Tensor) -> torch.Tensor:
        """Convert values [...] to outputs; the inverse of `values`."""
        if self._targets is None:
            return values
        mean, deviation = self._targets.mean_and_deviation()
        return (values - mean) / deviation

    def observe(self, inputs: torch.Tensor, targets: torch.Tensor, weight: float) -> None:
        """Add inputs and targets to the running moments that this critic has.

        Args:
            inputs: Shape [n, D].
            targets: Target values, shape [n].
            weight: Weight of each row.
        """
        if self._inputs is not None:
            self._inputs.add(inputs, weight)
        if self._targets is not None:
            self._targets.add(targets.unsqueeze(-1), weight)


def _moments(shape: Shape | None) -> Moments | None:
    return Moments(shape) if isinstance(shape, MomentsShape) else None


def _dense(shape: Shape) -> Dense:
    assert isinstance(shape, DenseShape)
    return Dense(shape)


def _cell(shape: Shape) -> nn.GRUCell:
    assert isinstance(shape, GRUShape)
    return gru_cell(shape)
