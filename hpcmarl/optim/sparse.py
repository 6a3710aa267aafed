"""Sparse layers: the mask of a vector's active weights, and its evolution during training.

At the start each layer gets a random mask of its Erdős–Rényi density. Every `every` updates, until `last`, a
share of each sparse layer's active weights is removed, those of smallest magnitude. The same number becomes
active, at zero. These are the weights with the largest gradient (growth gradient: RigL, MAST) or random ones
(growth random: SET). With growth none the masks stay fixed (static sparse training). Parameters outside the
layers, such as biases, are never masked.

The moments of a newly active weight are zero, as in MAST. If its gradient is large compared with epsilon, its
first step is therefore longer: (1 - beta1) / sqrt(1 - beta2) step sizes. By default that is 10 with RMSprop
(beta1 0, decay 0.99) and 3.2 with Adam. With RMSprop the first step of every weight of a run is equally long.

The mean direction of a round is dense: it includes inactive weights, and so shows which of them would help.
All replicas of an optimizer see the same directions and have equal random numbers, so that their masks stay
equal.

Sources and formulas: maths/sparsity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.config import SparseConfig
from hpcmarl.maths.sparsity import changing_share, drop_and_grow, erdos_renyi, random_mask
from hpcmarl.types import Array, BoolArray, Layer


def changes_after(plan: SparseConfig, update: int) -> bool:
    """Return whether the mask changes after `update` steps."""
    return plan.growth != "none" and update % plan.every == 0 and update < plan.last


def needs_all(plan: SparseConfig, update: int) -> bool:
    """Return whether the step that completes `update` steps needs a direction with inactive weights."""
    return plan.growth == "gradient" and changes_after(plan, update)


class SparseTopology:
    """The mask of active weights, and its changes.

    Args:
        plan: Settings of sparse training.
        layers: Layers whose weights are masked.
        size: Number of parameters, P.
        generator: Random numbers; equal on all replicas.

    Attributes:
        mask: True for active weights and everywhere outside the layers, [P].
        densities: Share of active weights of each layer; 1: dense.
    """

    def __init__(
        self, plan: SparseConfig, layers: Sequence[Layer], size: int, generator: np.random.Generator
    ) -> None:
        self.plan, self.layers, self.generator = plan, tuple(layers), generator
        self.mask: BoolArray = np.ones(size, bool)
        self.densities = erdos_renyi([layer.shape for layer in self.layers], plan.sparsity)
        for layer, density in zip(self.layers, self.densities, strict=True):
            count = layer.place.stop - layer.place.start
            self.mask[layer.place] = random_mask(count, max(1, round(density * count)), generator)

    def evolve(self, parameters: Array, direction: Array, update: int) -> None:
        """Change the mask if due.

        Args:
            parameters: Parameters after the step, [P].
            direction: Dense direction of the last step, [P].
            update: Number of steps taken.
        """
        plan = self.plan
        if not changes_after(plan, update):
            return
        share = changing_share(update, plan.last, plan.initial_share)
        for layer, density in zip(self.layers, self.densities, strict=True):
            if density == 1.0:
                continue
            mask = self.mask[layer.place]
            scores = (
                np.abs(direction[layer.place])
                if plan.growth == "gradient"
                else self.generator.random(mask.size)
            )
            self.mask[layer.place] = drop_and_grow(
                parameters[layer.place], mask, scores, int(share * np.count_nonzero(mask))
            )

    @property
    def active(self) -> int:
        """Number of active weights in the layers."""
        return sum(int(np.count_nonzero(self.mask[layer.place])) for layer in self.layers)

    def state_dict(self) -> dict[str, Any]:
        return {"mask": self.mask.copy(), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`.

        Raises:
            ValueError: The mask has another size.
        """
        if np.shape(state["mask"]) != self.mask.shape:
            raise ValueError(
                f"the state holds a mask of {np.size(state['mask'])} parameters, this network has "
                f"{self.mask.size}"
            )
        self.mask = np.array(state["mask"], bool)
        self.generator.bit_generator.state = state["generator"]
