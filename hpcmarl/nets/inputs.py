"""Inputs of a network as tensors (input_form.py has the arrays).

Flat inputs are one tensor. Records become `Inputs`, with a tensor for each field, or a dictionary of tensors
for observations of Dict and Tuple spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.nets.device import HOST, tensor
from hpcmarl.types import Array


@dataclass(frozen=True)
class Encoded:
    """Features that take the place of observations, so that no encoder runs.

    Attributes:
        features: Shape [n, F]; several observations of a row lie side by side.
    """

    features: torch.Tensor

    def __getitem__(self, rows: torch.Tensor | slice) -> Encoded:
        """Return some of the rows."""
        return Encoded(self.features[rows])


Values = torch.Tensor | dict[str, torch.Tensor] | Encoded


@dataclass(frozen=True)
class Inputs:
    """Rows of inputs that are no flat vectors.

    Attributes:
        fields: For each field of the form a tensor [n, *shape], or one for each entry of its observations.
    """

    fields: Mapping[str, Values]

    @property
    def rows(self) -> int:
        """Number of rows, n; a symbol while torch.export traces a network."""
        first = next(iter(self.fields.values()))
        if isinstance(first, Encoded):
            return first.features.shape[0]
        return (first if isinstance(first, torch.Tensor) else next(iter(first.values()))).shape[0]

    def take(self, rows: torch.Tensor | slice) -> Inputs:
        """Return some of the rows."""
        return Inputs(
            {
                name: {key: value[rows] for key, value in values.items()}
                if isinstance(values, dict)
                else values[rows]
                for name, values in self.fields.items()
            }
        )


RowInputs = torch.Tensor | Inputs


def take(inputs: RowInputs, rows: torch.Tensor | slice) -> RowInputs:
    """Return some rows of inputs."""
    return inputs[rows] if isinstance(inputs, torch.Tensor) else inputs.take(rows)


def row_inputs(array: Array, leading: int, device: torch.device = HOST) -> RowInputs:
    """Return an array of inputs as rows of tensors.

    Args:
        array: Shape [..., D] float32, or records [...].
        leading: Number of leading dimensions.
        device: Device of the tensors.

    Returns:
        The rows in C order: a tensor [n, D], or one tensor for each field.
    """
    if array.dtype.names is None:
        return tensor(array, device).flatten(0, leading - 1)
    rows = array.reshape(-1)
    return Inputs({name: observed(rows[name], device) for name in array.dtype.names})


def observed(array: Array, device: torch.device) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return observations [n, ...] as a tensor, or as one for each entry of records."""
    if array.dtype.names is None:
        return tensor(_packed(array), device)
    return {name: tensor(_packed(array[name]), device) for name in array.dtype.names}


def _packed(array: Array) -> Array:
    """Return a field of records [n, ...] with the strides of its shape; a copy if it has others."""
    # The stride between records counts even with a single row, and torch refuses odd ones.
    return array if array.flags.c_contiguous and len(array) > 1 else np.array(array, order="C")
