"""Base class of the optimizers: an ascent step on one flat vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hpcmarl.maths.finite import all_finite
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.types import Array, Part


@dataclass(frozen=True)
class Averages:
    """The end of the parameter vector, which holds running averages instead of parameters.

    A step moves these entries by `rate` of the difference to the direction's entries.

    Attributes:
        first: Index of the first such entry.
        rate: Share of the difference per step.
    """

    first: int
    rate: float


class Optimizer(ABC):
    """Ascend from initial parameters along aggregated directions.

    `parts` are slices of the vector that are optimised separately: each policy's actor, its critic and its
    learned entropy cost. The gradient of each part is clipped separately, so that a large gradient of one
    part does not slow the others. Critics have their own step size and clipping limit (`critic_step_size`,
    `critic_max_gradient_norm`).

    With `averages`, those entries are in no part, and the method sees zeros in their direction. With
    `topology`, inactive parameters and the state of the method for them are zero. Arithmetic is in the dtype
    of `parameters` (float32 in runs, float64 in tests).

    A subclass lists the arrays [P] that it keeps between steps in `state_keys`. It sets an attribute of each
    name in its constructor and updates them in `_move`. Checkpoints, resumption and sparse masks follow from
    the names.

    Args:
        config: Settings of the optimizer.
        parameters: Initial parameters, shape [P]; copied.
        parts: The parts; empty: the whole vector is one actor.

    Attributes:
        updates: Number of steps taken.
        averages: Entries that are running averages; None: none are.
        topology: Active weights of sparse layers; None: all weights are active.
    """

    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, parameters: Array, parts: Sequence[Part] = ()) -> None:
        self.config = config
        self.parameters: Array = np.array(parameters)
        self._scratch: Array = np.empty_like(self.parameters)  # intermediate results of a step
        self.parts = tuple(parts) or (Part("", "actor", slice(0, self.parameters.size)),)
        self.updates = 0
        self.averages: Averages | None = None
        self.topology: SparseTopology | None = None

    def become_sparse(self, topology: SparseTopology) -> None:
        """Restrict the parameters to the active weights of a topology from now on."""
        self.topology = topology
        self._mask()

    def query_point(self) -> Array:
        """Return the point at which the next gradient is to be taken, [P].

        It is the parameters themselves unless the method extrapolates.
        """
        return self.parameters

    def seen(self, direction: Array) -> Array:
        """Return a direction [P] with zeros for inactive weights."""
        return (
            direction
            if self.topology is None
            else np.where(self.topology.mask, direction, direction.dtype.type(0.0))
        )

    def step(self, direction: Array) -> None:
        """Move along an aggregated direction.

        Args:
            direction: Ascent direction, shape [P].

        Raises:
            ValueError: The shape differs from that of the parameters.
            FloatingPointError: A parameter is not finite after the step.
        """
        if direction.shape != self.parameters.shape:
            raise ValueError(
                f"a direction of shape {direction.shape} for parameters of shape {self.parameters.shape}"
            )
        direction = np.asarray(direction, dtype=self.parameters.dtype)
        seen = self.seen(direction)
        if self.averages is None or self.averages.first == self.parameters.size:
            self._move(seen)
        else:
            self._move_and_average(seen, slice(self.averages.first, None), self.averages.rate)
        self.updates += 1
        if self.topology is not None:
            self.topology.evolve(self.parameters, direction, self.updates)
            self._mask()
        if not all_finite(self.parameters):
            bad = int(np.flatnonzero(~np.isfinite(self.parameters))[0])
            raise FloatingPointError(
                f"step {self.updates} made parameter {bad} {self.parameters[bad]}; lower optimizer.step_size"
            )

    def _move_and_average(self, direction: Array, end: slice, rate: float) -> None:
        seen, before = direction[end].copy(), self.parameters[end].copy()
        direction = direction.copy()
        direction[end] = 0.0
        self._move(direction)
        self.parameters[end] = before + self.parameters.dtype.type(rate) * (seen - before)

    def _mask(self) -> None:
        assert self.topology is not None
        for array in (self.parameters, *self._state_arrays().values()):
            array[~self.topology.mask] = 0.0

    def _state_arrays(self) -> dict[str, Array]:
        """Return the arrays of `state_keys`, [P] each."""
        return {key: self.__dict__[key] for key in self.state_keys}

    @abstractmethod
    def _move(self, direction: Array) -> None:
        """Change `parameters` along a direction [P]."""

    def _clipped(self, direction: Array) -> Array:
        """Clip the norm of each part: critics to critic_max_gradient_norm, other parts to max_gradient_norm.

        Args:
            direction: Ascent direction, [P]; not changed.

        Returns:
            The clipped direction [P]; `direction` itself if no part exceeds its limit.
        """
        limit, critic_limit = self.config.max_gradient_norm, self.config.max_gradient_norm_of_critics
        if limit is None and critic_limit is None:
            return direction
        clipped = direction
        for part in self.parts:
            largest = critic_limit if part.kind == "critic" else limit
            norm = float(np.linalg.norm(direction[part.place]))
            if largest is not None and norm > largest:
                clipped = direction.copy() if clipped is direction else clipped
                clipped[part.place] *= largest / norm
        return clipped

    def _advance(self, movement: Array) -> None:
        """Add a movement to the parameters, with the step size of critics, in a new vector.

        References to the former vector stay valid and unchanged.

        Args:
            movement: Change of the parameters [P] with step_size everywhere; overwritten.
        """
        self.parameters = np.add(self.parameters, self._critics_scaled(movement), out=movement)

    def _critics_scaled(self, movement: Array) -> Array:
        """Scale the movement of critics to their own step size, in place.

        Args:
            movement: Change of the parameters [P] with step_size everywhere.

        Returns:
            The same array.
        """
        own, common = self.config.step_size_of_critics, self.config.step_size
        for part in self.parts if own != common else ():
            if part.kind == "critic":
                movement[part.place] *= own / common
        return movement

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the parameters, the number of updates, the state arrays and the topology."""
        state: dict[str, Any] = {"parameters": self.parameters.copy(), "updates": self.updates}
        state |= {key: array.copy() for key, array in self._state_arrays().items()}
        return state if self.topology is None else state | {"topology": self.topology.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same method and size.

        Raises:
            ValueError: The sizes differ.
            KeyError: One of `state_keys` is missing.
        """
        if state["parameters"].shape != self.parameters.shape:
            raise ValueError(
                f"the state holds {state['parameters'].size} parameters, this network has "
                f"{self.parameters.size}"
            )
        self.parameters = np.array(state["parameters"], dtype=self.parameters.dtype)
        self.updates = int(state["updates"])
        for key in self.state_keys:
            self.__dict__[key] = np.array(state[key], dtype=self.parameters.dtype)
        if self.topology is not None:
            self.topology.load_state_dict(state["topology"])
