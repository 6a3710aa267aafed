"""Floating-point operations of a run's training and acting, for summary.json."""

from __future__ import annotations

from typing import Any

from hpcmarl.algos.model import Model
from hpcmarl.optim.sparse import SparseTopology


def count_operations(
    algorithm: Model, topology: SparseTopology | None, learned_steps: float, dense_gradient_steps: float
) -> dict[str, Any]:
    """Count the operations of a run, and those that a dense network would have needed.

    Args:
        algorithm: Algorithm of the run.
        topology: Sparse topology of its weights; None: dense.
        learned_steps: Environment steps used in gradients, counted once per gradient.
        dense_gradient_steps: The part of these steps with dense gradients of a sparse network.

    Returns:
        Both numbers of steps; operations of all training (training_flops, dense_training_flops); operations
        of acting in one environment step (acting_flops_per_step, dense_acting_flops_per_step); of a sparse
        network also the share of active weights by layer (layer_densities). Empty if the algorithm does not
        count operations.
    """
    whole = [1.0] * len(algorithm.layers)
    dense, counted = (
        algorithm.operations(whole),
        algorithm.operations(whole if topology is None else topology.densities),
    )
    if dense is None or counted is None:
        return {}
    return {
        "learned_steps": learned_steps,
        "dense_gradient_steps": dense_gradient_steps,
        "training_flops": counted.training(learned_steps, dense_gradient_steps),
        "dense_training_flops": dense.training(learned_steps, dense_gradient_steps),
        "acting_flops_per_step": counted.acting,
        "dense_acting_flops_per_step": dense.acting,
        **({} if topology is None else {"layer_densities": densities_by_layer(topology)}),
    }


def densities_by_layer(topology: SparseTopology) -> dict[str, float]:
    """Return the share of active weights of each layer, by its number and shape, such as "1 (64x18)"."""
    return {
        f"{number} ({layer.shape[0]}x{layer.shape[1]})": float(topology.mask[layer.place].mean())
        for number, layer in enumerate(topology.layers, 1)
    }
