"""Networks described without torch: names, shapes and initial values of their parameters.

A learner builds torch modules from these descriptions (build.py), every other rank a forward pass in numpy
(numpy_policy.py). The order of `parameters` is the order in the parameter vector (parameters.py), and the
names are those of the torch modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hpcmarl.config import NetworkConfig
from hpcmarl.types import ActionSpace, FloatArray, PolicySpec

GAINS = {"tanh": 5.0 / 3.0, "relu": 2.0**0.5}
# Gain of a policy's last layer: the first policy is nearly uniform.
FIRST_POLICY_GAIN = 0.01
FIRST_VALUE_GAIN = 0.1  # of a last layer: the first values are small beside most rewards
# Of the layer that makes weights: with the usual widths the first Q_tot moves about as much as one of its
# utilities. Weights of gain 1 amplify ten times, and every copy of the target network feeds that back.
FIRST_WEIGHT_GAIN = 0.25

Draw = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]


class Parameter(NamedTuple):
    """One array of parameters. averaged: it is not trained but averaged over updates (moments.py), and lies
    behind all trained ones."""

    shape: tuple[int, ...]
    draw: Draw
    averaged: bool = False


class Shape:
    """Describes a network or a part of one."""

    def own(self) -> Mapping[str, Parameter]:
        """Return the parameters that belong to no child, by name."""
        return {}

    def children(self) -> Mapping[str, Shape]:
        """Return the parts, by name, in the order of their parameters."""
        return {}

    def parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with their full names."""
        for name, parameter in self.own().items():
            yield prefix + name, parameter
        for name, child in self.children().items():
            yield from child.parameters(f"{prefix}{name}.")

    def inner(self, prefix: str = "") -> Iterator[tuple[str, Shape]]:
        """Yield this shape and all parts of it, each with what the names of its parameters begin with."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.inner(f"{prefix}{name}.")


def zeros(_generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Draw nothing: zeros."""
    return np.zeros(shape, np.float32)


def orthogonal(gain: float, blocks: int = 1) -> Draw:
    """Return a function that draws (semi-)orthogonal matrices [O, I], scaled by `gain`; of so many blocks [O
    / blocks, I] each.

    Source: arXiv 1312.6120. The decomposition is done in double precision, so that float32 results do not
    depend on the library's rounding.
    """

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        rows, columns = shape[0] // blocks, shape[1]
        parts = []
        for _ in range(blocks):
            normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
            basis, triangle = np.linalg.qr(normal)
            basis *= np.where(np.diagonal(triangle) < 0, -1.0, 1.0)  # makes the distribution uniform
            parts.append(basis if rows >= columns else basis.T)
        return np.asarray(gain * np.concatenate(parts), np.float32)

    return draw


@dataclass(frozen=True)
class DenseShape(Shape):
    """Linear layers with the activation after each of them but, unless `activate_last`, the last; `last_gain`
    scales the last layer's weights."""

    sizes: tuple[int, ...]
    activation: str
    activate_last: bool = False
    last_gain: float | None = None

    def own(self) -> Mapping[str, Parameter]:
        found: dict[str, Parameter] = {}
        for index, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            last = index == len(self.sizes) - 2
            gain = self.last_gain if last and self.last_gain is not None else GAINS[self.activation]
            found[f"layers.{index}.weight"] = Parameter((outputs, inputs), orthogonal(gain))
            found[f"layers.{index}.bias"] = Parameter((outputs,), zeros)
        return found

    def stages(self, prefix: str) -> list[dict[str, str | None]]:
        """List the layers as {kind, weight, bias, activation or None}, with the names of their parameters."""
        stages: list[dict[str, str | None]] = []
        for index in range(len(self.sizes) - 1):
            plain = index == len(self.sizes) - 2 and not self.activate_last
            name = f"{prefix}layers.{index}."
            stages.append(
                {
                    "kind": "dense",
                    "weight": f"{name}weight",
                    "bias": f"{name}bias",
                    "activation": None if plain else self.activation,
                }
            )
        return stages


@dataclass(frozen=True)
class GRUShape(Shape):
    """A GRU cell as torch has it, with orthogonal weights gate by gate."""

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
class MomentsShape(Shape):
    """Running moments of `size` features: count, sums, sums of squares."""

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
    """Several networks under names."""

    parts: Mapping[str, Shape]

    def children(self) -> Mapping[str, Shape]:
        return self.parts


