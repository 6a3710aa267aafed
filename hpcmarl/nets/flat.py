"""Torch modules whose parameters and gradients are views of two vectors (parameters.py).

Both vectors lie on the device of the modules. On the CPU the parameters are the vector of the Model itself.
On another device they are a copy of it, and `refresh` makes the copy.

Modules work as usual: the `.data` and `.grad` of their parameters are views of the parameter vector and the
gradient vector.

The buffers of the modules follow the parameters. Buffers hold averaged numbers, which are not trained
(moments.py). Their `.grad` collects the numbers to be averaged.

Code must not rebind `.data` afterwards: no `.to()` (use `move`), no deepcopy, no `assign=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.device import HOST, array, overwrite
from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.types import FloatArray


class FlatParameters:
    """Named modules bound to a parameter vector.

    Attributes:
        vector: Parameters, shape [P]. It is the array passed to the constructor; the modules take its values.
        slopes: Gradients of the parameters on the device, shape [P].
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
        self.slopes = torch.zeros(layout.size, dtype=torch.float32)
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []
        tensors: dict[str, torch.Tensor] = {
            f"{name}.{own}": part
            for name, module in modules.items()
            for own, part in module.named_parameters()
        }
        # Further buffers are constants of the user's modules.
        buffers = {
            f"{name}.{own}": (module, own, part)
            for name, module in modules.items()
            for own, part in module.named_buffers()
        }
        tensors |= {name: part for name, (_, _, part) in buffers.items() if name in layout.shapes}
        self._constants = [
            (module, own) for name, (module, own, _) in buffers.items() if name not in layout.shapes
        ]
        if [(name, tuple(part.shape)) for name, part in tensors.items()] != list(layout.shapes.items()):
            raise ValueError(
                f"modules have the parameters {sorted(tensors)}; their description has "
                f"{sorted(layout.shapes)}"
            )
        for name, parameter in tensors.items():
            self._bind(parameter, layout.places[name])

    def _bind(self, parameter: torch.Tensor, place: slice) -> None:
        values = self._data[place].view(parameter.shape)
        if values.device == parameter.device:
            parameter.data = values
        else:
            # The object stays the same, for modules that hold it twice.
            parameter.grad = None
            trained = isinstance(parameter, nn.Parameter)
            swap: Any = torch.utils.swap_tensors
            swap(parameter, nn.Parameter(values) if trained else values)
        parameter.grad = self.slopes[place].view(parameter.shape)
        self._views.append((parameter, parameter.grad))

    @property
    def gradient(self) -> FloatArray:
        """Gradients of the parameters, shape [P]; on a CPU a view of them, else a copy."""
        return array(self.slopes)

    def move(self, device: torch.device) -> None:
        """Move parameters and gradients to a device. Call it before the first backward pass."""
        if device == self._data.device:
            return
        places = [self.place_of(parameter) for parameter, _ in self._views]
        self._data = torch.empty(self.vector.size, dtype=torch.float32, device=device)
        self.slopes = torch.zeros(self.vector.size, dtype=torch.float32, device=device)
        views, self._views = self._views, []
        for (parameter, _), place in zip(views, places, strict=True):
            self._bind(parameter, place)
        for module, own in self._constants:
            parent, _, last = own.rpartition(".")
            owner = module.get_submodule(parent)
            setattr(owner, last, getattr(owner, last).to(device))
        self.refresh()

    def refresh(self) -> None:
        """Copy `vector` to the modules after it has changed; nothing is needed on the CPU."""
        if self._data.device != HOST:
            overwrite(self._data, self.vector)

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
        self.refresh()

    def zero_gradient(self) -> None:
        """Set the gradient to zero and restore views that an optimizer or a backward pass replaced."""
        self.slopes.zero_()
        for parameter, view in self._views:
            if parameter.grad is not view:
                parameter.grad = view
