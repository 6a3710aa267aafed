"""Sparse layers: densities, masks, replacement of weights, and floating-point operations.

    Erdős–Rényi          d_l = eps (I_l + O_l) / (I_l O_l), at most 1; eps is such that
                         sum_l d_l I_l O_l = (1 - S) sum_l I_l O_l
    cosine annealing     zeta_t = (zeta_0 / 2)(1 + cos(pi t / T)): share of a layer's weights that are
                         replaced at update t
    drop and grow        the n zeta_t active weights of least |w| are dropped; as many inactive weights
                         with the highest scores are activated

Sources: SET (arXiv 1707.04780) for the densities; RigL (arXiv 1911.11134) for the schedule and for growth by
|gradient|. MAST (arXiv 2409.19391) uses both.

    symbol -> argument:  I, O shape (outputs, inputs)   S sparsity   d densities   zeta_0 initial
                         t update   T last
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpcmarl.types import Array, BoolArray


def erdos_renyi(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[float]:
    """Return the density of each layer, so that the share `sparsity` of all weights is zero.

    A layer whose density would exceed 1 is dense; the other layers compensate for it.

    Args:
        shapes: (outputs, inputs) of each layer.
        sparsity: Share of all weights that are zero, in [0, 1).
    """
    sizes = np.array([outputs * inputs for outputs, inputs in shapes], float)
    scores = np.array([(outputs + inputs) / (outputs * inputs) for outputs, inputs in shapes])
    dense = np.zeros(len(shapes), bool)
    active = (1.0 - sparsity) * sizes.sum()
    while not dense.all():
        scale = (active - sizes[dense].sum()) / (scores * sizes)[~dense].sum()
        too_dense = ~dense & (scale * scores > 1.0)
        if not too_dense.any():
            return [float(value) for value in np.where(dense, 1.0, np.maximum(scale * scores, 0.0))]
        dense |= too_dense
    return [1.0] * len(shapes)


def random_mask(size: int, active: int, generator: np.random.Generator) -> BoolArray:
    """Return a mask [size] with `active` true entries, drawn without replacement."""
    mask = np.zeros(size, bool)
    mask[generator.choice(size, active, replace=False)] = True
    return mask


def changing_share(update: int, last: int, initial: float) -> float:
    """Return zeta_t, which falls from `initial` at update 0 to 0 at update `last`, and stays there."""
    return 0.5 * initial * (1.0 + math.cos(math.pi * min(update, last) / last))


def drop_and_grow(weights: Array, mask: BoolArray, scores: Array, count: int) -> BoolArray:
    """Replace active weights of least magnitude by inactive weights of the highest scores.

    A weight that has just been dropped can be activated again. Ties go to the lower index.

    Args:
        weights: Shape [n].
        mask: Active weights, shape [n] bool.
        scores: Scores for activation, shape [n].
        count: Number of weights to replace; at most the number of active ones.

    Returns:
        The new mask, shape [n].
    """
    new = mask.copy()
    active = np.flatnonzero(mask)
    new[active[np.argsort(np.abs(weights[active]), kind="stable")[:count]]] = False
    inactive = np.flatnonzero(~new)
    new[inactive[np.argsort(-scores[inactive], kind="stable")[:count]]] = True
    return new


def dense_flops(inputs: int, outputs: int, density: float = 1.0) -> float:
    """Return the floating-point operations of a matrix for one row: d (2 I - 1) O."""
    return density * (2 * inputs - 1) * outputs


def growing_flops(sparse: float, dense: float, passes: int) -> float:
    """Return the operations of training with the gradient of all weights, including those that are zero.

    Only the product that computes this gradient is dense; the other passes are sparse. RigL counts the same
    way (arXiv 1911.11134): 2 f_S + f_D for 3 passes.

    Args:
        sparse: Operations of one forward pass through the sparse layers, f_S.
        dense: Operations of the same pass through dense layers, f_D.
        passes: Cost of training in forward passes; the gradient with respect to the weights is one of them.

    Returns:
        Operations of training.
    """
    return (passes - 1) * sparse + dense


class Operations(NamedTuple):
    """Floating-point operations of one environment step.

    Attributes:
        acting: Operations of the acting network.
        learning: Operations of training with gradients of the active weights.
        growing: Operations of training with gradients of all weights.
    """

    acting: float
    learning: float
    growing: float

    def training(self, steps: float, dense_gradient_steps: float) -> float:
        """Return the training operations of a run.

        Args:
            steps: Environment steps used for training, each counted once for every use.
            dense_gradient_steps: Those among them whose gradients covered all weights.
        """
        return self.learning * (steps - dense_gradient_steps) + self.growing * dense_gradient_steps
