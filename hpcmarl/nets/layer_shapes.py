"""Descriptions of layers without torch: names, shapes and initial values of their parameters.

Networks consist of them (shapes.py). The order of `parameters` is their order in the parameter vector
(parameters.py). The names are those of the torch modules (build.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hpcmarl.config import Initialisation
from hpcmarl.nets.initial_values import Bias, Draw, Weights, linear_bound, ones, zeros

GAINS = {"tanh": 5.0 / 3.0, "relu": 2.0**0.5}
# Gain of a policy's last layer. It makes the initial policy nearly uniform.
FIRST_POLICY_GAIN = 0.01
# Gain of a last layer of values. It makes the initial values small compared with most rewards.
FIRST_VALUE_GAIN = 0.1
# Gain of the last layer that produces mixing weights. With the usual widths, the initial Q_tot then changes
# about as much as one of its utilities. A gain of 1 amplifies ten times, and every copy of the target network
# feeds that back.
FIRST_WEIGHT_GAIN = 0.25


class Parameter(NamedTuple):
    """One array of parameters.

    Attributes:
        shape: Shape of the array.
        draw: Function that draws the initial values (initial_values.py).
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


class NetworkShape(Shape, ABC):
    """Description of a network that a section of the configuration initialises."""

    @property
    @abstractmethod
    def initialisation(self) -> Initialisation:
        """Distribution of the initial weights of its layers."""

    def parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with their full names, with the initial values of this network."""
        for name, parameter in super().parameters(prefix):
            draw = parameter.draw
            if isinstance(draw, Weights | Bias):
                parameter = parameter._replace(draw=replace(draw, initialisation=self.initialisation))
            yield name, parameter


@dataclass(frozen=True)
class DenseShape(Shape):
    """Linear layers, each followed by the activation; the last one only if `activate_last` is set.

    Attributes:
        sizes: Size of the inputs, then of the outputs of each layer.
        activation: "tanh" or "relu".
        activate_last: Whether the activation also follows the last layer.
        last_gain: Gain of the last layer's initial weights (Weights.gain); with `torch`, the factor of its
            bounds. None: the gain of the activation, and 1.
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
            own = self.last_gain if last else None
            gain, bound = GAINS[self.activation] if own is None else own, linear_bound(inputs, own)
            arrays[f"layers.{index}.weight"] = Parameter((outputs, inputs), Weights(gain, bound))
            arrays[f"layers.{index}.bias"] = Parameter((outputs,), Bias(bound))
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
    """A GRU cell as torch defines it; the weights of each gate are drawn separately."""

    inputs: int
    memory: int

    def own(self) -> Mapping[str, Parameter]:
        gates, bound = 3 * self.memory, linear_bound(self.memory)
        return {
            "weight_ih": Parameter((gates, self.inputs), Weights(1.0, bound, 3)),
            "weight_hh": Parameter((gates, self.memory), Weights(1.0, bound, 3)),
            "bias_ih": Parameter((gates,), Bias(bound)),
            "bias_hh": Parameter((gates,), Bias(bound)),
        }


@dataclass(frozen=True)
class LSTMShape(Shape):
    """An LSTM cell as torch defines it; the weights of each gate are drawn separately."""

    inputs: int
    memory: int

    def own(self) -> Mapping[str, Parameter]:
        gates, bound = 4 * self.memory, linear_bound(self.memory)
        return {
            "weight_ih": Parameter((gates, self.inputs), Weights(1.0, bound, 4)),
            "weight_hh": Parameter((gates, self.memory), Weights(1.0, bound, 4)),
            "bias_ih": Parameter((gates,), Bias(bound)),
            "bias_hh": Parameter((gates,), Bias(bound)),
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
