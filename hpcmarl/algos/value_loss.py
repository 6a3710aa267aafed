"""Losses of critics with one value per row: squared, Huber, and clipped as in PPO.

With the error e = y - o:

    squared:    L(e) = e^2
    Huber:      L(e) = e^2 if |e| <= delta, else delta (2 |e| - delta)
    clipped:    max( L(y - o), L(y - o_0 - clip(o - o_0, -epsilon, epsilon)) )

The Huber loss is twice the textbook's. It thus equals the squared loss for small errors, and value_cost has
one meaning. The authors of MAPPO halve both losses: their value_loss_coef of 1 is a value_cost of 0.5.

In their code (marlbenchmark/on-policy, utils/util.py), errors below -delta have no gradient, because a branch
is missing. Here both sides are linear.

    symbol     variable       shape
    y          targets        [n]
    o          outputs        [n]
    o_0        before         [n]
    delta      huber_delta
    epsilon    value_clip
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hpcmarl.config import ActorCriticConfig


def value_losses(config: ActorCriticConfig, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute L of each row; differentiable.

    Args:
        config: Kind of the loss, and delta.
        outputs: Outputs of the critic, shape [n].
        targets: Targets in units of the outputs, shape [n].

    Returns:
        Losses, shape [n].
    """
    if config.value_loss == "squared":
        return (targets - outputs).square()
    return 2.0 * functional.huber_loss(outputs, targets, reduction="none", delta=config.huber_delta)


def clipped_value_losses(
    config: ActorCriticConfig,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    before: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """Compute the clipped loss of each row; differentiable.

    Args:
        config: Kind of the loss, and delta.
        outputs: Outputs of the critic, shape [n].
        targets: Targets in units of the outputs, shape [n].
        before: Outputs at the beginning of the batch, shape [n].
        epsilon: Largest change of an output that counts, in units of the outputs.

    Returns:
        Losses, shape [n].
    """
    near = before + (outputs - before).clamp(-epsilon, epsilon)
    return torch.maximum(value_losses(config, outputs, targets), value_losses(config, near, targets))
