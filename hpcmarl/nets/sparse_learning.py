"""Training with sparse matrices: products by non-zeros (CSR), and gradients of active weights only.

policy.py uses it for the recurrence. The two matrices of a GRU hold most of the weights of a wide policy.

A product with many rows is computed in parts of ROWS rows. With a 3072 x 1024 matrix of 95 % zeros, torch's
CSR product of 96 rows takes a third of the time of the dense product. With 5760 rows it takes the same time.
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
    """Active weights of a matrix [O, I], in the memory order of the matrix and of its transpose.

    Args:
        mask: Active weights, shape [O, I].
    """

    def __init__(self, mask: BoolArray) -> None:
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
        """Return the pattern of a mask; reuse `former` if it has the same mask."""
        return former if former is not None and np.array_equal(former.mask, mask) else cls(np.array(mask))

    def matrices(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the CSR matrix [O, I] with these values, and its transpose.

        Args:
            values: Values of the active weights, shape [non-zeros].
        """
        with warnings.catch_warnings():
            # torch warns that CSR tensors are a beta feature
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            matrix = torch.sparse_csr_tensor(
                *self._by_rows, values, size=(self.outputs, self.inputs), check_invariants=False
            )
            transpose = torch.sparse_csr_tensor(
                *self._by_columns,
                values[self._order],
                size=(self.inputs, self.outputs),
                check_invariants=False,
            )
        return matrix, transpose


class SparseMatrix:
    """A weight [O, I] in sparse form, for one forward and backward pass.

    The gradients of its products reach the weight at the places of the pattern only.
    """

    def __init__(self, weight: torch.Tensor, pattern: Pattern) -> None:
        self._values: torch.Tensor = Gather.apply(weight, pattern.places)  # type: ignore[no-untyped-call]
        self._matrices = pattern.matrices(self._values.detach())

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product of rows [n, I] with the weight, shape [n, O]."""
        outputs: torch.Tensor = Product.apply(self._values, rows, *self._matrices)  # type: ignore[no-untyped-call]
        return outputs


def recur_sparse(
    cell: nn.GRUCell,
    patterns: tuple[Pattern, Pattern],
    inputs: torch.Tensor,
    memory: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    """Run a GRU cell over packed rows by its active weights only; otherwise as recurrence.recur.

    Args:
        cell: The GRU cell.
        patterns: Active weights of weight_ih and weight_hh.
        inputs: Inputs of the packed rows, shape [n, I].
        memory: Memory before row 0, shape [C, H].
        packing: Order of the rows.

    Returns:
        Memory after each packed row, shape [n, H].
    """
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
    """Values of a weight at distinct places."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the values [n] at the given places [n]."""
        ctx.save_for_backward(places)
        ctx.shape = weight.shape
        return weight.reshape(-1)[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the derivative with respect to the weight."""
        (places,) = ctx.saved_tensors
        whole = slope.new_zeros(ctx.shape)
        whole.view(-1)[places] = slope
        return whole, None


class Product(torch.autograd.Function):
    """The product rows @ matrix.T; its gradient with respect to the matrix covers the non-zeros only."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, transpose: torch.Tensor
    ) -> torch.Tensor:
        """Compute the product [n, O].

        Args:
            ctx: The autograd context.
            values: Non-zeros of the matrix, shape [non-zeros]; they receive the gradient.
            rows: Shape [n, I].
            matrix: CSR matrix of these values, shape [O, I].
            transpose: Its transpose, shape [I, O].
        """
        ctx.save_for_backward(rows)
        ctx.matrix, ctx.transpose = matrix, transpose
        return _product(matrix, rows)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, slope: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        """Compute the derivatives with respect to `values` and `rows`."""
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
    """Return the first place of each of `count` rows, and the end of the last."""
    return torch.from_numpy(np.searchsorted(sorted_rows, np.arange(count + 1)).astype(np.int32))
