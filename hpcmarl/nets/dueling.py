"""Dueling heads (arXiv 1511.06581): action values from a value of what is seen and an advantage of each
action. Used by policy.py.

    Q(o, a) = V(o) + A(o, a) - mean_{b allowed} A(o, b)

The paper takes the mean over all actions (its equation 9), since all are allowed there. Here masked ones are
left out: V is then the mean value of what can be done, and no target moves the advantage of an action that
cannot. With the mean over all, each update that raises the values of allowed actions lowers those of masked
ones, so that an action looks the worse the longer it was masked. Which allowed action is best depends on
neither.

    symbol -> argument, shape:  V value [n, 1]   A advantages [n, A]   allowed mask [n, A] bool; None: all
"""

from __future__ import annotations

import torch


def dueling_values(advantages: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Q [n, A]. Differentiable. Rows in which nothing is allowed subtract nothing."""
    if mask is None:
        return value + advantages - advantages.mean(-1, keepdim=True)
    mean = (advantages * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return value + advantages - mean
