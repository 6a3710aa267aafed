"""A policy's network in numpy, for acting without torch.

It computes the function of policy.Policy on the same parameter vector, for policies of flat inputs
(PolicyShape.in_numpy).
"""

from __future__ import annotations

import numpy as np

from hpcmarl.nets.acting import ActingPolicy
from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.layer_shapes import GRUShape
from hpcmarl.nets.numpy_layers import Arrays, NumpyDense, NumpyMoments, NumpyRecurrence, numpy_dueling_values
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.nets.sparse import DenseWeight, SparseWeight
from hpcmarl.types import BoolArray, FloatArray, IntArray


class NumpyPolicy(ActingPolicy):
    """Policy network in numpy.

    Attributes:
        sparse: The matrices in sparse form; empty before `become_sparse`.
    """

    def __init__(self, shape: PolicyShape, chooser: Chooser, arrays: Arrays) -> None:
        """Create the network.

        Args:
            shape: Description of the policy's network.
            chooser: Chooser of the policy's agents.
            arrays: Views of the parameter vector, by the parameters' names in the network.
        """
        super().__init__(shape, chooser)
        self._moments = None if shape.moments is None else NumpyMoments(_within("moments", arrays))
        self._body = None if shape.body is None else NumpyDense(shape.body, _within("body", arrays))
        self._recurrence = (
            NumpyRecurrence(shape.cell, _within("cell", arrays)) if isinstance(shape.cell, GRUShape) else None
        )
        self._outputs = NumpyDense(shape.outputs, _within("outputs", arrays))
        self._value = None if shape.value is None else NumpyDense(shape.value, _within("value", arrays))
        self._layers = [
            part for part in (self._body, self._recurrence, self._outputs, self._value) if part is not None
        ]
        self.sparse: list[SparseWeight] = []

    def become_sparse(self, *, measured: bool) -> None:
        for layers in self._layers:
            sparse = [
                SparseWeight(weight.transposed, measured=measured)
                for weight in layers.weights
                if isinstance(weight, DenseWeight)
            ]
            layers.weights = list(sparse)
            self.sparse += sparse

    def refresh(self) -> None:
        for layers in self._layers:
            for weight in layers.weights:
                weight.refresh()

    def raw(
        self, inputs: FloatArray, before: FloatArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        seen = self._normalise(inputs)
        hidden = seen if self._body is None else self._body(seen)
        if self._recurrence is None:
            return self._heads(hidden, mask), None
        if before is None:
            before = np.zeros((len(inputs), self._width), np.float32)
        hidden = self._recurrence(hidden, before)
        return self._heads(hidden, mask), hidden

    def _raw_of(
        self, living: IntArray, inputs: FloatArray, before: FloatArray | None, mask: BoolArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        # A varying number of rows would make sparse matrices time their forms again.
        if self.sparse:
            raw, hidden = self.raw(inputs, before, mask)
            return raw.take(living, 0), None if hidden is None else hidden.take(living, 0)
        return super()._raw_of(living, inputs, before, mask)

    def _heads(self, hidden: FloatArray, mask: BoolArray | None) -> FloatArray:
        raw = self._outputs(hidden)
        return raw if self._value is None else numpy_dueling_values(raw, self._value(hidden), mask)

    def _normalise(self, obs: FloatArray) -> FloatArray:
        return obs if self._moments is None else self._moments(obs)


def _within(part: str, arrays: Arrays) -> dict[str, FloatArray]:
    """Return the arrays of a part of the network, by their names in that part."""
    return {
        name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")
    }
