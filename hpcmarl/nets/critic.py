"""The value network: dense layers with one output, perhaps with a GRU between them. Trained by algos/; what its input means is their business."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.layers import Dense, gru_cell
from hpcmarl.nets.moments import Moments
from hpcmarl.nets.recurrence import Packing, recur
from hpcmarl.types import BoolArray


class Critic(nn.Module):
    """Outputs [...] of inputs [..., D]; where `outputs` is given, so many of each: [..., outputs].

    With `normalise_values` an output is a value in units of the spread of the targets so far (arXiv 2103.01955, section 5.1);
    `normalise_inputs` does the same to the inputs. Recurrent critics have a memory of `memory_size` numbers (0: none) and go through `unroll` and
    `step`; units that have no value in a row keep it, an episode's first row starts from zeros."""

    def __init__(
        self,
        inputs: int,
        config: NetworkConfig,
        generator: torch.Generator,
        *,
        outputs: int | None = None,
        normalise_inputs: bool = False,
        normalise_values: bool = False,
    ) -> None:
        super().__init__()
        self._inputs = Moments(inputs) if normalise_inputs else None
        self._targets = Moments(1) if normalise_values else None
        self._single = outputs is None
        self.memory_size = config.memory if config.recurrent else 0
        self.body: Dense | None = None
        self.cell: nn.GRUCell | None = None
        if config.recurrent:
            self.body = Dense((inputs, *config.hidden), config.activation, generator, activate_last=True)
            self.cell = gru_cell(config.hidden[-1] if config.hidden else inputs, config.memory, generator)
            self.head = Dense((config.memory, outputs or 1), config.activation, generator, last_gain=1.0)
        else:
            self.layers = Dense((inputs, *config.hidden, outputs or 1), config.activation, generator, last_gain=1.0)

    def unroll(self, inputs: torch.Tensor, acts: BoolArray, starts: BoolArray, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Recurrent critics only: outputs in the rows that act, and the memory after them.

        Args:
            inputs: [T, B, U, D].
            acts: Rows with a value, [T, B, U].
            starts: First rows of episodes, [T, B].
            memory: Before row 0, [B, U, H]; not differentiated.

        Returns:
            Outputs [n] (differentiable) and memories [n, H] of the acting rows, in the order of the dense array.
        """
        assert self.body is not None
        assert self.cell is not None
        columns = acts.shape[1] * acts.shape[2]
        packing = Packing(acts.reshape(-1, columns), np.broadcast_to(starts[..., None], acts.shape).reshape(-1, columns))
        hidden = recur(self.cell, self.body(self._seen(inputs.reshape(-1, inputs.shape[-1])[packing.rows])), memory.reshape(columns, -1), packing)
        hidden = hidden[torch.argsort(packing.rows)]
        return self._out(self.head(hidden)), hidden.detach()

    def step(self, inputs: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Recurrent critics only: outputs [n] of single rows, inputs [n, D] and the memory [n, H] before them."""
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
        """Gather inputs [n, D] and target values [n] for the moments, where there are any; each row weighs `weight`."""
        if self._inputs is not None:
            self._inputs.add(inputs, weight)
        if self._targets is not None:
            self._targets.add(targets.unsqueeze(-1), weight)
