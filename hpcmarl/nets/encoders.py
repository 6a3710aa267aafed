"""Encoders in torch: modules that turn observations into features; encoder_shapes.py describes them.

The weights are uninitialised until FlatParameters binds them (flat.py).

    n    rows
    F    features of an encoder
    M    entities
    W    features of an entity inside the encoder
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hpcmarl.nets.encoder_shapes import (
    IMPALA,
    NATURE,
    AttentionShape,
    CNNShape,
    DictShape,
    EncoderShape,
    EntitiesShape,
    FlatShape,
)
from hpcmarl.nets.layer_shapes import LayerNormShape
from hpcmarl.nets.layers import Dense, layer_norm

# An observation of n agents: one tensor, or one for each entry of a Dict or Tuple.
Observation = torch.Tensor | dict[str, torch.Tensor]
LARGEST_PIXEL = 255.0


class BareConvolution(nn.Conv2d):
    """A convolution with uninitialised weights."""

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised; torch would draw from its global generator."""


class Flat(nn.Module):
    """The numbers of an observation as they are."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return an observation [n, ...] of any type as numbers [n, F] float32."""
        return observation.reshape(observation.shape[0], -1).to(torch.float32)


class CNN(nn.Module):
    """Convolutions of an image, then one dense layer, with ReLU after each."""

    def __init__(self, shape: CNNShape) -> None:
        super().__init__()
        self._channels_last = shape.channels_last
        self._scale = 1.0 / LARGEST_PIXEL if shape.integers else 1.0
        if shape.architecture == "nature":
            self._add_nature(shape.channels)
        else:
            self._add_impala(shape.channels)
        self.dense = Dense(shape.dense)

    def _add_nature(self, channels: int) -> None:
        self.convolutions = nn.ModuleList()
        for kernel, stride, outputs in NATURE:
            self.convolutions.append(BareConvolution(channels, outputs, kernel, stride))
            channels = outputs
        self._convolve = self._nature

    def _add_impala(self, channels: int) -> None:
        self.blocks = nn.ModuleList()
        for outputs in IMPALA:
            self.blocks.append(ResidualBlock(channels, outputs))
            channels = outputs
        self._convolve = self._impala

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            image: Shape [n, height, width, channels] or [n, channels, height, width], of any type.

        Returns:
            Features, shape [n, F].
        """
        pixels = image.to(torch.float32)
        if self._scale != 1.0:
            # in place, since fresh memory for a large batch costs more than the product
            pixels.mul_(self._scale)
        if self._channels_last:
            # only a view: the memory stays in the order that convolutions are quickest with
            pixels = pixels.permute(0, 3, 1, 2)
        hidden = self._convolve(pixels)
        features: torch.Tensor = self.dense(hidden.flatten(1))
        return features

    def _nature(self, hidden: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            hidden = functional.relu(convolution(hidden), inplace=True)
        return hidden

    def _impala(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        return functional.relu(hidden)


class ResidualBlock(nn.Module):
    """A convolution, a pooling to half of the size, and two residual units (arXiv 1802.01561, figure 3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs] + [outputs] * 4
        self.convolutions = nn.ModuleList(BareConvolution(size, outputs, 3, padding=1) for size in sizes)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [n, inputs, height, width] to [n, outputs, height / 2, width / 2], rounded up."""
        hidden = functional.max_pool2d(self.convolutions[0](hidden), 3, 2, 1)
        for first in (1, 3):
            inner = functional.relu(self.convolutions[first](functional.relu(hidden)), inplace=True)
            hidden = hidden + self.convolutions[first + 1](inner)
        return hidden


class Attention(nn.Module):
    """One layer of self-attention and one of dense layers, each with a residual connection."""

    def __init__(self, shape: AttentionShape, heads: int) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(shape.children())
        self._heads = heads
        self.before_attention = layer_norm(LayerNormShape(shape.width))
        self.projections = Dense(parts["projections"])
        self.joined = Dense(parts["joined"])
        self.before_dense = layer_norm(LayerNormShape(shape.width))
        self.dense = Dense(parts["dense"])

    def forward(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Update tokens.

        Args:
            tokens: Shape [n, M, W].
            present: Tokens that others attend to, shape [n, M]; at least one in each row.

        Returns:
            Shape [n, M, W]. A permutation of the tokens permutes the result in the same way.
        """
        rows, count, width = tokens.shape
        projected = self.projections(self.before_attention(tokens))
        query, key, value = projected.view(rows, count, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=present[:, None, None]
        )
        tokens = tokens + self.joined(attended.transpose(1, 2).reshape(rows, count, width))
        updated: torch.Tensor = tokens + self.dense(self.before_dense(tokens))
        return updated


