"""Running mean and standard deviation of features, to normalise inputs and targets of networks.

Policies and critics use it, and algos/mixed.py uses it for the inputs of mixers.

    m = (n, sum x, sum x^2)              per trajectory
    m <- m + rate (m_batch - m)          average over updates, by the optimizer
    mean        = m_1 / m_0
    deviation^2 = m_2 / m_0 - mean^2

The averages lie at the end of the parameter vector (flat.py: buffers). The contributions collected by `add`
travel with the gradient. Every round rule, reduction and checkpoint therefore carries them, and all ranks use
the same ones.

All rows of one gradient have equal weight. The averages start at zero, but their ratio needs no correction.

    symbol    variable    shape
    m         moments     [1 + 2D]
    x         rows        [n, D]
"""

from __future__ import annotations

import torch
from torch import nn

from hpcmarl.nets.layer_shapes import MomentsShape
from hpcmarl.nets.numpy_layers import LARGEST, SMALLEST_DEVIATION, mean_and_deviation


class Moments(nn.Module):
    """Running moments of D features."""

    moments: torch.Tensor

    def __init__(self, shape: MomentsShape) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(1 + 2 * shape.size))

    def add(self, rows: torch.Tensor, weight: float) -> None:
        """Add rows to the moments' part of the flat gradient.

        Args:
            rows: Features, shape [n, D].
            weight: Weight of each row.
        """
        gathered = self.moments.grad
        assert gathered is not None  # FlatParameters has bound it
        size = rows.shape[-1]
        gathered[0] += weight * len(rows)
        gathered[1 : 1 + size] += weight * rows.sum(0)
        gathered[1 + size :] += weight * rows.square().sum(0)

    def mean_and_deviation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation, shape [D] each; 0 and 1 before the first update."""
        if self.moments.device.type == "cpu":
            mean, deviation = mean_and_deviation(self.moments.numpy())
            return torch.from_numpy(mean), torch.from_numpy(deviation)
        return _mean_and_deviation(self.moments)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise rows [..., D] to deviations from the mean, clipped to +-LARGEST."""
        mean, deviation = self.mean_and_deviation()
        return ((rows - mean) / deviation).clamp_(-LARGEST, LARGEST)


def _mean_and_deviation(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute numpy_layers.mean_and_deviation on the device of the moments, without waiting for it."""
    count, size = moments[0], len(moments) // 2
    mean = moments[1 : 1 + size] / count
    variance = moments[1 + size :] / count - mean.square()
    smallest = SMALLEST_DEVIATION * (1.0 + mean.abs())
    # In double precision the root rounds as numpy's; torch's own of float32 differs in the last digit.
    deviation = torch.maximum(variance, smallest.square()).double().sqrt().float()
    known = count > 0
    return torch.where(known, mean, 0.0), torch.where(known, deviation, 1.0)
