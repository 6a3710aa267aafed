"""Actions as inputs of critics, in torch, and differentiable actions of policies.

Continuous actions are scaled to -1..1. Discrete ones are one-hot, component after component.

Shapes:
    raw       [..., K]
    action    [..., *action.shape]
    mask      [..., A] bool, or None
    code      [..., C]; C is D for continuous actions, else A
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from hpcmarl.nets.choosers import LEAST_DEVIATION, UNAVAILABLE, UNIT_SOFTPLUS, centre_and_scale
from hpcmarl.nets.heads import log_slope
from hpcmarl.types import ActionSpace


class ActionCode:
    """The code of an action space.

    Attributes:
        size: Length of a code, C.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._space, self.size = space, sum(space.sizes)
        if space.kind == "continuous":
            centre, scale = centre_and_scale(space)
            self._centre = torch.from_numpy(centre).float()
            self._scale = torch.from_numpy(scale).float()

    def encode(self, action: torch.Tensor) -> torch.Tensor:
        """Return the codes of stored actions."""
        if self._space.kind == "continuous":
            centre, scale = self._centre.to(action.device), self._scale.to(action.device)
            return ((action - centre) / scale).clamp(-1.0, 1.0)
        components = action.unsqueeze(-1) if self._space.kind == "discrete" else action
        parts = [
            functional.one_hot(components[..., number], size) for number, size in enumerate(self._space.sizes)
        ]
        return torch.cat(parts, -1).float()

    def mode(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the codes of the most probable actions; of continuous ones, the squashed mean."""
        if self._space.kind == "continuous":
            return torch.tanh(raw[..., : self.size])
        parts = self._components(_allowed(raw, mask))
        return torch.cat([_one_hot_of(part) for part in parts], -1)

    def distance(self, codes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the distance of actions from others, shape [...].

        For continuous actions it is the mean squared difference; for discrete ones it is 1 if any component
        differs, else 0.
        """
        difference = codes - others
        if self._space.kind == "continuous":
            return difference.square().mean(-1)
        return (difference != 0).any(-1).float()

    def log_probabilities(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the log-probability of each discrete action of one component, shape [..., A]."""
        return torch.log_softmax(_allowed(raw, mask), -1)

    def gumbel(self, raw: torch.Tensor, mask: torch.Tensor | None, noise: torch.Tensor) -> torch.Tensor:
        """Sample discrete actions with the straight-through Gumbel-softmax estimator at temperature 1.

        The codes are one-hot; their gradient is that of the softmax.

        Args:
            raw: Logits, shape [..., A].
            mask: Allowed actions.
            noise: Samples of the standard Gumbel distribution, shape [..., A].

        Source:
            arXiv 1611.01144.
        """
        parts = self._components(_allowed(raw, mask) + noise)
        return torch.cat([_straight_through(part) for part in parts], -1)

    def _components(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Split rows [..., A] into those of the components of discrete actions."""
        ends = np.cumsum(self._space.sizes).tolist()
        return [rows[..., end - size : end] for end, size in zip(ends, self._space.sizes, strict=True)]


def _allowed(raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return logits, with a very low value for actions that are not allowed."""
    return raw if mask is None else raw.masked_fill(~mask, UNAVAILABLE)


def _one_hot_of(scores: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(scores.argmax(-1), scores.shape[-1]).float()


def _straight_through(scores: torch.Tensor) -> torch.Tensor:
    soft = torch.softmax(scores, -1)
    return _one_hot_of(scores) + soft - soft.detach()


def squashed_sample(raw: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample the tanh-squashed Gaussian of choosers.TanhGaussianChooser; differentiable in `raw`.

    Args:
        raw: Means and deviations before the softplus, shape [..., 2 D].
        noise: Standard normal numbers, shape [..., D].

    Returns:
        Codes, shape [..., D], and their log-probabilities, shape [...]. The density is that of actions scaled
        to -1..1.
    """
    size = noise.shape[-1]
    deviation = functional.softplus(raw[..., size:] + UNIT_SOFTPLUS) + LEAST_DEVIATION
    u = raw[..., :size] + deviation * noise
    gaussian = -0.5 * noise.square() - deviation.log() - 0.5 * math.log(2.0 * math.pi)
    return torch.tanh(u), (gaussian - log_slope(u)).sum(-1)
