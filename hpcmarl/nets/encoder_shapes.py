"""Descriptions of encoders without torch: the layers that turn an observation into features.

encoders.py builds the torch modules. `describe_encoder` chooses the encoder of an observation and checks that
it fits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hpcmarl.config import CNNConfig, EncoderConfig, EntitiesConfig, NetworkConfig
from hpcmarl.errors import ConfigError
from hpcmarl.nets.initial_values import Bias, Weights, linear_bound, zeros
from hpcmarl.nets.layer_shapes import DenseShape, LayerNormShape, Parameter, Shape
from hpcmarl.types import PolicySpec

# Kernel, stride and channels of the convolutions of doi 10.1038/nature14236.
NATURE = ((8, 4, 32), (4, 2, 64), (3, 1, 64))
NATURE_FEATURES = 512
# Channels of the residual blocks of arXiv 1802.01561.
IMPALA = (16, 32, 32)
IMPALA_FEATURES = 256
# Least height and width of the Nature encoder.
LEAST_PIXELS = 36
RELU_GAIN = 2.0**0.5


class Entry(NamedTuple):
    """An observation or one entry of it.

    Attributes:
        key: Key of the configuration that describes its encoder.
        shape: Its shape.
        dtype: Name of its numpy type.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def text(self) -> str:
        """Shape and type, for messages."""
        return f"{' x '.join(map(str, self.shape)) or 'one number'} {self.dtype}"


class EncoderShape(Shape, ABC):
    """Description of an encoder."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Number of features, F."""


@dataclass(frozen=True)
class FlatShape(EncoderShape):
    """The numbers of an observation as they are.

    Attributes:
        size: Their number.
    """

    size: int

    @property
    def features(self) -> int:
        """The numbers themselves."""
        return self.size


@dataclass(frozen=True)
class ConvolutionShape(Shape):
    """A convolution. Orthogonal weights of an output channel are orthogonal to those of the others."""

    inputs: int
    outputs: int
    kernel: int

    def own(self) -> Mapping[str, Parameter]:
        shape = (self.outputs, self.inputs, self.kernel, self.kernel)
        bound = linear_bound(self.inputs * self.kernel**2)
        return {
            "weight": Parameter(shape, Weights(RELU_GAIN, bound)),
            "bias": Parameter((self.outputs,), Bias(bound)),
        }


@dataclass(frozen=True)
class CNNShape(EncoderShape):
    """Convolutions of an image, then one dense layer.

    Attributes:
        height: Pixels.
        width: Pixels.
        channels: Colours.
        channels_last: Whether the channels are the last dimension.
        integers: Whether the pixels are integers from 0 to 255, which are divided by 255.
        architecture: "nature" or "impala".
        units: Units of the dense layer.
    """

    height: int
    width: int
    channels: int
    channels_last: bool
    integers: bool
    architecture: Literal["nature", "impala"]
    units: int

    @property
    def features(self) -> int:
        """Units of the dense layer."""
        return self.units

    def children(self) -> Mapping[str, Shape]:
        return {**self._convolutions(), "dense": self.dense}

    def _convolutions(self) -> dict[str, Shape]:
        channels, parts = self.channels, {}
        if self.architecture == "nature":
            for index, (kernel, _, outputs) in enumerate(NATURE):
                parts[f"convolutions.{index}"] = ConvolutionShape(channels, outputs, kernel)
                channels = outputs
            return dict(parts)
        for block, outputs in enumerate(IMPALA):
            for index in range(5):
                parts[f"blocks.{block}.convolutions.{index}"] = ConvolutionShape(channels, outputs, 3)
                channels = outputs
        return dict(parts)

    @property
    def dense(self) -> DenseShape:
        """The dense layer after the convolutions."""
        rows, columns = self.height, self.width
        if self.architecture == "nature":
            for kernel, stride, _ in NATURE:
                rows, columns = (rows - kernel) // stride + 1, (columns - kernel) // stride + 1
            channels = NATURE[-1][2]
        else:
            for _ in IMPALA:
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            channels = IMPALA[-1]
        return DenseShape((rows * columns * channels, self.units), "relu", activate_last=True)


class EntityGroup(NamedTuple):
    """Entities of one kind.

    Attributes:
        name: Name of the kind.
        entities: Number of entities.
        size: Number of features of an entity.
        places: Places of the features in a flat observation, entity after entity.
    """

    name: str
    entities: int
    size: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class AttentionShape(Shape):
    """One layer of self-attention and one of two dense layers, each with a residual connection.

    A layer normalisation precedes both (arXiv 2002.04745).
    """

    width: int

    def children(self) -> Mapping[str, Shape]:
        return {
            "before_attention": LayerNormShape(self.width),
            "projections": DenseShape((self.width, 3 * self.width), "relu", last_gain=1.0),
            "joined": DenseShape((self.width, self.width), "relu", last_gain=1.0),
            "before_dense": LayerNormShape(self.width),
            "dense": DenseShape((self.width, 2 * self.width, self.width), "relu", last_gain=1.0),
        }


