"""Torch modules whose parameters are views of one vector (parameters.py), and their gradients views of
another.

Modules keep working as usual: their parameters' `.data` and `.grad` are views of the two vectors. Behind the
parameters come the modules' buffers: numbers that are averaged, not trained (moments.py); their `.grad`
gathers what is to be averaged. Nothing may rebind `.data` afterwards (no `.to()`, no deepcopy, no
`assign=True`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.types import FloatArray


class FlatParameters:
    """Named modules bound to a vector.

    Attributes:
        vector: The parameters [P]; the array given, whose values the modules take over.
        gradient: Their gradients [P].
    """

    def __init__(self, layout: ParameterLayout, modules: Mapping[str, nn.Module], vector: FloatArray) -> None:
        """Bind modules that have the names and shapes of `layout`. Raises ValueError for others."""
        self.vector = vector
        self._data = torch.from_numpy(vector)
        self._gradient = torch.zeros(layout.size, dtype=torch.float32)
        self.gradient: FloatArray = self._gradient.numpy()
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []
        found: dict[str, torch.Tensor] = {
            f"{name}.{own}": part
            for name, module in modules.items()
            for own, part in module.named_parameters()
        }
        found |= {
            f"{name}.{own}": part for name, module in modules.items() for own, part in module.named_buffers()
        }
        if [(name, tuple(part.shape)) for name, part in found.items()] != list(layout.shapes.items()):
            raise ValueError(
                f"modules have the parameters {sorted(found)}; their description has {sorted(layout.shapes)}"
            )
        for name, parameter in found.items():
            self._bind(parameter, layout.places[name])

    def _bind(self, parameter: torch.Tensor, place: slice) -> None:
        parameter.data = self._data[place].view(parameter.shape)
        parameter.grad = self._gradient[place].view(parameter.shape)
        self._views.append((parameter, parameter.grad))

    def place_of(self, parameter: torch.Tensor) -> slice:
        """Where in the vector one of the modules' parameters is."""
        start = int(parameter.storage_offset())
        return slice(start, start + parameter.numel())

    def load(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the parameters. Raises ValueError where the length differs."""
        if vector.shape != self.vector.shape:
            raise ValueError(f"parameters have shape {vector.shape}; these networks need {self.vector.shape}")
        np.copyto(self.vector, vector)

    def zero_gradient(self) -> None:
        """Set the gradient to zero, and bind it again where an optimizer or a backward pass unbound it."""
        self._gradient.zero_()
        for parameter, view in self._views:
            if parameter.grad is not view:
                parameter.grad = view
