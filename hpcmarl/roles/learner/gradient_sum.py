"""The sum of a learner's gradients of one round, as an array or as a tensor.

With `rounds.reduce: gloo` on the CPU, or `nccl` on the learner's GPU, gradients stay where they were
computed. The sum of the round, the AllReduce and its input are tensors there. Only the total is copied to the
host, once a round, and the optimizer's replica makes its step on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from hpcmarl.types import Array, BoolArray


class GradientSum(ABC):
    """Sum of gradients [P], all in one number format."""

    @abstractmethod
    def add(self, vector: Any) -> None:
        """Add a gradient [P], an array or a tensor of the device."""

    @abstractmethod
    def take(self, scale: float, count: int, mask: BoolArray | None) -> Any:
        """Return the learner's part of a round, and begin the next sum.

        Args:
            scale: Factor of the sum.
            count: Trajectories of the sum.
            mask: Entries that are summed, [P]; None: all.

        Returns:
            The scaled entries and the count, as an input of Transport.start_sum.
        """


class HostSum(GradientSum):
    """A sum in main memory, as an array.

    Args:
        size: Number of parameters, P.
        dtype: Number format.
    """

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._sum: Array = np.zeros(size, dtype)

    def add(self, vector: Array) -> None:
        self._sum += vector

    def take(self, scale: float, count: int, mask: BoolArray | None) -> Array:
        number = self._sum.dtype.type
        own = self._sum if mask is None else np.compress(mask, self._sum)
        part: Array = np.append(own * number(scale), number(count))
        self._sum[:] = 0.0
        return part


class DeviceSum(GradientSum):
    """A sum on a torch device; it needs all entries.

    Args:
        size: Number of parameters, P.
        dtype: Number format.
        device: The device.
    """

    def __init__(self, size: int, dtype: np.dtype[Any], device: torch.device) -> None:
        number = torch.from_numpy(np.empty(0, dtype)).dtype
        self._sum = torch.zeros(size, dtype=number, device=device)

    def add(self, vector: Array | torch.Tensor) -> None:
        self._sum += vector if isinstance(vector, torch.Tensor) else torch.from_numpy(vector)

    def take(self, scale: float, count: int, mask: BoolArray | None) -> torch.Tensor:
        assert mask is None
        # a factor in the number format of the sum, as in HostSum
        factor = torch.tensor(scale, dtype=self._sum.dtype)
        part = torch.cat([self._sum * factor, self._sum.new_full((1,), count)])
        self._sum.zero_()
        return part


def make_sum(size: int, dtype: np.dtype[Any], device: torch.device | None) -> GradientSum:
    """Return a sum on a device; None: in main memory, as an array."""
    return HostSum(size, dtype) if device is None else DeviceSum(size, dtype, device)
