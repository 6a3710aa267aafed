"""A residual network, with a GRU if `memory` is above 0: for policies, critics and agents with values."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """Layers that add to their inputs, for observations that are one array of any shape."""

    def __init__(self, spaces, width: int = 64, blocks: int = 2, memory: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(spaces.size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        # a memory is an input and an output of forward; critics of this example have none
        self.memory_size = memory if spaces.role == "policy" else 0
        if self.memory_size:
            self.cell = nn.GRUCell(width, memory)
        self.leave = nn.Linear(self.memory_size or width, spaces.outputs)
        with torch.no_grad():
            self.leave.weight.mul_(0.01 if spaces.role == "policy" else 1.0)  # first policy: nearly uniform

    def forward(self, observation, numbers, memory=None):
        inputs = [] if observation is None else [observation.flatten(1).float()]
        hidden = self.enter(torch.cat([*inputs, numbers], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        if memory is None:
            return self.leave(hidden)
        memory = self.cell(hidden, memory)
        return self.leave(memory), memory
