"""Torch modules whose parameters and gradients are views of two vectors (parameters.py).

Modules work as usual: the `.data` and `.grad` of their parameters are views of the parameter vector and the
gradient vector.

The buffers of the modules follow the parameters. Buffers hold averaged numbers, which are not trained
(moments.py). Their `.grad` collects the numbers to be averaged.

Code must not rebind `.data` afterwards: no `.to()`, no deepcopy, no `assign=True`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.types import FloatArray


class FlatParameters:
    """Named modules bound to a parameter vector.

    Attributes:
        vector: Parameters, shape [P]. It is the array passed to the constructor; the modules take its values.
        gradient: Gradients of the parameters, shape [P].
    """

    def __init__(self, layout: ParameterLayout, modules: Mapping[str, nn.Module], vector: FloatArray) -> None:
        """Bind the modules to `vector`.

        Args:
            layout: Names, shapes and places of the parameters.
            modules: Modules by name.
            vector: Parameters, shape [P] float32.

        Raises:
            ValueError: If the names or shapes of the modules' parameters differ from the layout.
        """
        self.vector = vector
        self._data = torch.from_numpy(vector)
        self._gradient = torch.zeros(layout.size, dtype=torch.float32)
        self.gradient: FloatArray = self._gradient.numpy()
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []
        tensors: dict[str, torch.Tensor] = {
            f"{name}.{own}": part
            for name, module in modules.items()
            for own, part in module.named_parameters()
        }
        tensors |= {
            f"{name}.{own}": part for name, module in modules.items() for own, part in module.named_buffers()
        }
        if [(name, tuple(part.shape)) for name, part in tensors.items()] != list(layout.shapes.items()):
            raise ValueError(
                f"modules have the parameters {sorted(tensors)}; their description has "
                f"{sorted(layout.shapes)}"
            )
        for name, parameter in tensors.items():
            self._bind(parameter, layout.places[name])

    def _bind(self, parameter: torch.Tensor, place: slice) -> None:
        parameter.data = self._data[place].view(parameter.shape)
        parameter.grad = self._gradient[place].view(parameter.shape)
        self._views.append((parameter, parameter.grad))

    def place_of(self, parameter: torch.Tensor) -> slice:
        """Return the slice of the vector that holds one of the modules' parameters."""
        start = int(parameter.storage_offset())
        return slice(start, start + parameter.numel())

    def load(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the parameters.

        Raises:
            ValueError: If the length differs.
        """
        if vector.shape != self.vector.shape:
            raise ValueError(f"parameters have shape {vector.shape}; these networks need {self.vector.shape}")
        np.copyto(self.vector, vector)

    def zero_gradient(self) -> None:
        """Set the gradient to zero and restore views that an optimizer or a backward pass replaced."""
        self._gradient.zero_()
        for parameter, view in self._views:
            if parameter.grad is not view:
                parameter.grad = view
