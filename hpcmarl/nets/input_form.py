"""Arrays of the inputs of a network: its observations and further numbers, side by side.

A network of flat inputs gets one row of float32 numbers. Other networks get records with one field for each
input, which keep the types of the observations. Both are numpy arrays of any leading dimensions. Code that
selects, joins or pads rows need not know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpcmarl.types import Array, FloatArray, PolicySpec, flat_observations


@dataclass(frozen=True)
class Field:
    """One input of a network.

    Attributes:
        name: Its name.
        size: Number of float32 numbers that it has in a flat row.
        policy: The policy whose observations it holds; None: it holds numbers.
        count: Number of observations, which have an axis of their own; None: one observation.
        encoded: Whether a record holds the numbers of rows in a table of features instead of observations.
    """

    name: str
    size: int
    policy: PolicySpec | None = None
    count: int | None = None
    encoded: bool = False

    @classmethod
    def observation(cls, name: str, policy: PolicySpec) -> Field:
        """Describe an input of one observation of a policy."""
        return cls(name, policy.observation_size, policy)

    @classmethod
    def all_observations(cls, name: str, policy: PolicySpec) -> Field:
        """Describe an input of the observations of all agents of a policy."""
        count = len(policy.agents)
        return cls(name, count * policy.observation_size, policy, count)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the field in a record."""
        if self.policy is None:
            return (self.size,)
        if self.encoded:
            return () if self.count is None else (self.count,)
        return (*(() if self.count is None else (self.count,)), *self.policy.observation_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the field in a record, without its shape."""
        if self.encoded:
            return np.dtype(np.int64)
        return np.dtype(np.float32) if self.policy is None else self.policy.observation_dtype

    def numbers(self, array: Array) -> FloatArray:
        """Return an array [..., *shape] as float32 numbers [..., size]."""
        if self.policy is None:
            return array
        leading = array.ndim - len(self.shape)
        rows = flat_observations(array, array.ndim - len(self.policy.observation_shape))
        return rows.reshape(*array.shape[:leading], self.size)


@dataclass(frozen=True)
class InputForm:
    """The inputs of a network, in order.

    Attributes:
        fields: The inputs.
        flat: Whether a row is one vector of float32 numbers.
    """

    fields: tuple[Field, ...]
    flat: bool

    @cached_property
    def size(self) -> int:
        """Number of float32 numbers of a flat row, D."""
        return sum(field.size for field in self.fields)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a record."""
        return np.dtype([(field.name, field.dtype, field.shape) for field in self.fields])

    def join(self, leading: tuple[int, ...], inputs: Sequence[Array]) -> Array:
        """Put inputs side by side.

        Args:
            leading: Leading dimensions of the result.
            inputs: One array [..., *shape] for each field. Its leading dimensions are broadcast.

        Returns:
            Shape [*leading, D] float32 for flat inputs; with one field it may be a view. Else records, shape
            [*leading]; with one field they may be a view, too.
        """
        if not self.flat:
            own, field = inputs[0], self.fields[0]
            same = own.dtype == field.dtype and own.shape == (*leading, *field.shape)
            if len(self.fields) == 1 and same and own.flags.c_contiguous:
                # the same bytes, so that images are not copied
                return own.reshape(-1).view(self.dtype).reshape(leading)
            records = np.empty(leading, self.dtype)
            for field, array in zip(self.fields, inputs, strict=True):
                records[field.name] = array
            return records
        if len(self.fields) == 1:
            rows = self.fields[0].numbers(inputs[0])
            shape = (*leading, self.size)
            return rows if rows.shape == shape else np.broadcast_to(rows, shape)
        joined = np.empty((*leading, self.size), np.float32)
        start = 0
        for field, array in zip(self.fields, inputs, strict=True):
            joined[..., start : start + field.size] = field.numbers(array)
            start += field.size
        return joined