@dataclass(frozen=True)
class EntitiesShape(EncoderShape):
    """Attention over the agent itself and a set of entities.

    Attributes:
        own_places: Places of the numbers that describe the agent itself; may be empty.
        groups: The entities.
        width: Features of each entity inside the encoder, W.
        heads: Attention heads.
        layers: Attention layers.
    """

    own_places: tuple[int, ...]
    groups: tuple[EntityGroup, ...]
    width: int
    heads: int
    layers: int

    @property
    def features(self) -> int:
        """2 W: the agent itself, and the mean of the entities."""
        return 2 * self.width

    def own(self) -> Mapping[str, Parameter]:
        return {} if self.own_places else {"token": Parameter((self.width,), zeros)}

    def children(self) -> Mapping[str, Shape]:
        def embedding(size: int) -> DenseShape:
            return DenseShape((size, self.width), "relu", activate_last=True)

        parts: dict[str, Shape] = {}
        if self.own_places:
            parts["self_embedding"] = embedding(len(self.own_places))
        for index, group in enumerate(self.groups):
            parts[f"embeddings.{index}"] = embedding(group.size)
        for layer in range(self.layers):
            parts[f"attention.{layer}"] = AttentionShape(self.width)
        return parts


@dataclass(frozen=True)
class DictShape(EncoderShape):
    """One encoder for each entry of a record, side by side.

    Attributes:
        entries: Encoder of each entry, by key.
    """

    entries: tuple[tuple[str, EncoderShape], ...]

    @property
    def features(self) -> int:
        """Sum of the entries' features."""
        return sum(encoder.features for _, encoder in self.entries)

    def children(self) -> Mapping[str, Shape]:
        # keys of the environment may hold dots, which separate names of modules
        return {f"entries.{index}": encoder for index, (_, encoder) in enumerate(self.entries)}


# ---- choice


def describe_encoder(policy: PolicySpec, network: NetworkConfig, key: str, env: str) -> EncoderShape | None:
    """Describe the encoder of a policy's observations.

    Args:
        policy: The policy.
        network: Configuration of the network.
        key: Key of the network, such as "algo.network".
        env: Name of the environment, for messages.

    Returns:
        The encoder; None if the network sees flat rows of numbers.

    Raises:
        ConfigError: If the encoder does not fit the observations.
    """
    where = f"policy {policy.name} of {env}"
    if policy.observation_parts:
        return _of_record(policy, network, key, where)
    if network.keys:
        raise ConfigError(
            f"{key}.keys: {', '.join(network.keys)} needs Dict or Tuple observations, but {where} observes "
            f"one array; remove {key}.keys"
        )
    if network.encoder == "dict":
        raise ConfigError(
            f"{key}.encoder: dict needs Dict or Tuple observations, but {where} observes one array; use auto"
        )
    entry = Entry(key, policy.observation_shape, policy.observation_type)
    encoder = _of_entry(entry, network, where)
    return None if isinstance(encoder, FlatShape) else encoder


def flat_encoder(policy: PolicySpec) -> EncoderShape:
    """Describe the encoder of a policy's observations that leaves all numbers as they are."""
    if not policy.observation_parts:
        return FlatShape(policy.observation_size)
    return DictShape(tuple((part.key, FlatShape(part.size)) for part in policy.observation_parts))


def _of_record(policy: PolicySpec, network: NetworkConfig, key: str, where: str) -> EncoderShape | None:
    """Describe the encoder of records, as describe_encoder."""
    parts = {part.key: part for part in policy.observation_parts}
    if unknown := [name for name in network.keys if name not in parts]:
        raise ConfigError(f"{key}.keys: {where} observes no {unknown[0]}; allowed: {', '.join(parts)}")
    if network.encoder not in ("auto", "dict", "flat"):
        raise ConfigError(
            f"{key}.encoder: {network.encoder} needs one array, but {where} observes {', '.join(parts)}; use "
            f"dict, and {key}.keys for the encoder of an entry"
        )
    if network.encoder == "flat":
        if network.keys:
            raise ConfigError(f"{key}.keys does not go with {key}.encoder: flat; use dict")
        return None
    entries = []
    for name, part in parts.items():
        chosen = network.keys.get(name, EncoderConfig())
        if chosen.encoder == "dict":
            raise ConfigError(f"{key}.keys.{name}.encoder: dict is for whole observations; use auto")
        entries.append((name, _of_entry(Entry(f"{key}.keys.{name}", part.shape, part.dtype), chosen, where)))
    if all(isinstance(encoder, FlatShape) for _, encoder in entries):
        return None
    return DictShape(tuple(entries))


