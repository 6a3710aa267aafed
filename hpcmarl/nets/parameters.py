"""The parameter vector: all parameters of a run in one contiguous float32 array.

Trained parameters come first, module after module. Averaged numbers follow them (shapes.py). Creating, naming
and reading the vector does not need torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.nets.layer_shapes import Shape
from hpcmarl.types import FloatArray, Layer

# In bytes. Another alignment can change the order in which numpy adds, and thus the rounding of sums.
ALIGNMENT = 64


class ParameterLayout:
    """Places of the parameters of named modules in the vector.

    Attributes:
        size: Length of the vector, P.
        modules: Descriptions of the modules, by name.
        segments: Slice of each module's trained parameters.
        averages: Slice of the averaged numbers, at the end of the vector.
        layers: The trained matrices.
        layer_names: Full names of these matrices, in the same order.
        places: Slice of each parameter by full name, in the order of the vector.
        shapes: Shape of each parameter by full name.
    """

    def __init__(self, modules: Mapping[str, Shape]) -> None:
        self.modules = dict(modules)
        self._parameters = {
            name: parameter
            for module, shape in modules.items()
            for name, parameter in shape.parameters(f"{module}.")
        }
        # The sort is stable and puts trained parameters first.
        ordered = sorted(self._parameters, key=lambda name: self._parameters[name].averaged)
        self.shapes = {name: self._parameters[name].shape for name in ordered}
        self.places: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            end = start + int(np.prod(shape, dtype=np.int64))
            self.places[name] = slice(start, end)
            start = end
        self.size = start
        trained = [name for name in ordered if not self._parameters[name].averaged]
        self.averages = slice(self.places[trained[-1]].stop if trained else 0, self.size)
        self.segments = {module: self._extent(trained, f"{module}.") for module in modules}
        self.layers = tuple(
            Layer(self.places[name], (shape[0], shape[1]))
            for name in trained
            if len(shape := self.shapes[name]) == 2
        )
        self.layer_names = tuple(name for name in trained if len(self.shapes[name]) == 2)
        self._trained = trained

    def extent(self, prefix: str) -> slice:
        """Return the slice of all trained parameters whose names begin with `prefix`."""
        return self._extent(self._trained, prefix)

    def _extent(self, trained: list[str], prefix: str) -> slice:
        places = [self.places[name] for name in trained if name.startswith(prefix)]
        return slice(places[0].start, places[-1].stop) if places else slice(0, 0)

    def prefix_of(self, wanted: Shape) -> str:
        """Return the common prefix of the parameter names of a network or part.

        Raises:
            KeyError: If the shape does not belong to the modules.
        """
        for module, shape in self.modules.items():
            for prefix, part in shape.inner(f"{module}."):
                if part is wanted:
                    return prefix
        raise KeyError("the shape belongs to none of the modules")

    def named(self, vector: FloatArray) -> dict[str, FloatArray]:
        """Return views of a vector [P] by full name, in the order of the vector."""
        return {name: vector[place].reshape(self.shapes[name]) for name, place in self.places.items()}

    def draw(self, vector: FloatArray, seed: int) -> None:
        """Fill a vector [P] with initial values, which depend only on the layout and the seed."""
        generator = np.random.default_rng(seed)
        for name, view in self.named(vector).items():
            view[...] = self._parameters[name].draw(generator, self.shapes[name])


def aligned_zeros(size: int) -> FloatArray:
    """Return zeros [size] float32 that begin at a multiple of ALIGNMENT bytes."""
    spare = ALIGNMENT // 4
    whole = np.zeros(size + spare, np.float32)
    first = (-whole.ctypes.data % ALIGNMENT) // 4
    return whole[first : first + size]
