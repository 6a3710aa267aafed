"""The value network: dense layers with one output. Trained by algos/; what its input means is their business."""

from __future__ import annotations

import torch
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.layers import Dense


class Critic(nn.Module):
    """Values [...] of inputs [..., D]."""

    def __init__(self, inputs: int, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = Dense((inputs, *config.hidden, 1), config.activation, generator, last_gain=1.0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.layers(inputs)
        return values.squeeze(-1)
