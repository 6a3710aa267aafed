"""Torch modules built from the descriptions of networks in shapes.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hpcmarl.nets.critic import make_critic
from hpcmarl.nets.layer_shapes import ConstantShape, DenseShape, GroupShape, GRUShape, MomentsShape, Shape
from hpcmarl.nets.layers import Dense, gru_cell
from hpcmarl.nets.mixers import ModuleMixer, MonotonicMixer, SumMixer, UnrestrictedMixer
from hpcmarl.nets.moments import Moments
from hpcmarl.nets.policy import make_policy
from hpcmarl.nets.shapes import (
    CriticShape,
    MixerModuleShape,
    MonotonicMixerShape,
    PolicyShape,
    SumMixerShape,
    UnrestrictedMixerShape,
)


class Constant(nn.Module):
    """One trained number with a name."""

    def __init__(self, shape: ConstantShape) -> None:
        super().__init__()
        self.register_parameter(shape.name, nn.Parameter(torch.full((1,), shape.initial)))


def _group(shape: GroupShape) -> nn.Module:
    return nn.ModuleDict({name: build(part) for name, part in shape.parts.items()})


BUILDERS: dict[type[Shape], Callable[[Any], nn.Module]] = {
    ConstantShape: Constant,
    CriticShape: make_critic,
    DenseShape: Dense,
    GroupShape: _group,
    GRUShape: gru_cell,
    MixerModuleShape: ModuleMixer,
    MomentsShape: Moments,
    MonotonicMixerShape: MonotonicMixer,
    PolicyShape: make_policy,
    SumMixerShape: lambda _: SumMixer(),
    UnrestrictedMixerShape: UnrestrictedMixer,
}


def build(shape: Shape) -> nn.Module:
    """Build the module that a shape describes.

    The weights are uninitialised until flat.FlatParameters binds them to a parameter vector.
    """
    return BUILDERS[type(shape)](shape)