@dataclass(frozen=True)
class PolicyShape(Shape):
    """A policy network: dense layers, perhaps a GRU, then `raw_size` outputs; with `dueling` the last layer
    is two (dueling.py).

    Attributes:
        observation: Size of a flattened observation.
        agents: Agents of the policy, N.
        action: What an agent may do.
        raw_size: Outputs, K.
        normalise: Whether inputs are in units of their own spread so far.
        agent_id: Whether the agent's number is an input.
        last_action: Whether the agent's last action is one (discrete actions only).
    """

    observation: int
    agents: int
    action: ActionSpace
    config: NetworkConfig
    raw_size: int
    last_gain: float = FIRST_POLICY_GAIN
    normalise: bool = False
    agent_id: bool = False
    last_action: bool = False
    dueling: bool = False

    @classmethod
    def of(
        cls,
        spec: PolicySpec,
        config: NetworkConfig,
        raw_size: int,
        last_gain: float = FIRST_POLICY_GAIN,
        **more: bool,
    ) -> PolicyShape:
        """Return the shape of a policy's network; more: see the attributes."""
        return cls(spec.observation_size, len(spec.agents), spec.action, config, raw_size, last_gain, **more)

    @property
    def actions(self) -> int:
        """A, how many inputs are the last action's one-hot; 0 where it is not seen."""
        return self.action.sizes[0] if self.last_action else 0

    @property
    def inputs(self) -> int:
        """D: the observation, the last action, the agent's number."""
        return self.observation + self.actions + (self.agents if self.agent_id else 0)

    @property
    def width(self) -> int:
        """H, of the GRU's memory; 0 without one."""
        return self.config.memory if self.config.recurrent else 0

    @property
    def memory_size(self) -> int:
        """Numbers that an agent remembers from a step to the next when it acts, H + A."""
        return self.width + self.actions

    @property
    def moments(self) -> MomentsShape | None:
        return MomentsShape(self.inputs) if self.normalise else None

    @property
    def body(self) -> DenseShape | None:
        """The layers before the GRU or the two heads; None where `outputs` are all layers."""
        if not (self.config.recurrent or self.dueling):
            return None
        return DenseShape((self.inputs, *self.config.hidden), self.config.activation, activate_last=True)

    @property
    def cell(self) -> GRUShape | None:
        return GRUShape(self._last_hidden, self.config.memory) if self.config.recurrent else None

    @property
    def outputs(self) -> DenseShape:
        if self.body is None:
            return DenseShape(
                (self.inputs, *self.config.hidden, self.raw_size),
                self.config.activation,
                last_gain=self.last_gain,
            )
        return DenseShape(
            (self._before_heads, self.raw_size), self.config.activation, last_gain=self.last_gain
        )

    @property
    def value(self) -> DenseShape | None:
        return (
            DenseShape((self._before_heads, 1), self.config.activation, last_gain=self.last_gain)
            if self.dueling
            else None
        )

    @property
    def _last_hidden(self) -> int:
        return self.config.hidden[-1] if self.config.hidden else self.inputs

    @property
    def _before_heads(self) -> int:
        return self.config.memory if self.config.recurrent else self._last_hidden

    def children(self) -> Mapping[str, Shape]:
        return _present(
            moments=self.moments, body=self.body, cell=self.cell, outputs=self.outputs, value=self.value
        )

    def stages(self, prefix: str = "") -> list[dict[str, str | None]]:
        """List what leads from an observation to raw outputs: {kind: normalise, dense, gru or dueling,
        parameters by name, activation or None}."""
        found: list[dict[str, str | None]] = (
            [] if self.moments is None else [{"kind": "normalise", "moments": f"{prefix}moments.moments"}]
        )
        if self.body is not None:
            found += self.body.stages(f"{prefix}body.")
        if self.cell is not None:
            found.append(
                {
                    "kind": "gru",
                    **{name: f"{prefix}cell.{name}" for name in self.cell.own()},
                    "activation": None,
                }
            )
        found += self.outputs.stages(f"{prefix}outputs.")
        if self.value is not None:
            value = self.value.stages(f"{prefix}value.")[0]
            found[-1] |= {"kind": "dueling", "value_weight": value["weight"], "value_bias": value["bias"]}
        return found


@dataclass(frozen=True)
class CriticShape(Shape):
    """A value network: dense layers, perhaps a GRU between them; `outputs` None: one output, without an axis
    of its own."""

    inputs: int
    config: NetworkConfig
    outputs: int | None = None
    normalise_inputs: bool = False
    normalise_values: bool = False

    @property
    def memory_size(self) -> int:
        """H; 0 without a GRU."""
        return self.config.memory if self.config.recurrent else 0

    def children(self) -> Mapping[str, Shape]:
        hidden, activation = self.config.hidden, self.config.activation
        moments = _present(
            _inputs=MomentsShape(self.inputs) if self.normalise_inputs else None,
            _targets=MomentsShape(1) if self.normalise_values else None,
        )
        if not self.config.recurrent:
            return {
                **moments,
                "layers": DenseShape((self.inputs, *hidden, self.outputs or 1), activation, last_gain=1.0),
            }
        return {
            **moments,
            "body": DenseShape((self.inputs, *hidden), activation, activate_last=True),
            "cell": GRUShape(hidden[-1] if hidden else self.inputs, self.config.memory),
            "head": DenseShape((self.config.memory, self.outputs or 1), activation, last_gain=1.0),
        }


@dataclass(frozen=True)
class SumMixerShape(Shape):
    """VDN's mixer has no parameters."""


@dataclass(frozen=True)
class MonotonicMixerShape(Shape):
    """QMIX's mixer (mixers.py): networks of the state that make its weights."""

    agents: int
    state: int
    width: int
    hyper: int
    activation: str = "relu"

    def children(self) -> Mapping[str, Shape]:
        def dense(*sizes: int, gain: float = FIRST_WEIGHT_GAIN) -> DenseShape:
            return DenseShape((self.state, *sizes), self.activation, last_gain=gain)

        return {
            "first": dense(self.hyper, self.agents * self.width),
            "second": dense(self.hyper, self.width),
            "bias": dense(self.width),
            "value": dense(self.width, 1, gain=FIRST_VALUE_GAIN),
        }


@dataclass(frozen=True)
class UnrestrictedMixerShape(Shape):
    """WQMIX's central mixer (mixers.py)."""

    agents: int
    state: int
    width: int

    def children(self) -> Mapping[str, Shape]:
        width = self.width
        return {
            "mixed": DenseShape(
                (self.state + self.agents, width, width, width, 1), "relu", last_gain=FIRST_VALUE_GAIN
            ),
            "value": DenseShape((self.state, width, 1), "relu", last_gain=FIRST_VALUE_GAIN),
        }


def _present(**parts: Shape | None) -> dict[str, Shape]:
    return {name: part for name, part in parts.items() if part is not None}