class Entities(nn.Module):
    """Attention over the agent itself and a set of entities.

    An entity whose features are all zero is absent: nothing attends to it, and it does not count in the mean.
    The features do not depend on the order of the entities of one kind.
    """

    def __init__(self, shape: EntitiesShape) -> None:
        super().__init__()
        parts: dict[str, Any] = dict(shape.children())
        self._groups = [(group.entities, group.size) for group in shape.groups]
        if shape.own_places:
            self.self_embedding = Dense(parts["self_embedding"])
        else:
            self.token = nn.Parameter(torch.empty(shape.width))
        self.embeddings = nn.ModuleList(
            Dense(parts[f"embeddings.{index}"]) for index in range(len(shape.groups))
        )
        self.attention = nn.ModuleList(
            Attention(parts[f"attention.{layer}"], shape.heads) for layer in range(shape.layers)
        )
        self._own = torch.tensor(shape.own_places, dtype=torch.int64)
        self._places = [torch.tensor(group.places, dtype=torch.int64) for group in shape.groups]

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            observation: Shape [n, ...] of any type.

        Returns:
            Features, shape [n, 2 W]: those of the agent itself, and the mean over the present entities, which
            is 0 without any.
        """
        tokens, present = self.tokens(observation)
        counted = present[:, 1:, None].to(tokens.dtype)
        mean = (tokens[:, 1:] * counted).sum(1) / counted.sum(1).clamp(min=1.0)
        return torch.cat([tokens[:, 0], mean], -1)

    def tokens(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens after attention [n, 1 + M, W], the agent itself first, and those present."""
        flat = observation.reshape(observation.shape[0], -1).to(torch.float32)
        rows = flat.shape[0]
        own = (
            self.self_embedding(flat.index_select(1, self._own.to(flat.device)))
            if len(self._own)
            else self.token.expand(rows, -1)
        )
        tokens, present = [own[:, None]], [torch.ones(rows, 1, dtype=torch.bool, device=flat.device)]
        for (count, size), places, embedding in zip(self._groups, self._places, self.embeddings, strict=True):
            entities = flat.index_select(1, places.to(flat.device)).view(rows, count, size)
            tokens.append(embedding(entities))
            present.append((entities != 0).any(-1))
        joined, there = torch.cat(tokens, 1), torch.cat(present, 1)
        for layer in self.attention:
            joined = layer(joined, there)
        return joined, there


class Entries(nn.Module):
    """One encoder for each entry of an observation, side by side."""

    def __init__(self, shape: DictShape) -> None:
        super().__init__()
        self._keys = [key for key, _ in shape.entries]
        self.entries = nn.ModuleList(make_encoder(encoder) for _, encoder in shape.entries)

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the features [n, F] of an observation, which has one tensor [n, ...] for each key."""
        features = [encoder(observation[key]) for key, encoder in zip(self._keys, self.entries, strict=True)]
        return torch.cat(features, -1)


ENCODERS: dict[type[EncoderShape], Callable[[Any], nn.Module]] = {
    CNNShape: CNN,
    DictShape: Entries,
    EntitiesShape: Entities,
    FlatShape: lambda _: Flat(),
}


def make_encoder(shape: EncoderShape) -> nn.Module:
    """Build the encoder that a shape describes; it maps an observation of n rows to features [n, F]."""
    return ENCODERS[type(shape)](shape)
