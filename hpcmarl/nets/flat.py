"""All parameters of a run as one contiguous float32 vector, and their gradients as another.

Modules keep working as usual: their parameters' `.data` and `.grad` are views of the two vectors. Behind the parameters come the modules'
buffers: numbers that are averaged, not trained (moments.py); their `.grad` gathers what is to be averaged. Called by algos/;
knows no algorithm and no message. Nothing may rebind `.data` afterwards (no `.to()`, no deepcopy, no `assign=True`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from hpcmarl.types import FloatArray, Layer


class FlatParameters:
    """The parameters of named modules, in order: `segments` says which slice of the vector belongs to which name, `averages` which one to the
    buffers; `layers` are the matrices."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        parameters = [parameter for module in modules.values() for parameter in module.parameters()]
        buffers = [buffer for module in modules.values() for buffer in module.buffers()]
        self.size = sum(each.numel() for each in (*parameters, *buffers))
        self._data = torch.zeros(self.size, dtype=torch.float32)
        self._gradient = torch.zeros(self.size, dtype=torch.float32)
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._modules = dict(modules)
        self.segments: dict[str, slice] = {}
        self.layers: list[Layer] = []
        start = 0
        for name, module in modules.items():
            first = start
            for parameter in module.parameters():
                end = start + parameter.numel()
                self._bind(parameter, start, end)
                if parameter.ndim == 2:
                    self.layers.append(Layer(slice(start, end), (parameter.shape[0], parameter.shape[1])))
                start = end
            self.segments[name] = slice(first, start)
        self.averages = slice(start, self.size)
        for buffer in buffers:
            self._bind(buffer, start, start + buffer.numel())
            start += buffer.numel()
        self.vector: FloatArray = self._data.numpy()
        self.gradient: FloatArray = self._gradient.numpy()

    def _bind(self, parameter: torch.Tensor, start: int, end: int) -> None:
        view = self._data[start:end].view_as(parameter)
        view.copy_(parameter.data)
        parameter.data = view
        parameter.grad = self._gradient[start:end].view_as(parameter)
        self._views.append((parameter, parameter.grad))

    def place_of(self, parameter: torch.Tensor) -> slice:
        """Where in the vector one of the modules' parameters is."""
        start = int(parameter.storage_offset())
        return slice(start, start + parameter.numel())

    def extent_of(self, module: nn.Module) -> slice:
        """Where in the vector all the parameters of one of the modules are, or of a module inside it. Raises ValueError where it has none."""
        places = [self.place_of(parameter) for parameter in module.parameters()]
        if not places:
            raise ValueError(f"{type(module).__name__} has no parameters")
        return slice(places[0].start, places[-1].stop)

    def named(self) -> dict[str, FloatArray]:
        """The parameters and then the buffers by name, in the order of the vector: views."""
        parameters = {f"{name}.{own}": part for name, module in self._modules.items() for own, part in module.named_parameters()}
        buffers = {f"{name}.{own}": part for name, module in self._modules.items() for own, part in module.named_buffers()}
        return {name: part.detach().numpy() for name, part in (parameters | buffers).items()}

    def name_of(self, wanted: nn.Module) -> str:
        """What the names of this module's parameters begin with. Raises KeyError for a module that is not among them."""
        for name, module in self._modules.items():
            for own, part in module.named_modules():
                if part is wanted:
                    return f"{name}.{own}." if own else f"{name}."
        raise KeyError("no such module")

    def load(self, vector: FloatArray) -> None:
        """Copy a vector [P] into the parameters. Raises ValueError where the length differs."""
        if vector.shape != self.vector.shape:
            raise ValueError(f"parameters have shape {vector.shape}; these networks need ({self.size},)")
        np.copyto(self.vector, vector)

    def zero_gradient(self) -> None:
        """Set the gradient to zero, and bind it again where an optimizer or a backward pass unbound it."""
        self._gradient.zero_()
        for parameter, view in self._views:
            if parameter.grad is not view:
                parameter.grad = view
