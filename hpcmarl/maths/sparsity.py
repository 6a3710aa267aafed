"""Sparse layers: how dense each is, which weights leave and which come, what a pass through them costs. Pure
functions; knows no network.

    Erdős–Rényi          d_l = eps (I_l + O_l) / (I_l O_l), at most 1; eps such that sum_l d_l I_l O_l = (1 -
        S) sum_l I_l O_l
    cosine annealing     zeta_t = (zeta_0 / 2)(1 + cos(pi t / T))                          share of a layer's
        weights that change at t
    drop and grow        the n zeta_t active weights of least |w| leave, as many inactive ones of the highest
        score come

Sources: SET (arXiv 1707.04780) for the densities, RigL (arXiv 1911.11134) for the schedule and the growth by
|gradient|; MAST (arXiv 2409.19391) uses both.

    symbol -> argument:  I, O shape (outputs, inputs)   S sparsity   d densities   zeta_0 initial   t update
        T last
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpcmarl.types import Array, BoolArray


def erdos_renyi(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[float]:
    """The density of each layer, given its (outputs, inputs), so that the share `sparsity` in [0, 1) of all
    weights is zero.

    Layers that would be denser than 1 are dense; the others make up for them."""
    sizes = np.array([outputs * inputs for outputs, inputs in shapes], float)
    scores = np.array([(outputs + inputs) / (outputs * inputs) for outputs, inputs in shapes])
    dense = np.zeros(len(shapes), bool)
    wanted = (1.0 - sparsity) * sizes.sum()
    while not dense.all():
        scale = (wanted - sizes[dense].sum()) / (scores * sizes)[~dense].sum()
        too_dense = ~dense & (scale * scores > 1.0)
        if not too_dense.any():
            return [float(value) for value in np.where(dense, 1.0, np.maximum(scale * scores, 0.0))]
        dense |= too_dense
    return [1.0] * len(shapes)


def random_mask(size: int, active: int, generator: np.random.Generator) -> BoolArray:
    """[size] with `active` entries true, drawn without replacement."""
    mask = np.zeros(size, bool)
    mask[generator.choice(size, active, replace=False)] = True
    return mask


def changing_share(update: int, last: int, initial: float) -> float:
    """zeta_t: falls from `initial` at update 0 to 0 at `last`, and stays there."""
    return 0.5 * initial * (1.0 + math.cos(math.pi * min(update, last) / last))


def drop_and_grow(weights: Array, mask: BoolArray, scores: Array, count: int) -> BoolArray:
    """The mask [n] after `count` of the active weights [n], those of least magnitude, made room for the
    inactive ones of the highest scores [n].

    Those that have just left may come again. Of equal ones the first go and come. count is at most the number
    of active ones."""
    new = mask.copy()
    active = np.flatnonzero(mask)
    new[active[np.argsort(np.abs(weights[active]), kind="stable")[:count]]] = False
    inactive = np.flatnonzero(~new)
    new[inactive[np.argsort(-scores[inactive], kind="stable")[:count]]] = True
    return new


def dense_flops(inputs: int, outputs: int, density: float = 1.0) -> float:
    """Floating-point operations of a matrix for one row: d (2 I - 1) O."""
    return density * (2 * inputs - 1) * outputs


def growing_flops(sparse: float, dense: float, passes: int) -> float:
    """Count the operations of learning where the weights' gradient is wanted for all weights, also for those
    that are zero.

    Of the passes only the product that makes this gradient is dense, as in RigL's own count (arXiv
    1911.11134): 2 f_S + f_D for 3 passes.

    Args:
        sparse: Operations of one forward pass through the sparse layers, f_S.
        dense: Operations of the same pass had no weight been zero, f_D.
        passes: Forward passes that learning takes as long as; the gradient with respect to the weights is one
            of them.

    Returns:
        Operations of learning.
    """
    return (passes - 1) * sparse + dense


class Operations(NamedTuple):
    """Floating-point operations that one environment step takes."""

    acting: float
    learning: float  # gradients of the weights that are there
    growing: float  # learning, with gradients of all weights

    def training(self, steps: float, dense_gradient_steps: float) -> float:
        """Count the operations of a run.

        Args:
            steps: Environment steps learned from, each as often as it was.
            dense_gradient_steps: Those of them whose gradients were of all weights.

        Returns:
            Operations of all learning.
        """
        return self.learning * (steps - dense_gradient_steps) + self.growing * dense_gradient_steps
