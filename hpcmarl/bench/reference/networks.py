"""Plain torch networks of the bare loops, with hpcmarl's parameters in the same order.

Inputs are one tensor [..., D] of numbers. Networks with encoders, and modules of the user, get a list with
one tensor for each field of their input form instead: observations with their own type and shape, and
numbers. The leading dimensions are those of the loop, [rows, B, N] or fewer. `prepare` converts images to
float32; a loop calls it once for all networks that see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hpcmarl.nets.encoder_shapes import (
    IMPALA,
    NATURE,
    CNNShape,
    DictShape,
    EncoderShape,
    EntitiesShape,
    FlatShape,
)
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.shapes import CriticShape, PolicyShape
from hpcmarl.types import Array

# An observation: one tensor, or one for each key of a Dict or Tuple space.
Value = torch.Tensor | dict[str, torch.Tensor]
Observed = torch.Tensor | list[Value]


def observed(array: Array) -> Observed:
    """Return an array [..., D], or records [...], as inputs of a bare network."""
    if array.dtype.names is None:
        return torch.from_numpy(np.array(array))
    return [_value(array[name]) for name in array.dtype.names]


def _value(array: Array) -> Value:
    if array.dtype.names is None:
        return torch.from_numpy(np.array(array, order="C"))
    return {name: torch.from_numpy(np.array(array[name], order="C")) for name in array.dtype.names}


def first_rows(inputs: Observed, count: int) -> Observed:
    """Return the first rows of inputs, without a copy."""
    if isinstance(inputs, torch.Tensor):
        return inputs[:count]
    return [
        value[:count]
        if isinstance(value, torch.Tensor)
        else {key: each[:count] for key, each in value.items()}
        for value in inputs
    ]


def multilayer(sizes: Sequence[int], activation: str, *, activate_last: bool = False) -> nn.Sequential:
    """Return linear layers with the activation between them.

    Args:
        sizes: Widths of the input, hidden layers and output.
        activation: "tanh" or "relu".
        activate_last: Whether an activation follows the last layer.
    """
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), nn.Tanh() if activation == "tanh" else nn.ReLU()]
    return nn.Sequential(*(parts if activate_last else parts[:-1]))


# ---- encoders: observations [n, ...] to features [n, F]


class PlainCNN(nn.Module):
    """Convolutions, then one dense layer, with ReLU after each."""

    def __init__(self, shape: CNNShape) -> None:
        super().__init__()
        self.channels_last = shape.channels_last
        channels, parts = shape.channels, list[nn.Module]()
        if shape.architecture == "nature":
            for kernel, stride, outputs in NATURE:
                parts += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
                channels = outputs
        else:
            for outputs in IMPALA:
                parts.append(PlainBlock(channels, outputs))
                channels = outputs
            parts.append(nn.ReLU())
        self.layers = nn.Sequential(
            *parts, nn.Flatten(), nn.Linear(shape.dense.sizes[0], shape.units), nn.ReLU()
        )

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """Return float32 pixels, those of integers from 0 to 1."""
        return image if image.is_floating_point() else image.float() / 255.0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = self.prepare(image)
        features: torch.Tensor = self.layers(pixels.permute(0, 3, 1, 2) if self.channels_last else pixels)
        return features


class PlainBlock(nn.Module):
    """A convolution, a pooling, and two residual units."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.units = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
            )
            for _ in range(2)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = functional.max_pool2d(self.first(hidden), 3, 2, 1)
        for unit in self.units:
            hidden = hidden + unit(hidden)
        return hidden


