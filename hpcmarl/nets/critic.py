"""The value network: dense layers with one output, perhaps with a GRU between them. Trained by algos/; what
its input means is their business."""

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
    """Outputs [...] of inputs [..., D]; where `outputs` is given, so many of each: [..., outputs].

    With `normalise_values` an output is a value in units of the spread of the targets so far (arXiv
    2103.01955, section 5.1); `normalise_inputs` does the same to the inputs. Recurrent critics have a memory
    of `memory_size` numbers (0: none) and go through `unroll` and `step`; units that have no value in a row
    keep it, an episode's first row starts from zeros."""

    def __init__(self, shape: CriticShape) -> None:
        """Make the network; its weights are still to be set (flat.py)."""
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
        """Recurrent critics only: outputs in the rows that act, and the memory after them.

        Args:
            inputs: [T, B, U, D].
            acts: Rows with a value, [T, B, U].
            starts: First rows of episodes, [T, B].
            memory: Before row 0, [B, U, H]; not differentiated.

        Returns:
            Outputs [n] (differentiable) and memories [n, H] of the acting rows, in the order of the dense
            array.
        """
        assert self.body is not None
        assert self.cell is not None
        columns = active.shape[1] * active.shape[2]
        packing = Packing(
            active.reshape(-1, columns), np.broadcast_to(starts[..., None], active.shape).reshape(-1, columns)
        )
        hidden = recur(
            self.cell,
            self.body(self._seen(inputs.reshape(-1, inputs.shape[-1])[packing.rows])),
            memory.reshape(columns, -1),
            packing,
        )
        hidden = hidden[torch.argsort(packing.rows)]
        return self._out(self.head(hidden)), hidden.detach()

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Recurrent critics only: outputs [n] of single rows, inputs [n, D] and the memory [n, H] before
        them."""
        assert self.body is not None
        assert self.cell is not None
        return self._out(self.head(self.cell(self.body(self._seen(inputs)), memory)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Feed-forward critics only."""
        return self._out(self.layers(self._seen(inputs)))

    def _seen(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._inputs is None:
            return inputs
        seen: torch.Tensor = self._inputs(inputs)
        return seen

    def _out(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.squeeze(-1) if self._single else outputs

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """What outputs [...] stand for, in units of the rewards."""
        if self._targets is None:
            return outputs
        mean, deviation = self._targets.mean_and_deviation()
        return outputs * deviation + mean

    def outputs_for(self, values: torch.Tensor) -> torch.Tensor:
        """The outputs [...] that stand for values: the inverse of `values`."""
        if self._targets is None:
            return values
        mean, deviation = self._targets.mean_and_deviation()
        return (values - mean) / deviation

    def observe(self, inputs: torch.Tensor, targets: torch.Tensor, weight: float) -> None:
        """Gather inputs [n, D] and target values [n] for the moments, where there are any; each row weighs
        `weight`."""
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
