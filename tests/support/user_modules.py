"""Torch modules of a user: some that work, and some that hpcmarl must refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpcmarl.nets.module_shapes import ModuleSpaces


def flat(observation: Any, numbers: torch.Tensor) -> torch.Tensor:
    """Join an observation of any form and the numbers, shape [n, D] float32."""
    if observation is None:
        return numbers
    if isinstance(observation, dict):
        parts = [flat(each, numbers[:, :0]) for each in observation.values()]
        return torch.cat([*parts, numbers], 1)
    return torch.cat([observation.flatten(1).float() / 10, numbers], 1)


class FeedForward(nn.Module):
    """One hidden layer, tied to itself, with a constant buffer."""

    def __init__(self, spaces: ModuleSpaces, width: int = 6) -> None:
        super().__init__()
        self.enter = nn.Linear(spaces.size, width)
        self.middle = nn.Linear(width, width)
        self.again = self.middle
        self.leave = nn.Linear(width, spaces.outputs)
        self.register_buffer("scale", torch.full((1,), 0.5))

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.enter(flat(observation, numbers)))
        hidden = self.again(torch.tanh(self.middle(hidden)))
        outputs: torch.Tensor = self.leave(hidden) * self.scale
        return outputs


class Recurrent(nn.Module):
    """A GRU cell."""

    def __init__(self, spaces: ModuleSpaces, memory: int = 5) -> None:
        super().__init__()
        self.memory_size = memory
        self.cell = nn.GRUCell(spaces.size, memory)
        self.leave = nn.Linear(memory, spaces.outputs)

    def forward(
        self, observation: Any, numbers: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        after = self.cell(flat(observation, numbers), memory)
        return self.leave(after), after


def actor_remembers(spaces: ModuleSpaces) -> nn.Module:
    """A recurrent policy with a feed-forward critic."""
    return Recurrent(spaces) if spaces.role == "policy" else FeedForward(spaces)


class Mixer(nn.Module):
    """A weighted sum of the utilities, with positive weights of the state."""

    def __init__(self, spaces: ModuleSpaces) -> None:
        super().__init__()
        assert spaces.role == "mixer"
        self.weights = nn.Linear(spaces.numbers, spaces.observation.shape[0])  # type: ignore[union-attr]

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (utilities * self.weights(state).abs()).sum(-1)


# ---- refused


class Normalised(FeedForward):
    """Running statistics are hidden state."""

    def __init__(self, spaces: ModuleSpaces) -> None:
        super().__init__(spaces)
        self.again = nn.Sequential(self.middle, nn.BatchNorm1d(6))  # type: ignore[assignment]


class Coupled(FeedForward):
    """Rows depend on each other."""

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(observation, numbers)
        return outputs - outputs.mean(0)


class Noisy(FeedForward):
    """Outputs depend on chance."""

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(observation, numbers)
        return outputs + torch.rand_like(outputs)


class Counting(FeedForward):
    """A call changes a buffer."""

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(observation, numbers)
        self.scale.add_(0.0).mul_(1.0).sub_(-1.0 if self.scale < 1 else 0.0)
        return outputs * 0


class Double(FeedForward):
    """Parameters of another type, hidden behind outputs of the right one."""

    def __init__(self, spaces: ModuleSpaces) -> None:
        super().__init__(spaces)
        self.double()

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        return super().forward(flat(observation, numbers).double(), numbers[:, :0].double()).float()


class Narrow(FeedForward):
    """One output too few."""

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        return super().forward(observation, numbers)[:, 1:]


class Forgetful(Recurrent):
    """Returns no memory."""

    def forward(self, observation: Any, numbers: torch.Tensor, memory: torch.Tensor) -> Any:
        return super().forward(observation, numbers, memory)[0]


class Empty(nn.Module):
    """No parameters."""

    def __init__(self, spaces: ModuleSpaces) -> None:
        super().__init__()
        self.outputs = spaces.outputs

    def forward(self, observation: Any, numbers: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(numbers), self.outputs)


def no_module(spaces: ModuleSpaces) -> Any:
    """Return something else."""
    return [spaces.role]


def failing(spaces: ModuleSpaces) -> nn.Module:
    """Raise."""
    raise RuntimeError("two\nlines")


NOT_CALLABLE = 3