class PlainAttention(nn.Module):
    """Self-attention and two dense layers; a layer normalisation precedes both, and inputs are added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.dense = nn.Sequential(nn.LayerNorm(width), *multilayer((width, 2 * width, width), "relu"))

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        projected = self.projections(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, present[:, None, None])
        tokens = tokens + self.joined(attended.transpose(1, 2).flatten(2))
        updated: torch.Tensor = tokens + self.dense(tokens)
        return updated


class PlainEntities(nn.Module):
    """Attention over the agent itself and the entities that are present."""

    def __init__(self, shape: EntitiesShape) -> None:
        super().__init__()
        self.own, self.groups = list(shape.own_places), shape.groups
        if self.own:
            self.embedding = nn.Sequential(nn.Linear(len(self.own), shape.width), nn.ReLU())
        else:
            self.token = nn.Parameter(torch.zeros(shape.width))
        self.embeddings = nn.ModuleList(
            nn.Sequential(nn.Linear(group.size, shape.width), nn.ReLU()) for group in shape.groups
        )
        self.attention = nn.ModuleList(PlainAttention(shape.width, shape.heads) for _ in range(shape.layers))

    def prepare(self, observation: torch.Tensor) -> torch.Tensor:
        """Return float32 numbers."""
        return observation.float()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        flat = observation.float().flatten(1)
        own = self.embedding(flat[:, self.own]) if self.own else self.token.expand(len(flat), -1)
        tokens, present = [own.unsqueeze(1)], [torch.ones(len(flat), 1, dtype=torch.bool)]
        for group, embedding in zip(self.groups, self.embeddings, strict=True):
            entities = flat[:, list(group.places)].view(len(flat), group.entities, group.size)
            tokens.append(embedding(entities))
            present.append((entities != 0).any(-1))
        hidden, there = torch.cat(tokens, 1), torch.cat(present, 1)
        for layer in self.attention:
            hidden = layer(hidden, there)
        counted = there[:, 1:, None].float()
        mean = (hidden[:, 1:] * counted).sum(1) / counted.sum(1).clamp(min=1.0)
        return torch.cat([hidden[:, 0], mean], -1)


class PlainEntries(nn.Module):
    """One encoder for each key of a dictionary of observations."""

    def __init__(self, shape: DictShape) -> None:
        super().__init__()
        self.keys = [key for key, _ in shape.entries]
        self.entries = nn.ModuleList(plain_encoder(each) for _, each in shape.entries)

    def prepare(self, observation: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the entries as their encoders prepare them."""
        pairs: Any = zip(self.keys, self.entries, strict=True)
        return {key: encoder.prepare(observation[key]) for key, encoder in pairs}

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        pairs = zip(self.keys, self.entries, strict=True)
        return torch.cat([encoder(observation[key]) for key, encoder in pairs], -1)


class PlainNumbers(nn.Flatten):
    """The numbers of an observation as they are."""

    def prepare(self, observation: torch.Tensor) -> torch.Tensor:
        """Return float32 numbers."""
        return observation.float()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return super().forward(observation.float())


def plain_encoder(shape: EncoderShape) -> nn.Module:
    """Return the plain module of an encoder."""
    modules: dict[type[EncoderShape], Any] = {
        CNNShape: PlainCNN,
        EntitiesShape: PlainEntities,
        DictShape: PlainEntries,
    }
    return PlainNumbers() if isinstance(shape, FlatShape) else modules[type(shape)](shape)


