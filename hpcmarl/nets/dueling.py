"""Dueling heads (arXiv 1511.06581): action values from a state value and advantages of the actions.

    Q(o, a) = V(o) + A(o, a) - mean_{b allowed} A(o, b)

The paper takes the mean over all actions (its equation 9), because it has no masks. Here the mean excludes
masked actions. V is then the mean value of the allowed actions, and no target changes the advantage of a
masked action.

A mean over all actions would couple both: each update that raises the values of allowed actions lowers those
of masked actions. An action would look worse the longer it was masked. The choice of the mean does not change
which allowed action is best.

    symbol     argument      shape
    V          value         [n, 1]
    A          advantages    [n, A]
    allowed    mask          [n, A] bool; None: all actions are allowed
"""

from __future__ import annotations

import torch


def dueling_values(advantages: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Combine a state value and advantages into action values; differentiable.

    Args:
        advantages: Shape [n, A].
        value: Shape [n, 1].
        mask: Allowed actions, shape [n, A]; None: all actions are allowed.

    Returns:
        Q, shape [n, A]. In a row without an allowed action the subtracted mean is 0.
    """
    if mask is None:
        return value + advantages - advantages.mean(-1, keepdim=True)
    mean = (advantages * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return value + advantages - mean
