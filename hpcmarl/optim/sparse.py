"""Which weights of a vector there are: sparse layers whose connections change while they are trained. Called
by the optimizers' step.

At the start each layer gets a random mask of its Erdős–Rényi density. Every `every` updates, until `last`, a
share of each sparse layer's weights leaves (the smallest) and as many come, at zero: those with the largest
gradient (growth gradient: RigL, MAST), any (random: SET); with growth none the masks stay (static sparse
training). What is no layer, biases among it, is never masked.

Moments of a weight that comes are zero, as MAST has them. Its first step is therefore longer than the
others': (1 - beta1) / sqrt(1 - beta2) step sizes where its gradient is large beside epsilon, which is 10 with
RMSprop (beta1 0, decay 0.99) and 3.2 with Adam, each by default. With RMSprop the first step of every weight
of a run is as long.

A rule's mean direction is dense, also in weights that are not there: the gradient that says which would help.
All replicas of an optimizer see the
same directions and own equal random numbers, so that they change alike.  Sources and formulas:
    maths/sparsity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.config import SparseConfig
from hpcmarl.maths.sparsity import changing_share, drop_and_grow, erdos_renyi, random_mask
from hpcmarl.types import Array, BoolArray, Layer


def changes_after(plan: SparseConfig, update: int) -> bool:
    """Whether weights leave and come after `update` steps."""
    return plan.growth != "none" and update % plan.every == 0 and update < plan.last


def needs_all(plan: SparseConfig, update: int) -> bool:
    """Whether the direction of the step that makes it `update` steps must be known also where no weight
    is.
    """
    return plan.growth == "gradient" and changes_after(plan, update)


class SparseTopology:
    """mask [P] bool: true where a weight is, and everywhere outside the layers."""

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
        """After `update` steps: change the mask where that is due, given the parameters [P] and the dense
        direction [P] of the last step.
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
        """Weights that are there, without what is outside the layers."""
        return sum(int(np.count_nonzero(self.mask[layer.place])) for layer in self.layers)

    def state_dict(self) -> dict[str, Any]:
        return {"mask": self.mask.copy(), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue. Raises ValueError where the mask is of another size."""
        if np.shape(state["mask"]) != self.mask.shape:
            raise ValueError(
                f"the state holds a mask of {np.size(state['mask'])} parameters, this network has "
                f"{self.mask.size}"
            )
        self.mask = np.array(state["mask"], bool)
        self.generator.bit_generator.state = state["generator"]