class PlainInputs(nn.Module):
    """Features [..., F] of a list of fields: encoders of the observations, and the numbers beside them.

    Args:
        form: The fields.
        encoders: Encoder of each field that has one, by the name of the field.
    """

    def __init__(self, form: InputForm, encoders: Mapping[str, EncoderShape]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(plain_encoder(shape) for shape in encoders.values())
        modules = dict(zip(encoders, self.encoders, strict=True))
        self._fields: list[tuple[Field, Any]] = [(field, modules.get(field.name)) for field in form.fields]

    def prepare(self, inputs: list[Value]) -> list[Value]:
        """Return the inputs with float32 observations."""
        pairs = zip(inputs, self._fields, strict=True)
        return [value if encoder is None else encoder.prepare(value) for value, (_, encoder) in pairs]

    def forward(self, inputs: list[Value]) -> torch.Tensor:
        leading = leading_shape(self._fields[0][0], inputs[0])
        parts: list[torch.Tensor] = []
        for value, (field, encoder) in zip(inputs, self._fields, strict=True):
            if encoder is None:
                assert isinstance(value, torch.Tensor)
                parts.append(value)
            else:
                last = len(leading) - (field.count is None)
                features = encoder(_flattened(value, last))
                parts.append(features.view(*leading, features.shape[-1] * (field.count or 1)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def leading_shape(field: Field, value: Value) -> tuple[int, ...]:
    """Return the dimensions of a field's values before those of the field itself."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape[: value.ndim - len(field.shape)])
    assert field.policy is not None
    part = field.policy.observation_parts[0]
    own = len(part.shape) + (field.count is not None)
    return tuple(value[part.key].shape[: value[part.key].ndim - own])


def _flattened(value: Value, last: int) -> Value:
    """Return a value with its dimensions up to `last` as one."""
    if isinstance(value, torch.Tensor):
        return value.flatten(0, last)
    return {key: each.flatten(0, last) for key, each in value.items()}


# ---- networks


class ReferenceAgent(nn.Module):
    """Values or logits [rows, B, N, K] of observations [rows, B, N, D], or of a list of fields.

    A recurrent network runs over the rows and starts from zero memory.

    Args:
        inputs: Length D of an observation, or of its features.
        outputs: Length K of the output.
        network: Configuration of the network.
        dueling: Whether the network has two heads; the mask of allowed actions [rows, B, N, K] then matters.
        encoder: Converts a list of fields to features; None: inputs are flat.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        network: Any,
        *,
        dueling: bool = False,
        encoder: PlainInputs | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.recurrent = network.recurrent
        last = network.hidden[-1] if network.hidden else inputs
        if self.recurrent or dueling:
            self.body = multilayer((inputs, *network.hidden), network.activation, activate_last=True)
        if self.recurrent:
            self.memory = nn.GRU(last, network.memory)
            last = network.memory
        whole = (last, outputs) if self.recurrent or dueling else (inputs, *network.hidden, outputs)
        self.outputs = multilayer(whole, network.activation)
        self.value = nn.Linear(last, 1) if dueling else None

    def prepare(self, inputs: Observed) -> Observed:
        """Return the inputs with float32 observations."""
        return (
            inputs
            if self.encoder is None or isinstance(inputs, torch.Tensor)
            else self.encoder.prepare(inputs)
        )

    def forward(self, obs: Observed, mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self._hidden(obs)
        if self.recurrent:
            shape = hidden.shape[:-1]
            hidden = self.memory(hidden.flatten(1, 2))[0].view(*shape, -1)
        return self._heads(hidden, mask)

    def step(
        self, obs: Observed, memory: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return outputs [E, N, K] of one row, and the memory [E * N, H] after it."""
        hidden = self._hidden(obs)
        if self.recurrent:
            after, last = self.memory(
                hidden.flatten(0, 1).unsqueeze(0), memory if memory is None else memory[None]
            )
            hidden, memory = after.view(*hidden.shape[:-1], -1), last[0]
        return self._heads(hidden, mask), memory

    def _hidden(self, obs: Observed) -> torch.Tensor:
        hidden: Any = obs if self.encoder is None else self.encoder(obs)
        features: torch.Tensor = self.body(hidden) if hasattr(self, "body") else hidden
        return features

    def _heads(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        values: torch.Tensor = self.outputs(hidden)
        if self.value is None:
            return values
        allowed = torch.ones_like(values) if mask is None else mask.float()
        mean = (values * allowed).sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True).clamp(min=1.0)
        centred: torch.Tensor = self.value(hidden) + values - mean
        return centred


class ReferenceModule(nn.Module):
    """A module of the user, called directly.

    Args:
        module: The module.
        form: Its inputs.
    """

    def __init__(self, module: nn.Module, form: InputForm) -> None:
        super().__init__()
        self.module, self._fields = module, form.fields

    def prepare(self, inputs: Observed) -> Observed:
        """Return the inputs; the module converts them itself."""
        return inputs

    def forward(self, inputs: list[Value], mask: torch.Tensor | None = None) -> torch.Tensor:
        leading = leading_shape(self._fields[0], inputs[0])
        raw: torch.Tensor = self.module(*self._arguments(inputs, len(leading) - 1))
        return raw.view(*leading, -1)

    def step(
        self, inputs: list[Value], memory: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return outputs [E, N, K] of one row, and the memory [E * N, H] after it."""
        leading = leading_shape(self._fields[0], inputs[0])
        arguments = self._arguments(inputs, len(leading) - 1)
        given = self.module(*arguments) if memory is None else self.module(*arguments, memory)
        raw, after = (given, None) if memory is None else given
        return raw.view(*leading, -1), after

    def _arguments(self, inputs: list[Value], last: int) -> tuple[Any, torch.Tensor]:
        """Return an observation and the further numbers, as docs/networks.md describes."""
        rows = [_flattened(value, last) for value in inputs]
        seen = {f.name: value for f, value in zip(self._fields, rows, strict=True) if f.policy is not None}
        numbers = [value for f, value in zip(self._fields, rows, strict=True) if f.policy is None]
        observation: Any = None if not seen else next(iter(seen.values())) if len(seen) == 1 else seen
        if numbers:
            return observation, torch.cat(numbers, -1)  # type: ignore[arg-type]
        first: Any = (
            observation if isinstance(observation, torch.Tensor) else next(iter(observation.values()))
        )
        return observation, torch.zeros(len(first), 0)


def make_agent(shape: PolicyShape) -> nn.Module:
    """Return the bare network of a policy."""
    if shape.module is not None:
        return ReferenceModule(shape.module.make(), shape.form)
    encoder = None if shape.encoder is None else PlainInputs(shape.form, {"observation": shape.encoder})
    return ReferenceAgent(shape.inputs, shape.raw_size, shape.config, dueling=shape.dueling, encoder=encoder)


def make_values(shape: CriticShape) -> nn.Module:
    """Return the bare network of a critic."""
    if shape.module is not None:
        assert shape.form is not None
        return ReferenceModule(shape.module.make(), shape.form)
    encoder = None
    if shape.encoders:
        assert shape.form is not None
        encoder = PlainInputs(shape.form, shape.encoders)
    return ReferenceAgent(shape.inputs, shape.outputs or 1, shape.config, encoder=encoder)