def _of_entry(entry: Entry, config: EncoderConfig, where: str) -> EncoderShape:
    """Describe the encoder of one array; where: the policy, for messages."""
    name = config.encoder
    if name == "auto":
        name = "cnn" if _is_image(entry, config.cnn) else "flat"
    if name == "cnn":
        return _cnn(entry, config.cnn, where)
    if name == "entities":
        return _entities(entry, config.entities, where)
    return FlatShape(math.prod(entry.shape))


def _is_image(entry: Entry, config: CNNConfig) -> bool:
    if len(entry.shape) != 3 or entry.dtype != "uint8":
        return False
    sides = entry.shape[:2] if config.channels == "last" else entry.shape[1:]
    return min(sides) >= LEAST_PIXELS


def _cnn(entry: Entry, config: CNNConfig, where: str) -> CNNShape:
    if len(entry.shape) != 3 or 0 in entry.shape:
        raise ConfigError(
            f"{entry.key}.encoder: cnn needs an image of height x width x channels, but {where} observes "
            f"{entry.text}; use flat"
        )
    last = config.channels == "last"
    height, width, channels = entry.shape if last else (*entry.shape[1:], entry.shape[0])
    if config.architecture == "nature" and min(height, width) < LEAST_PIXELS:
        raise ConfigError(
            f"{entry.key}.cnn.architecture: nature needs {LEAST_PIXELS} x {LEAST_PIXELS} pixels, but {where} "
            f"observes {height} x {width} (channels: {config.channels}); use impala"
        )
    default = NATURE_FEATURES if config.architecture == "nature" else IMPALA_FEATURES
    return CNNShape(
        height,
        width,
        channels,
        last,
        entry.dtype == "uint8",
        config.architecture,
        config.features or default,
    )


def _entities(entry: Entry, config: EntitiesConfig, where: str) -> EntitiesShape:
    key = f"{entry.key}.entities"
    if config.width % config.heads:
        raise ConfigError(
            f"{key}.heads: {config.heads} does not divide {key}.width: {config.width}; use a divisor of it"
        )
    size = math.prod(entry.shape)
    if config.groups:
        groups = tuple(
            _group(name, (group.count, group.starts, group.sizes), size, f"{key}.groups.{name}", where)
            for name, group in config.groups.items()
        )
    elif len(entry.shape) == 2 and size:
        groups = (EntityGroup("rows", *entry.shape, tuple(range(size))),)
    else:
        raise ConfigError(
            f"{entry.key}.encoder: entities needs {key}.groups, or an observation of entities x features; "
            f"{where} observes {entry.text}"
        )
    taken = [place for group in groups for place in group.places]
    if len(set(taken)) < len(taken):
        double = next(place for place in taken if taken.count(place) > 1)
        raise ConfigError(
            f"{key}.groups: number {double} of the observation of {where} belongs to two entities; correct "
            "starts, sizes or count"
        )
    own = tuple(sorted(set(range(size)) - set(taken)))
    return EntitiesShape(own, groups, config.width, config.heads, config.layers)


def _group(
    name: str,
    group: tuple[int, tuple[int, ...], tuple[int, ...]],
    total: int,
    key: str,
    where: str,
) -> EntityGroup:
    """Return a group of entities.

    Args:
        name: Name of the kind.
        group: Number of entities; places and sizes of the features of the first.
        total: Numbers of a flat observation.
        key: Key of the group, for messages.
        where: The policy, for messages.
    """
    count, starts, sizes = group
    if not name.isidentifier():
        raise ConfigError(f"{key}: {name!r} is no name; use letters, digits and _, beginning with a letter")
    if len(starts) != len(sizes):
        raise ConfigError(
            f"{key}: starts has {len(starts)} entries and sizes has {len(sizes)}; both need one a place"
        )
    places = np.concatenate(
        [
            start + np.arange(count * size).reshape(count, size)
            for start, size in zip(starts, sizes, strict=True)
        ],
        -1,
    )
    if places.max() >= total:
        raise ConfigError(
            f"{key}: {count} entities of {places.shape[1]} numbers reach number {places.max()}, but {where} "
            f"observes {total} numbers (0 to {total - 1}); correct starts, sizes or count"
        )
    return EntityGroup(name, count, places.shape[1], tuple(int(place) for place in places.ravel()))
