"""Learning with a matrix of weights of which few are there: torch's products by their non-zeros (CSR),
gradients only where weights are.

Used by policy.py for the recurrence, whose two matrices are most of a wide policy; knows no algorithm. A
product with many rows goes in parts of ROWS: torch's CSR product of 96 rows and a 3072 x 1024 matrix with 95
% zeros takes a third of the dense one's time, that of 5760 rows all of it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from hpcmarl.nets.recurrence import Packing
from hpcmarl.types import BoolArray, IntArray

ROWS = 128


class Pattern:
    """Which weights of a matrix [O, I] are there, in the order of its memory, and in that of its
    transpose."""

    def __init__(self, mask: BoolArray) -> None:
        """mask [O, I]."""
        self.mask = mask
        self.outputs, self.inputs = mask.shape
        rows, columns = np.nonzero(mask)
        self.places = torch.from_numpy(rows * self.inputs + columns)
        self._by_rows = _starts(rows, self.outputs), torch.from_numpy(columns.astype(np.int32))
        order = np.argsort(columns, kind="stable")
        self._order = torch.from_numpy(order)
        self._by_columns = (
            _starts(columns[order], self.inputs),
            torch.from_numpy(rows[order].astype(np.int32)),
        )

    @classmethod
    def of(cls, mask: BoolArray, former: Pattern | None) -> Pattern:
        """A pattern of this mask: the former one where it is of the same."""
        return former if former is not None and np.array_equal(former.mask, mask) else cls(np.array(mask))

    def matrices(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrix [O, I] of these values [non-zeros], and its transpose."""
        with warnings.catch_warnings():
            # torch: its CSR tensors are a beta feature
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            straight = torch.sparse_csr_tensor(
                *self._by_rows, values, size=(self.outputs, self.inputs), check_invariants=False
            )
            turned = torch.sparse_csr_tensor(
                *self._by_columns,
                values[self._order],
                size=(self.inputs, self.outputs),
                check_invariants=False,
            )
        return straight, turned


class SparseMatrix:
    """A weight [O, I] for one backward pass: `product`s with it, whose gradients reach the weight where the
    pattern has one."""

    def __init__(self, weight: torch.Tensor, pattern: Pattern) -> None:
        self._values: torch.Tensor = Gather.apply(weight, pattern.places)  # type: ignore[no-untyped-call]
        self._matrices = pattern.matrices(self._values.detach())

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """rows [n, I] -> [n, O]."""
        outputs: torch.Tensor = Product.apply(self._values, rows, *self._matrices)  # type: ignore[no-untyped-call]
        return outputs


def recur_sparse(
    cell: nn.GRUCell,
    patterns: tuple[Pattern, Pattern],
    inputs: torch.Tensor,
    memory: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    """What recurrence.recur does, by the weights that are there. patterns: of weight_ih and weight_hh."""
    width = cell.hidden_size
    of_inputs = SparseMatrix(cell.weight_ih, patterns[0]).product(inputs) + cell.bias_ih
    matrix = SparseMatrix(cell.weight_hh, patterns[1])
    before, outputs = memory[packing.columns], [inputs.new_empty(0, width)]
    for step in packing.steps:
        before = before[: step.stop - step.start]
        if packing.keeps is not None:
            before = before * packing.keeps[step]
        gates, new = torch.split(of_inputs[step], [2 * width, width], 1)
        of_memory, echo = torch.split(matrix.product(before) + cell.bias_hh, [2 * width, width], 1)
        reset, update = torch.sigmoid(gates + of_memory).chunk(2, 1)
        candidate = torch.tanh(new + reset * echo)
        before = candidate + update * (before - candidate)
        outputs.append(before)
    return torch.cat(outputs)


class Gather(torch.autograd.Function):
    """The values of a weight at different places."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.shape = weight.shape
        return weight.reshape(-1)[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,) = ctx.saved_tensors
        whole = slope.new_zeros(ctx.shape)
        whole.view(-1)[places] = slope
        return whole, None


class Product(torch.autograd.Function):
    """rows @ matrix.T; the gradient by the values of the matrix is computed only where these are."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, transpose: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.matrix, ctx.transpose = matrix, transpose
        return _product(matrix, rows)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, slope: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (rows,) = ctx.saved_tensors
        by_rows = _product(ctx.transpose, slope) if ctx.needs_input_grad[1] else None
        by_values = None
        if ctx.needs_input_grad[0]:
            for first in range(0, len(rows), ROWS):
                part = slice(first, first + ROWS)
                sampled = torch.sparse.sampled_addmm(
                    ctx.matrix, slope[part].t(), rows[part], beta=0.0
                ).values()
                by_values = sampled if by_values is None else by_values.add_(sampled)
        return by_values, by_rows, None, None


def _product(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if len(rows) <= ROWS:
        return torch.mm(matrix, rows.t()).t()
    outputs = rows.new_empty(len(rows), matrix.shape[0])
    for first in range(0, len(rows), ROWS):
        outputs[first : first + ROWS] = torch.mm(matrix, rows[first : first + ROWS].t()).t()
    return outputs


def _starts(sorted_rows: IntArray, count: int) -> torch.Tensor:
    """Where each of `count` rows begins, and the end."""
    return torch.from_numpy(np.searchsorted(sorted_rows, np.arange(count + 1)).astype(np.int32))
