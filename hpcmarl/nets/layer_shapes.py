"""Descriptions of layers without torch: names, shapes and initial values of their parameters.

Networks consist of them (shapes.py). The order of `parameters` is their order in the parameter vector
(parameters.py). The names are those of the torch modules (build.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hpcmarl.types import FloatArray

GAINS = {"tanh": 5.0 / 3.0, "relu": 2.0**0.5}
# Gain of a policy's last layer. It makes the initial policy nearly uniform.
FIRST_POLICY_GAIN = 0.01
# Gain of a last layer of values. It makes the initial values small compared with most rewards.
FIRST_VALUE_GAIN = 0.1
# Gain of the last layer that produces mixing weights. With the usual widths, the initial Q_tot then changes
# about as much as one of its utilities. A gain of 1 amplifies ten times, and every copy of the target network
# feeds that back.
FIRST_WEIGHT_GAIN = 0.25

Draw = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]


class Parameter(NamedTuple):
    """One array of parameters.

    Attributes:
        shape: Shape of the array.
        draw: Function that draws the initial values.
        averaged: Whether the numbers are averaged over updates (moments.py) instead of trained. They lie
            behind all trained parameters.
    """

    shape: tuple[int, ...]
    draw: Draw
    averaged: bool = False


class Shape:
    """Description of a network or of a part of one."""

    def own(self) -> Mapping[str, Parameter]:
        """Return the parameters that belong to no child, by name."""
        return {}

    def children(self) -> Mapping[str, Shape]:
        """Return the parts by name, in the order of their parameters."""
        return {}

    def parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with their full names."""
        for name, parameter in self.own().items():
            yield prefix + name, parameter
        for name, child in self.children().items():
            yield from child.parameters(f"{prefix}{name}.")

    def inner(self, prefix: str = "") -> Iterator[tuple[str, Shape]]:
        """Yield this shape and all of its parts, each with the prefix of its parameters' names."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.inner(f"{prefix}{name}.")


def zeros(_generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Return zeros; an initial value that draws no random numbers."""
    return np.zeros(shape, np.float32)


def ones(_generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Return ones; an initial value that draws no random numbers."""
    return np.ones(shape, np.float32)


def orthogonal(gain: float, blocks: int = 1) -> Draw:
    """Return a function that draws (semi-)orthogonal matrices [O, I].

    Further dimensions, such as those of a convolution's kernel, count as inputs. The decomposition is done in
    double precision. The float32 results therefore do not depend on the rounding of the linear-algebra
    library.

    Args:
        gain: Factor of the matrices.
        blocks: Number of blocks [O / blocks, I] that are drawn separately and stacked.

    Source:
        arXiv 1312.6120.
    """

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        rows, columns = shape[0] // blocks, math.prod(shape[1:])
        parts = []
        for _ in range(blocks):
            normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
            basis, triangle = np.linalg.qr(normal)
            basis *= np.where(np.diagonal(triangle) < 0, -1.0, 1.0)  # makes the distribution uniform
            parts.append(basis if rows >= columns else basis.T)
        return np.asarray(gain * np.concatenate(parts), np.float32).reshape(shape)

    return draw


@dataclass(frozen=True)
class DenseShape(Shape):
    """Linear layers, each followed by the activation; the last one only if `activate_last` is set.

    Attributes:
        sizes: Size of the inputs, then of the outputs of each layer.
        activation: "tanh" or "relu".
        activate_last: Whether the activation also follows the last layer.
        last_gain: Gain of the last layer's initial weights; None: the gain of the activation.
        layer_norm: Whether a layer normalisation precedes each activation.
    """

    sizes: tuple[int, ...]
    activation: str
    activate_last: bool = False
    last_gain: float | None = None
    layer_norm: bool = False

    def own(self) -> Mapping[str, Parameter]:
        arrays: dict[str, Parameter] = {}
        for index, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            last = index == len(self.sizes) - 2
            gain = self.last_gain if last and self.last_gain is not None else GAINS[self.activation]
            arrays[f"layers.{index}.weight"] = Parameter((outputs, inputs), orthogonal(gain))
            arrays[f"layers.{index}.bias"] = Parameter((outputs,), zeros)
        return arrays

    def children(self) -> Mapping[str, Shape]:
        return {f"norms.{index}": LayerNormShape(size) for index, size in enumerate(self.normalised)}

    @property
    def normalised(self) -> tuple[int, ...]:
        """Sizes of the layers whose outputs are normalised."""
        return self.sizes[1 : None if self.activate_last else -1] if self.layer_norm else ()

    def stages(self, prefix: str) -> list[dict[str, str | None]]:
        """List the layers as dictionaries of kind, weight, bias and activation.

        Args:
            prefix: Prefix of the parameters' names.

        Returns:
            One dictionary per layer. Weight and bias are names of parameters; activation may be None. Layers
            with a layer normalisation also have norm_weight and norm_bias.
        """
        stages: list[dict[str, str | None]] = []
        for index in range(len(self.sizes) - 1):
            plain = index == len(self.sizes) - 2 and not self.activate_last
            name, norm = f"{prefix}layers.{index}.", f"{prefix}norms.{index}."
            stage = {
                "kind": "dense",
                "weight": f"{name}weight",
                "bias": f"{name}bias",
                "activation": None if plain else self.activation,
            }
            if index < len(self.normalised):
                stage |= {"norm_weight": f"{norm}weight", "norm_bias": f"{norm}bias"}
            stages.append(stage)
        return stages


@dataclass(frozen=True)
class LayerNormShape(Shape):
    """A layer normalisation of `size` features (arXiv 1607.06450)."""

    size: int

    def own(self) -> Mapping[str, Parameter]:
        return {"weight": Parameter((self.size,), ones), "bias": Parameter((self.size,), zeros)}


@dataclass(frozen=True)
class GRUShape(Shape):
    """A GRU cell as torch defines it; the weights of each gate are orthogonal."""

    inputs: int
    memory: int

    def own(self) -> Mapping[str, Parameter]:
        gates = 3 * self.memory
        return {
            "weight_ih": Parameter((gates, self.inputs), orthogonal(1.0, 3)),
            "weight_hh": Parameter((gates, self.memory), orthogonal(1.0, 3)),
            "bias_ih": Parameter((gates,), zeros),
            "bias_hh": Parameter((gates,), zeros),
        }


@dataclass(frozen=True)
class LSTMShape(Shape):
    """An LSTM cell as torch defines it; the weights of each gate are orthogonal."""

    inputs: int
    memory: int

    def own(self) -> Mapping[str, Parameter]:
        gates = 4 * self.memory
        return {
            "weight_ih": Parameter((gates, self.inputs), orthogonal(1.0, 4)),
            "weight_hh": Parameter((gates, self.memory), orthogonal(1.0, 4)),
            "bias_ih": Parameter((gates,), zeros),
            "bias_hh": Parameter((gates,), zeros),
        }


@dataclass(frozen=True)
class MomentsShape(Shape):
    """Running moments of `size` features: count, sums and sums of squares."""

    size: int

    def own(self) -> Mapping[str, Parameter]:
        return {"moments": Parameter((1 + 2 * self.size,), zeros, averaged=True)}


@dataclass(frozen=True)
class ConstantShape(Shape):
    """One trained number."""

    name: str
    initial: float

    def own(self) -> Mapping[str, Parameter]:
        return {self.name: Parameter((1,), lambda _, shape: np.full(shape, self.initial, np.float32))}


@dataclass(frozen=True)
class GroupShape(Shape):
    """Several named networks."""

    parts: Mapping[str, Shape]

    def children(self) -> Mapping[str, Shape]:
        return self.parts
