"""Mixers: the team's value of a joint action from the agents' utilities. Trained by algos/; know no algorithm and no rollout.

[...]: any rows   K joint actions of each   n agents   S size of the state that the weights depend on
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hpcmarl.nets.layers import Dense

FIRST_VALUE_GAIN = 0.1  # of a last layer: the first values are small beside most rewards
# Of the layer that makes weights: with the usual widths the first Q_tot moves about as much as one of its utilities. Weights of gain 1 amplify
# ten times, and every copy of the target network feeds that back.
FIRST_WEIGHT_GAIN = 0.25


class SumMixer(nn.Module):
    """VDN (arXiv 1706.05296): the sum of the utilities."""

    def forward(self, utilities: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """utilities [..., K, n] -> values [..., K]; the state is not used."""
        return utilities.sum(-1)


class MonotonicMixer(nn.Module):
    """QMIX (arXiv 1803.11485 section 4): an ELU network whose weights, all positive, and biases are made from the state.

    So no agent's utility can lower the team's value, and the agents' own best actions are the best joint one.

    With "relu" the weights grow with the state, and where that has no bounds far states amplify what is bootstrapped from them; with "tanh"
    they are bounded."""

    def __init__(self, agents: int, state: int, width: int, hyper: int, generator: torch.Generator, activation: str = "relu") -> None:
        super().__init__()
        self.agents, self.width = agents, width
        self.first = Dense((state, hyper, agents * width), activation, generator, last_gain=FIRST_WEIGHT_GAIN)
        self.second = Dense((state, hyper, width), activation, generator, last_gain=FIRST_WEIGHT_GAIN)
        self.bias = Dense((state, width), activation, generator, last_gain=FIRST_WEIGHT_GAIN)
        self.value = Dense((state, width, 1), activation, generator, last_gain=FIRST_VALUE_GAIN)

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """utilities [..., K, n], state [..., S] -> values [..., K]."""
        first = self.first(state).abs().unflatten(-1, (self.agents, self.width))
        hidden = functional.elu(utilities @ first + self.bias(state).unsqueeze(-2))
        values: torch.Tensor = (hidden @ self.second(state).abs().unsqueeze(-1)).squeeze(-1) + self.value(state)
        return values


class UnrestrictedMixer(nn.Module):
    """WQMIX's central critic (arXiv 2006.10800 section 5): a plain network of the state and the utilities, plus a value of the state."""

    def __init__(self, agents: int, state: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mixed = Dense((state + agents, width, width, width, 1), "relu", generator, last_gain=FIRST_VALUE_GAIN)
        self.value = Dense((state, width, 1), "relu", generator, last_gain=FIRST_VALUE_GAIN)

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """utilities [..., K, n], state [..., S] -> values [..., K]."""
        seen = state.unsqueeze(-2).expand(*utilities.shape[:-1], state.shape[-1])
        values: torch.Tensor = self.mixed(torch.cat([seen, utilities], -1)).squeeze(-1) + self.value(state)
        return values
