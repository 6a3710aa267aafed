"""The critics' loss of single values: squared or Huber, and PPO's clipped one.

    e = y - o                           squared: L(e) = e^2       Huber: L(e) = e^2 where |e| <= delta, else
        delta (2 |e| - delta)
    clipped: max( L(y - o), L(y - o_0 - clip(o - o_0, -epsilon, epsilon)) )

The Huber loss is twice the textbook's, so that both agree where errors are small and value_cost has one
meaning. The authors of MAPPO halve both losses: their value_loss_coef 1 is a value_cost of 0.5. Their code
(marlbenchmark/on-policy, utils/util.py) loses the branch of errors below -delta, which have no gradient
there; here both sides are linear.

    symbol -> variable, shape:  y targets [n]   o outputs [n]   o_0 before [n]   delta huber_delta   epsilon
        value_clip
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hpcmarl.config import ActorCriticConfig


def value_losses(config: ActorCriticConfig, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return L [n] of a critic's outputs [n], differentiable, in whose units the `targets` [n] are."""
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
    """Return the clipped losses [n]. before [n]: the outputs when the batch began."""
    near = before + (outputs - before).clamp(-epsilon, epsilon)
    return torch.maximum(value_losses(config, outputs, targets), value_losses(config, near, targets))
