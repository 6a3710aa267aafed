"""Description of a torch module of the user: what it gets, what it gives, and its parameters.

modules.py, which needs torch, makes such descriptions and the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from hpcmarl.nets.layer_shapes import Parameter, Shape
from hpcmarl.types import FloatArray

Role = Literal["policy", "critic", "mixer"]


@dataclass(frozen=True)
class ArraySpace:
    """An array that a module gets for each row.

    Attributes:
        shape: Its shape.
        dtype: Name of its numpy type, such as "uint8".
    """

    shape: tuple[int, ...]
    dtype: str


ObservationSpace = ArraySpace | dict[str, Any] | None


@dataclass(frozen=True)
class ModuleSpaces:
    """Inputs and outputs of a torch module of the user.

    Attributes:
        role: "policy", "critic" or "mixer".
        policy: Name of the policy to which a policy or critic belongs; "" for mixers.
        observation: Observation of a row: an ArraySpace; for Dict and Tuple spaces, and for critics with
            several observations, a dictionary of them by key; None: the module gets numbers only.
        numbers: Number of further float32 inputs of a row: last action, number of the agent, state, joint
            actions. May be 0.
        outputs: Number of outputs of a row, K.
        size: Number of values in the observation and the numbers together.
    """

    role: Role
    policy: str
    observation: ObservationSpace
    numbers: int
    outputs: int
    size: int


@dataclass(frozen=True)
class ModuleShape(Shape):
    """A torch module of the user.

    Attributes:
        make: Makes the module; equal calls give equal modules.
        draw: Draws the initial values of all parameters, by name.
        parameters_of: Shape of each parameter, by name.
        memory: Length of its memory, H; 0 without one.
    """

    make: Callable[[], Any]
    draw: Callable[[np.random.Generator], Mapping[str, FloatArray]]
    parameters_of: Mapping[str, tuple[int, ...]]
    memory: int = 0

    def parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters; the first that is drawn draws all."""
        drawn: dict[str, FloatArray] = {}
        first = next(iter(self.parameters_of), "")

        def value(name: str, generator: np.random.Generator, _shape: tuple[int, ...]) -> FloatArray:
            if name == first:
                drawn.update(self.draw(generator))
            return drawn[name]

        for name, shape in self.parameters_of.items():
            yield prefix + name, Parameter(shape, partial(value, name))
