"""Differentiable action distributions for learning: log-probabilities and entropies in torch.

Acting uses the same distributions in numpy (choosers.py).

Shapes, for n rows:
    raw                               [n, K]
    action                            [n, *action.shape]
    mask                              [n, A] bool, or None
    logp, entropy, maximum entropy    [n]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch.nn import functional

from hpcmarl.nets.choosers import (
    LEAST_DEVIATION,
    UNAVAILABLE,
    UNIT_SOFTPLUS,
    CategoricalChooser,
    TanhGaussianChooser,
)
from hpcmarl.nets.device import tensor
from hpcmarl.types import ActionSpace


class Head(ABC):
    """Distribution over the actions of one agent."""

    @abstractmethod
    def evaluate(
        self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities and entropies.

        Args:
            raw: Raw outputs, shape [n, K].
            action: Actions, shape [n, *action.shape].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.

        Returns:
            Log-probability of each action and entropy of each distribution, in nats, shape [n] each. Both are
            differentiable in `raw`.
        """

    def probabilities(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the probability of every action.

        Args:
            raw: Raw outputs, shape [n, K].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.

        Returns:
            Probabilities, shape [n, A].

        Raises:
            TypeError: If actions are not discrete.
        """
        raise TypeError(
            f"{type(self).__name__} has no probabilities of single actions; allowed: discrete actions"
        )

    @abstractmethod
    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        """Return the entropy of the uniform distribution over the allowed actions.

        Args:
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.
            rows: Number of rows, n.

        Returns:
            Entropies in nats, shape [n].
        """


def make_head(space: ActionSpace) -> Head:
    """Return the distribution for an action space.

    Raises:
        UsageError: If the bounds of continuous actions are not finite intervals.
    """
    return TanhGaussianHead(space) if space.kind == "continuous" else CategoricalHead(space)


class CategoricalHead(Head):
    """One masked categorical distribution per action component, with exact entropy.

    A discrete action has one component.
    """

    def __init__(self, space: ActionSpace) -> None:
        chooser = CategoricalChooser(space)
        self._single, self._slices = chooser.single, chooser.slices

    def evaluate(
        self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if mask is not None:
            raw = raw.masked_fill(~mask, UNAVAILABLE)
        if self._single:
            action = action.unsqueeze(-1)
        logp: torch.Tensor | None = None
        entropy: torch.Tensor | None = None
        for component, part in enumerate(self._slices):
            log_probability = functional.log_softmax(raw[..., part], dim=-1)
            taken = log_probability.gather(-1, action[..., component : component + 1]).squeeze(-1)
            component_entropy = -(log_probability.exp() * log_probability).sum(-1)
            logp = taken if logp is None else logp + taken
            entropy = component_entropy if entropy is None else entropy + component_entropy
        assert logp is not None
        assert entropy is not None
        return logp, entropy

    def probabilities(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if not self._single:
            return super().probabilities(raw, mask)
        return torch.softmax(raw if mask is None else raw.masked_fill(~mask, UNAVAILABLE), -1)

    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        if mask is None:
            return torch.full((rows,), sum(math.log(part.stop - part.start) for part in self._slices))
        available = torch.stack([mask[..., part].sum(-1) for part in self._slices])
        return available.clamp(min=1).to(torch.float32).log().sum(0)


class TanhGaussianHead(Head):
    """The tanh-squashed Gaussian of choosers.TanhGaussianChooser, with an estimated entropy.

    The entropy is the exact entropy of the Gaussian plus an estimate of the mean log-Jacobian, taken at the
    given action:

        log(scale (1 - tanh(u)^2)),    u = mean + deviation * e

    Here e is the noise that yields the given action under the present parameters. It is held constant, so the
    gradient is the pathwise one. The estimate is unbiased if the action was sampled from the present
    distribution. Off-policy it has a small bias.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._chooser = TanhGaussianChooser(space)
        self._dimensions, self._log_scale = self._chooser.dimensions, self._chooser.log_scale

    def evaluate(
        self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._dimensions
        mean, deviation = (
            raw[..., :size],
            functional.softplus(raw[..., size:] + UNIT_SOFTPLUS) + LEAST_DEVIATION,
        )
        u = self._unsquash(action)
        noise = (u - mean) / deviation
        log_deviation = deviation.log()
        gaussian = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        logp = (gaussian - log_slope(u)).sum(-1) - self._log_scale
        moved = mean + deviation * noise.detach()
        dimension_entropy = log_deviation + 0.5 * math.log(2 * math.pi * math.e) + log_slope(moved)
        return logp, dimension_entropy.sum(-1) + self._log_scale

    def _unsquash(self, action: torch.Tensor) -> torch.Tensor:
        """Return u of stored actions, as TanhGaussianChooser.unsquash does."""
        if action.device.type == "cpu":
            return torch.from_numpy(self._chooser.unsquash(action.numpy()))
        centre, scale, bound = self._chooser.squashing
        squashed = (action - tensor(centre, action.device)) / tensor(scale, action.device)
        return squashed.clamp(-bound, bound).atanh().float()

    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        return torch.full((rows,), self._log_scale + self._dimensions * math.log(2.0))


def log_slope(u: torch.Tensor) -> torch.Tensor:
    """Return log(1 - tanh(u)^2) without cancellation, as 2 (log 2 - u - softplus(-2u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
