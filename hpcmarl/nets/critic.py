"""The value network: encoders, dense layers, with an optional memory before the last layer.

The algorithms in algos/ define the meaning of its inputs and train it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.encoders import make_encoder
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.inputs import Encoded, Inputs, RowInputs, Values, take
from hpcmarl.nets.layer_shapes import DenseShape, GRUShape, LSTMShape, MomentsShape, Shape
from hpcmarl.nets.layers import Dense, make_cell
from hpcmarl.nets.modules import call, unroll
from hpcmarl.nets.moments import Moments
from hpcmarl.nets.recurrence import Packing, recur, recur_lstm
from hpcmarl.nets.shapes import CriticShape
from hpcmarl.types import BoolArray


class Critic(nn.Module, ABC):
    """A value network with one output per row, or `outputs` of them if its shape sets that number.

    Inputs of n rows are a tensor [n, D], or fields (inputs.py) if they are not flat; outputs have the shape
    [n] or [n, outputs].

    With `normalise_values`, an output is a value in units of the spread of all earlier targets (arXiv
    2103.01955, section 5.1). `normalise_inputs` normalises the inputs in the same way.

    A recurrent critic is evaluated by `unroll` and `step` instead of `forward`. A unit without a value in a
    row keeps its memory. The memory is zero at the first row of an episode.

    Attributes:
        form: The inputs; None: flat rows of D numbers.
        memory_size: Length of the memory, H; 0 without one.
    """

    def __init__(self, shape: CriticShape) -> None:
        """Build the moments; weights are uninitialised until FlatParameters binds them (flat.py)."""
        super().__init__()
        self._single, self.form = shape.outputs is None, shape.form
        self.memory_size = shape.memory_size
        self._inputs: Moments | None = None
        self._targets: Moments | None = None

    @abstractmethod
    def unroll(
        self, inputs: RowInputs, active: BoolArray, starts: BoolArray, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate a recurrent critic on unrolls.

        Args:
            inputs: Inputs of T * B * U rows.
            active: Rows that have a value, shape [T, B, U].
            starts: First rows of episodes, shape [T, B].
            memory: Memory before row 0, shape [B, U, H]; gradients do not flow into it.

        Returns:
            Outputs [n] (differentiable) and memories [n, H] of the n active rows, in the C order of [T, B,
            U].
        """

    @abstractmethod
    def step(self, inputs: RowInputs, memory: torch.Tensor) -> torch.Tensor:
        """Evaluate a recurrent critic on single rows.

        Args:
            inputs: Inputs of n rows.
            memory: Memory before each row, shape [n, H].

        Returns:
            Outputs, shape [n].
        """

    @abstractmethod
    def forward(self, inputs: RowInputs) -> torch.Tensor:
        """Evaluate a feed-forward critic on n rows."""

    def _packing(self, active: BoolArray, starts: BoolArray, device: torch.device) -> Packing:
        """Return the order of the active rows [T, B, U]; starts: [T, B]."""
        columns = active.shape[1] * active.shape[2]
        begun = np.broadcast_to(starts[..., None], active.shape)
        return Packing(active.reshape(-1, columns), begun.reshape(-1, columns), device)

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

    def observe(self, inputs: RowInputs, targets: torch.Tensor, weight: float) -> None:
        """Add inputs and targets to the running moments that this critic has.

        Args:
            inputs: Inputs of n rows.
            targets: Target values, shape [n].
            weight: Weight of each row.
        """
        if self._inputs is not None:
            assert isinstance(inputs, torch.Tensor)
            self._inputs.add(inputs, weight)
        if self._targets is not None:
            self._targets.add(targets.unsqueeze(-1), weight)


