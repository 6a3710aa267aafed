"""A residual network as a user would write it, for the benchmarks of modules (docs/networks.md)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Residual(nn.Module):
    """Blocks of layers that add to their inputs.

    Args:
        spaces: Inputs and outputs.
        width: Units of each layer.
        blocks: Number of blocks.
    """

    def __init__(self, spaces: Any, width: int = 256, blocks: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(spaces.size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, spaces.outputs)

    def forward(self, observation: torch.Tensor | None, numbers: torch.Tensor) -> torch.Tensor:
        """Return outputs [n, K] of n rows."""
        inputs = [] if observation is None else [observation.flatten(1).float()]
        hidden = self.enter(torch.cat([*inputs, numbers], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        outputs: torch.Tensor = self.leave(hidden)
        return outputs
