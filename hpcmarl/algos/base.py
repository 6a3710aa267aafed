"""What every algorithm is to a learner: a Model (model.py) with torch modules on the same parameters, and
gradients of rollouts.

Make one with `hpcmarl.algos.make_algorithm`. An algorithm knows no rank, message, file or environment. Adding
one: a function in design.py, a subclass with `gradient`, a line in ALGORITHMS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from hpcmarl.algos.design import Design, make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import AlgoConfig
from hpcmarl.nets.build import build
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.policy import Policy
from hpcmarl.types import BoolArray, EnvironmentSpec, FloatArray, Rollout


class Algorithm(Model, ABC):
    """A model with the ascent direction that rollouts give."""

    def __init__(self, spec: EnvironmentSpec, config: AlgoConfig, seed: int) -> None:
        super().__init__(make_design(spec, config), seed)
        self._modules = build_modules(self.design)
        self._flat = FlatParameters(self.layout, self._modules, self.parameters)
        self._policies = {name: _policy_at(self._modules, prefix) for name, prefix in self._prefixes.items()}

    def on_version(self, version: int) -> None:
        """The parameters now loaded are those of `version`. Called on learners, for every version that they
        adopt; the same one may come twice."""

    def set_gradient_mask(self, mask: BoolArray | None) -> None:
        """The coming gradients must be right where mask [P] is true, and no parameter is other than zero
        elsewhere; None: right everywhere.

        Called on learners before each gradient; an algorithm may use it to compute less."""

    def critic_memory(self, rollout: Rollout) -> dict[str, FloatArray]:
        """Return what recurrent critics remember after an unroll, at the present parameters.

        Returns:
            Policy -> [E, U, H], zero where the next row begins an episode; empty where critics have no
            memory.
        """
        return {}

    def begin_batch(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Note what the gradients of a batch that is gone through several times need from its beginning.

        Returns:
            The rollouts that parts are to be taken of, in the same order: these, or copies with `records`
                that share the arrays.
        """
        return list(rollouts)

    def ends_batch(self, statistics: Mapping[str, float]) -> bool:
        """Say by a gradient's statistics whether its batch has been gone through often enough."""
        return False

    @abstractmethod
    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """The ascent direction [P] summed over all trajectories (types.Rollout.count of each rollout), and
        statistics: averages.

        Additive: calls on parts of the rollouts give parts of the sum. Rollouts are not changed.
        """

    def _ascent(self, statistics: dict[str, float]) -> tuple[FloatArray, dict[str, float]]:
        """What `gradient` returns once backward passes have filled the flat gradient."""
        vector = self._flat.gradient.copy()
        trained = vector[: self.averages.start]
        return vector, statistics | {"gradient_norm": float(np.sqrt(np.dot(trained, trained)))}


def build_modules(design: Design) -> dict[str, nn.Module]:
    """Return the torch modules of a design; their weights are still to be set."""
    return {name: build(shape) for name, shape in design.modules.items()}


def _policy_at(modules: Mapping[str, nn.Module], prefix: str) -> Policy:
    module, _, inner = prefix.rstrip(".").partition(".")
    found = modules[module].get_submodule(inner)
    assert isinstance(found, Policy)
    return found