class LayeredCritic(Critic):
    """A value network of encoders, dense layers and an optional GRU or LSTM before the last layer."""

    def __init__(self, shape: CriticShape) -> None:
        super().__init__(shape)
        self._encoded = list(shape.encoders)
        if shape.encoders:
            self.encoders = nn.ModuleList(make_encoder(encoder) for encoder in shape.encoders.values())
        parts = shape.children()
        self._inputs = _moments(parts.get("_inputs"))
        self._targets = _moments(parts.get("_targets"))
        self.body: Dense | None = None
        self.cell: nn.GRUCell | nn.LSTMCell | None = None
        if self.memory_size:
            self.body, self.cell, self.head = (
                _dense(parts["body"]),
                _cell(parts["cell"]),
                _dense(parts["head"]),
            )
        else:
            self.layers = _dense(parts["layers"])

    def unroll(
        self, inputs: RowInputs, active: BoolArray, starts: BoolArray, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.body is not None
        assert self.cell is not None
        packing = self._packing(active, starts, memory.device)
        seen, first = self.body(self._encode(take(inputs, packing.rows))), memory.flatten(0, 1)
        hidden = (
            recur_lstm(self.cell, seen, first, packing)
            if isinstance(self.cell, nn.LSTMCell)
            else recur(self.cell, seen, first, packing)
        )
        hidden = hidden[torch.argsort(packing.rows)]
        return self._out(self.head(hidden[:, : self.cell.hidden_size])), hidden.detach()

    def step(self, inputs: RowInputs, memory: torch.Tensor) -> torch.Tensor:
        assert self.body is not None
        assert self.cell is not None
        seen = self.body(self._encode(inputs))
        if isinstance(self.cell, nn.LSTMCell):
            hidden, _ = self.cell(seen, tuple(memory.chunk(2, -1)))
        else:
            hidden = self.cell(seen, memory)
        return self._out(self.head(hidden))

    def forward(self, inputs: RowInputs) -> torch.Tensor:
        return self._out(self.layers(self._encode(inputs)))

    def _encode(self, inputs: RowInputs) -> torch.Tensor:
        """Return the inputs of the layers after the encoders, shape [n, D]."""
        if isinstance(inputs, Inputs):
            assert self.form is not None
            encoders = dict(zip(self._encoded, self.encoders, strict=True)) if self._encoded else {}
            rows = inputs.rows
            parts = [
                encode_field(encoders.get(field.name), field, inputs.fields[field.name], rows)
                for field in self.form.fields
            ]
            return torch.cat(parts, -1)
        if self._inputs is None:
            return inputs
        normalised: torch.Tensor = self._inputs(inputs)
        return normalised


class ModuleCritic(Critic):
    """A value network that is a torch module of the user (modules.py)."""

    def __init__(self, shape: CriticShape) -> None:
        super().__init__(shape)
        assert shape.module is not None
        self._targets = _moments(shape.children().get("_targets"))
        self.module: nn.Module = shape.module.make()

    def unroll(
        self, inputs: RowInputs, active: BoolArray, starts: BoolArray, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(inputs, Inputs)
        packing = self._packing(active, starts, memory.device)
        outputs, after = unroll(self.module, form_of(self), inputs, memory.flatten(0, 1), packing)
        order = torch.argsort(packing.rows)
        return self._out(outputs[order]), after[order].detach()

    def step(self, inputs: RowInputs, memory: torch.Tensor) -> torch.Tensor:
        assert isinstance(inputs, Inputs)
        outputs, _ = call(self.module, form_of(self), inputs, memory)
        return self._out(outputs)

    def forward(self, inputs: RowInputs) -> torch.Tensor:
        assert isinstance(inputs, Inputs)
        return self._out(call(self.module, form_of(self), inputs))


def make_critic(shape: CriticShape) -> Critic:
    """Build the value network that a shape describes."""
    return LayeredCritic(shape) if shape.module is None else ModuleCritic(shape)


def form_of(critic: Critic) -> InputForm:
    """Return the form of a critic's inputs."""
    assert critic.form is not None
    return critic.form


def encode_field(encoder: nn.Module | None, field: Field, values: Values, rows: int) -> torch.Tensor:
    """Return the features of one field of records, shape [n, F].

    Args:
        encoder: Encoder of the field's observations; None: its numbers.
        field: The field.
        values: Its tensors; the observations of several agents have an axis of their own. Features are
            returned as they are.
        rows: Number of rows, n.
    """
    if isinstance(values, Encoded):
        return values.features
    if field.policy is None:
        assert isinstance(values, torch.Tensor)
        return values
    assert encoder is not None
    if field.count is None:
        features: torch.Tensor = encoder(values)
        return features
    joined = (
        values.flatten(0, 1)
        if isinstance(values, torch.Tensor)
        else {key: value.flatten(0, 1) for key, value in values.items()}
    )
    together: torch.Tensor = encoder(joined)
    return together.view(rows, -1)


def _moments(shape: Shape | None) -> Moments | None:
    return Moments(shape) if isinstance(shape, MomentsShape) else None


def _dense(shape: Shape) -> Dense:
    assert isinstance(shape, DenseShape)
    return Dense(shape)


def _cell(shape: Shape) -> nn.GRUCell | nn.LSTMCell:
    assert isinstance(shape, GRUShape | LSTMShape)
    return make_cell(shape)
