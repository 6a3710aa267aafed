"""Mixers: networks that combine the agents' utilities into the team's value of a joint action.

[...]    any leading dimensions
K        joint actions per row
n        agents
S        size of the state that the mixing weights depend on
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hpcmarl.nets.layer_shapes import DenseShape, Shape
from hpcmarl.nets.layers import Dense
from hpcmarl.nets.shapes import MixerModuleShape, MonotonicMixerShape, UnrestrictedMixerShape


class SumMixer(nn.Module):
    """VDN's mixer (arXiv 1706.05296): the sum of the utilities."""

    def forward(self, utilities: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """Sum the utilities.

        Args:
            utilities: Shape [..., K, n].
            state: Not used.

        Returns:
            Values, shape [..., K].
        """
        return utilities.sum(-1)


class MonotonicMixer(nn.Module):
    """QMIX's mixer (arXiv 1803.11485 section 4), monotonic in every agent's utility.

    It is an ELU network. Networks of the state produce its weights, which are all positive, and its biases. A
    higher utility of one agent therefore never lowers the team's value. The agents' own best actions form the
    best joint action.

    With "relu" the weights grow with the state. If the state is unbounded, distant states then amplify the
    values that are bootstrapped from them. With "tanh" the weights are bounded.
    """

    def __init__(self, shape: MonotonicMixerShape) -> None:
        """Build the networks; their weights are uninitialised until FlatParameters binds them (flat.py)."""
        super().__init__()
        self.agents, self.width = shape.agents, shape.width
        parts = shape.children()
        self.first, self.second, self.bias, self.value = (
            _dense(parts[name]) for name in ("first", "second", "bias", "value")
        )

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Mix utilities.

        Args:
            utilities: Shape [..., K, n].
            state: Shape [..., S].

        Returns:
            Values, shape [..., K].
        """
        first = self.first(state).abs().unflatten(-1, (self.agents, self.width))
        hidden = functional.elu(utilities @ first + self.bias(state).unsqueeze(-2))
        values: torch.Tensor = (hidden @ self.second(state).abs().unsqueeze(-1)).squeeze(-1) + self.value(
            state
        )
        return values


class ModuleMixer(nn.Module):
    """A torch module of the user as mixer (docs/networks.md).

    It gets the utilities [rows, n] and the state [rows, S], and returns the team's value [rows].
    """

    def __init__(self, shape: MixerModuleShape) -> None:
        super().__init__()
        self.module: nn.Module = shape.module.make()

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Mix utilities.

        Args:
            utilities: Shape [..., K, n].
            state: Shape [..., S].

        Returns:
            Values, shape [..., K].
        """
        leading = utilities.shape[:-1]
        seen = state.unsqueeze(-2).expand(*leading, state.shape[-1])
        values: torch.Tensor = self.module(utilities.flatten(0, -2), seen.flatten(0, -2))
        return values.view(leading)


class UnrestrictedMixer(nn.Module):
    """WQMIX's central mixer (arXiv 2006.10800 section 5), which need not be monotonic.

    It is the sum of a feed-forward network of the state and the utilities, and a value of the state.
    """

    def __init__(self, shape: UnrestrictedMixerShape) -> None:
        """Build the networks; their weights are uninitialised until FlatParameters binds them (flat.py)."""
        super().__init__()
        parts = shape.children()
        self.mixed, self.value = _dense(parts["mixed"]), _dense(parts["value"])

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Mix utilities.

        Args:
            utilities: Shape [..., K, n].
            state: Shape [..., S].

        Returns:
            Values, shape [..., K].
        """
        seen = state.unsqueeze(-2).expand(*utilities.shape[:-1], state.shape[-1])
        values: torch.Tensor = self.mixed(torch.cat([seen, utilities], -1)).squeeze(-1) + self.value(state)
        return values


def _dense(shape: Shape) -> Dense:
    assert isinstance(shape, DenseShape)
    return Dense(shape)
