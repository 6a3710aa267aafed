"""Running mean and deviation of features, for networks that see or predict them in units of their own spread.
Used by policy.py, critic.py and, for what mixers see, by algos/mixed.py.

    m = (n, sum x, sum x^2)     per trajectory, averaged by the optimizer over updates: m <- m + rate (m_batch
        - m)
    mean = m_1 / m_0            deviation^2 = m_2 / m_0 - mean^2

The averages are the end of the parameter vector (flat.py: buffers), and what `add` gathers travels with the
gradient: so every rule, way of summing and checkpoint carries them, and all ranks see the same ones. The rows
of one gradient weigh alike, and the ratio needs no correction for the averages' start from zero.

    symbol -> variable, shape:  m moments [1 + 2D]   x rows [n, D]
"""

from __future__ import annotations

import torch
from torch import nn

from hpcmarl.nets.numpy_layers import LARGEST, mean_and_deviation
from hpcmarl.nets.shapes import MomentsShape


class Moments(nn.Module):
    """Of `size` features, D."""

    moments: torch.Tensor

    def __init__(self, shape: MomentsShape) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(1 + 2 * shape.size))

    def add(self, rows: torch.Tensor, weight: float) -> None:
        """Gather rows [n, D], each weighing `weight`, in the flat gradient."""
        gathered = self.moments.grad
        assert gathered is not None  # bound by FlatParameters
        size = rows.shape[-1]
        gathered[0] += weight * len(rows)
        gathered[1 : 1 + size] += weight * rows.sum(0)
        gathered[1 + size :] += weight * rows.square().sum(0)

    def mean_and_deviation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[D] each: 0 and 1 before the first update."""
        mean, deviation = mean_and_deviation(self.moments.numpy())
        return torch.from_numpy(mean), torch.from_numpy(deviation)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., D] -> the same in deviations from the mean, cut off at LARGEST."""
        mean, deviation = self.mean_and_deviation()
        return ((rows - mean) / deviation).clamp_(-LARGEST, LARGEST)
