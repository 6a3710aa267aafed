"""The interface of all algorithms: a Model with torch modules and gradients of rollouts.

The torch modules share the parameters of the Model (model.py). Use `hpcmarl.algos.make_algorithm` to create
an algorithm. A new algorithm needs a function in design.py, a subclass that implements `gradient`, and a line
in ALGORITHMS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.design import Design, make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import AlgoConfig
from hpcmarl.nets.build import build
from hpcmarl.nets.device import HOST, numbers, tensor
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Rollout


class Algorithm(Model, ABC):
    """A model that computes ascent directions from rollouts.

    Args:
        spec: The environment.
        config: Configuration of the algorithm.
        seed: Seed of the initial parameters.

    Attributes:
        device: Device of the torch modules. Rollouts, and the results of all methods, are arrays of the host.
        keeps_gradient: Whether `slopes` alone holds a gradient until the next one. Then `gradient` returns a
            view of it on the host, or an empty vector for a finite gradient on another device.
    """

    def __init__(self, spec: EnvironmentSpec, config: AlgoConfig, seed: int) -> None:
        super().__init__(make_design(spec, config), seed)
        self._modules = build_modules(self.design)
        self.device, self.keeps_gradient = HOST, False
        self._bound: list[FlatParameters] = []
        self._bound_modules: list[Mapping[str, nn.Module]] = []
        self._flat = self._bind(self._modules, self.parameters)
        self._policies = self._policies_of(self._modules)

    def _policies_of(self, modules: Mapping[str, nn.Module]) -> dict[str, Policy]:
        """Return the policies among modules of this design."""
        return {name: _policy_at(modules, prefix) for name, prefix in self._prefixes.items()}

    def _bind(self, modules: Mapping[str, nn.Module], vector: FloatArray) -> FlatParameters:
        """Bind modules of this design to a parameter vector [P] of the host; `move` moves them, too."""
        self._bound_modules.append(modules)
        self._bound.append(FlatParameters(self.layout, modules, vector))
        return self._bound[-1]

    def move(self, device: torch.device) -> None:
        """Move the torch modules to a device. Call it before the first gradient."""
        self.device = device
        for flat in self._bound:
            flat.move(device)

    def use_arithmetic(self, precision: str, *, compiled: bool) -> str:
        """Choose the arithmetic of the torch modules. Call it after `move`, before the first gradient.

        Args:
            precision: "float32", or "bf16" for products in bfloat16.
            compiled: Whether torch compiles the layers.

        Returns:
            The reason why they are not compiled nevertheless, in one line; empty: none.
        """
        if precision == "float32" and not compiled:
            return ""
        from hpcmarl.nets.arithmetic import compile_networks, compiler_problem, use_bfloat16

        modules = [module for bound in self._bound_modules for module in bound.values()]
        problem = compiler_problem(self.device) if compiled else ""
        if compiled and not problem:
            compile_networks(modules)
        if precision == "bf16":
            use_bfloat16(modules)
        return problem

    def load_parameters(self, vector: FloatArray) -> None:
        super().load_parameters(vector)
        self._flat.refresh()

    @property
    def slopes(self) -> torch.Tensor:
        """The gradient of the last call on the device, shape [P]."""
        return self._flat.slopes

    def tensor(self, array: Array) -> torch.Tensor:
        """Return a tensor on the device with the values of an array (nets/device.py)."""
        return tensor(array, self.device)

    def on_version(self, version: int) -> None:
        """Take note that the loaded parameters are those of `version`.

        A learner calls this for every version that it adopts. The same version may come twice.
        """

    def set_gradient_mask(self, mask: BoolArray | None) -> None:
        """Announce the entries that the next gradients must contain.

        A learner calls this before each gradient. An algorithm may use it to compute less.

        Args:
            mask: Entries that must be correct, shape [P]. Parameters outside the mask are zero. None: all
                entries must be correct.
        """

    def critic_memory(self, rollout: Rollout) -> dict[str, FloatArray]:
        """Return the memory of recurrent critics after an unroll, at the present parameters.

        Args:
            rollout: Unrolls, with the critics' memory before them.

        Returns:
            For each policy the memory [E, U, H], zero where the next row begins an episode. Empty if critics
            have no memory.
        """
        return {}

    def begin_batch(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Record values at the beginning of a batch that is gone through several times.

        Args:
            rollouts: The rollouts of the batch.

        Returns:
            Rollouts in the same order, from which the minibatches are taken. They are the given ones, or
            copies that share their arrays and have `records`.
        """
        return list(rollouts)

    def ends_batch(self, statistics: Mapping[str, float]) -> bool:
        """Return whether the statistics of a gradient show that its batch has been used enough."""
        return False

    @abstractmethod
    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Compute the ascent direction, summed over all trajectories of the rollouts.

        The direction is additive: the directions of parts of the rollouts add up to that of the whole.
        Exceptions are documented in the subclasses. Rollouts are not changed.

        Args:
            rollouts: At least one rollout; each holds `count` trajectories.

        Returns:
            The direction, shape [P], and statistics, which are averages.
        """

    def _ascent(self, statistics: dict[str, float]) -> tuple[FloatArray, dict[str, float]]:
        """Return the result of `gradient` after the backward passes have filled the flat gradient."""
        if self.device != HOST and self.keeps_gradient:
            trained = self.slopes[: self.averages.start]
            squares, others = numbers(trained.dot(trained), self.slopes.dot(self.slopes))
            vector = np.empty(0, np.float32) if math.isfinite(others) else self._flat.gradient
            return vector, statistics | {"gradient_norm": math.sqrt(max(squares, 0.0))}
        vector = self._flat.gradient
        if self.device == HOST and not self.keeps_gradient:
            vector = vector.copy()
        own = vector[: self.averages.start]
        return vector, statistics | {"gradient_norm": float(np.sqrt(np.dot(own, own)))}


def build_modules(design: Design) -> dict[str, nn.Module]:
    """Build the torch modules of a design, with uninitialised weights."""
    return {name: build(shape) for name, shape in design.modules.items()}


def _policy_at(modules: Mapping[str, nn.Module], prefix: str) -> Policy:
    module, _, inner = prefix.rstrip(".").partition(".")
    policy = modules[module].get_submodule(inner)
    assert isinstance(policy, Policy)
    return policy
