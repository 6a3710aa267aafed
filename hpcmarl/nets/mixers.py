"""Mixers: the team's value of a joint action from the agents' utilities. Trained by algos/; know no algorithm
and no rollout.

[...]: any rows   K joint actions of each   n agents   S size of the state that the weights depend on
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hpcmarl.nets.layers import Dense
from hpcmarl.nets.shapes import DenseShape, MonotonicMixerShape, Shape, UnrestrictedMixerShape


class SumMixer(nn.Module):
    """VDN (arXiv 1706.05296): the sum of the utilities."""

    def forward(self, utilities: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """utilities [..., K, n] -> values [..., K]; the state is not used."""
        return utilities.sum(-1)


class MonotonicMixer(nn.Module):
    """QMIX (arXiv 1803.11485 section 4): an ELU network whose weights, all positive, and biases are made from
    the state.

    So no agent's utility can lower the team's value, and the agents' own best actions are the best joint one.

    With "relu" the weights grow with the state, and where that has no bounds far states amplify what is
    bootstrapped from them; with "tanh" they are bounded."""

    def __init__(self, shape: MonotonicMixerShape) -> None:
        """Make the networks; their weights are still to be set (flat.py)."""
        super().__init__()
        self.agents, self.width = shape.agents, shape.width
        parts = shape.children()
        self.first, self.second, self.bias, self.value = (
            _dense(parts[name]) for name in ("first", "second", "bias", "value")
        )

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """utilities [..., K, n], state [..., S] -> values [..., K]."""
        first = self.first(state).abs().unflatten(-1, (self.agents, self.width))
        hidden = functional.elu(utilities @ first + self.bias(state).unsqueeze(-2))
        values: torch.Tensor = (hidden @ self.second(state).abs().unsqueeze(-1)).squeeze(-1) + self.value(
            state
        )
        return values


class UnrestrictedMixer(nn.Module):
    """WQMIX's central critic (arXiv 2006.10800 section 5): a plain network of the state and the utilities,
    plus a value of the state."""

    def __init__(self, shape: UnrestrictedMixerShape) -> None:
        """Make the networks; their weights are still to be set (flat.py)."""
        super().__init__()
        parts = shape.children()
        self.mixed, self.value = _dense(parts["mixed"]), _dense(parts["value"])

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """utilities [..., K, n], state [..., S] -> values [..., K]."""
        seen = state.unsqueeze(-2).expand(*utilities.shape[:-1], state.shape[-1])
        values: torch.Tensor = self.mixed(torch.cat([seen, utilities], -1)).squeeze(-1) + self.value(state)
        return values


def _dense(shape: Shape) -> Dense:
    assert isinstance(shape, DenseShape)
    return Dense(shape)
