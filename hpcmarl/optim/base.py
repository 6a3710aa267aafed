"""What every optimizer is: an ascent step on one flat vector. Knows nothing of rounds, ranks or networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.types import Array


@dataclass(frozen=True)
class Averages:
    """The vector's end, from `first` on, is no parameter: a step moves it by `rate` of the way to what the direction holds there."""

    first: int
    rate: float


class Optimizer(ABC):
    """Ascends from `parameters` [P].

    `segments` are the slices of the vector that are optimised apart, one a policy: norms (of a normalised step, of a
    clipped gradient) are taken in each, so that one policy's large gradient does not slow another one.
    Where `averages` is set, they are no part of a segment and no method sees a direction in them. Where `topology` is set, parameters
    and what a method remembers of them are zero where there is no weight.
    Arithmetic is in the dtype of `parameters` (float32 in runs, float64 in tests).
    """

    def __init__(self, config: Any, parameters: Array, segments: Sequence[slice] = ()) -> None:
        self.config = config
        self.parameters: Array = np.array(parameters)
        self.segments = tuple(segments) or (slice(0, self.parameters.size),)
        self.updates = 0
        self.averages: Averages | None = None
        self.topology: SparseTopology | None = None

    def become_sparse(self, topology: SparseTopology) -> None:
        """From now on only the weights of this topology are there."""
        self.topology = topology
        self._mask()

    def point(self) -> Array:
        """Where the next gradient is to be taken, [P]: the parameters themselves unless the method looks ahead."""
        return self.parameters

    def seen(self, direction: Array) -> Array:
        """The direction [P] without what it holds where no weight is."""
        return direction if self.topology is None else np.where(self.topology.mask, direction, direction.dtype.type(0.0))

    def step(self, direction: Array) -> None:
        """Move along the aggregated ascent direction [P]; raises ValueError when the shapes differ, FloatingPointError when a parameter
        is not finite afterwards."""
        if direction.shape != self.parameters.shape:
            raise ValueError(f"a direction of shape {direction.shape} for parameters of shape {self.parameters.shape}")
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
        if not np.isfinite(self.parameters).all():
            bad = int(np.flatnonzero(~np.isfinite(self.parameters))[0])
            raise FloatingPointError(f"step {self.updates} made parameter {bad} {self.parameters[bad]}; lower optimizer.step_size")

    def _move_and_average(self, direction: Array, end: slice, rate: float) -> None:
        seen, before = direction[end].copy(), self.parameters[end].copy()
        direction = direction.copy()
        direction[end] = 0.0
        self._move(direction)
        self.parameters[end] = before + self.parameters.dtype.type(rate) * (seen - before)

    def _mask(self) -> None:
        assert self.topology is not None
        for array in (self.parameters, *self._remembered()):
            array[~self.topology.mask] = 0.0

    @abstractmethod
    def _remembered(self) -> tuple[Array, ...]:
        """What the method keeps of each parameter, [P] each."""

    @abstractmethod
    def _move(self, direction: Array) -> None:
        """Change `parameters` in place."""

    def _clipped(self, direction: Array, limit: float | None) -> Array:
        """The direction with each segment's norm at most `limit` (None: unchanged)."""
        if limit is None:
            return direction
        clipped = direction.copy()
        for segment in self.segments:
            norm = float(np.linalg.norm(clipped[segment]))
            if norm > limit:
                clipped[segment] *= limit / norm
        return clipped

    def state_dict(self) -> dict[str, Any]:
        """Arrays and plain values, copies."""
        state = {"parameters": self.parameters.copy(), "updates": self.updates}
        return state if self.topology is None else state | {"topology": self.topology.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same method and size; raises ValueError when the sizes differ."""
        if state["parameters"].shape != self.parameters.shape:
            raise ValueError(f"the state holds {state['parameters'].size} parameters, this network has {self.parameters.size}")
        self.parameters = np.array(state["parameters"], dtype=self.parameters.dtype)
        self.updates = int(state["updates"])
        if self.topology is not None:
            self.topology.load_state_dict(state["topology"])
