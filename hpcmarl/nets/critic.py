"""The value network: dense layers with one output. Trained by algos/; what its input means is their business."""

from __future__ import annotations

import torch
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.layers import Dense
from hpcmarl.nets.moments import Moments


class Critic(nn.Module):
    """Outputs [...] of inputs [..., D]; where `outputs` is given, so many of each: [..., outputs].

    With `normalise_values` an output is a value in units of the spread of the targets so far (arXiv 2103.01955, section 5.1);
    `normalise_inputs` does the same to the inputs."""

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
        self.layers = Dense((inputs, *config.hidden, outputs or 1), config.activation, generator, last_gain=1.0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs if self._inputs is None else self._inputs(inputs))
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
