"""Weights that inputs are multiplied by when acting: dense, or the quicker of dense and the non-zeros by rows
(CSR), which torch multiplies.

Which form is quicker depends on the machine, the rows and the non-zeros, so both are timed on the very
inputs. Measured on one core of an EPYC with AVX2, 24 rows, 95 % zeros, without DenseWeight's copy: 1024 x
1024 takes 1.0 ms dense and 0.28 ms by its non-zeros, 64 x 64 takes 5 and 11 microseconds
(docs/benchmarks.md).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hpcmarl.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

MARGIN = 0.9  # the new form must take at most this share of the time: a tie is not worth the conversions
MOST_NON_ZEROS = 0.5  # no share above this is tried
CHANGE = 0.1  # of the non-zeros, after which the forms are timed again
REPEATS = 5
MOST_COPIED = 512 * 1024  # weights; copying more of them after each update costs what several products win


class DenseWeight:
    """`product(inputs [rows, I]) -> [rows, O]` for a weight [O, I] that others change; tell it by `refresh`.

    It multiplies by a transposed copy. For the few rows of acting that takes half to nine tenths of the time
    that the weight itself takes."""

    def __init__(self, transposed: FloatArray) -> None:
        """transposed: [I, O], a view of the weight's own memory, which stays valid."""
        self.transposed = transposed
        self._copy: FloatArray | None = None

    def refresh(self) -> None:
        """The weight has changed. Costs nothing until the next product."""
        self._copy = None

    def product(self, inputs: FloatArray) -> FloatArray:
        if self._copy is None:
            self._copy = (
                np.ascontiguousarray(self.transposed)
                if self.transposed.size <= MOST_COPIED
                else self.transposed
            )
        product: FloatArray = inputs.dot(self._copy)
        return product


class SparseWeight:
    """As DenseWeight, for a weight with many zeros.

    measured: time both forms and take the quicker one; else always CSR."""

    def __init__(self, transposed: FloatArray, *, measured: bool) -> None:
        """transposed: [I, O], a view of the weight's own contiguous memory, which stays valid."""
        self._dense = DenseWeight(transposed)
        self._values: FloatArray = transposed.T.reshape(-1)
        assert np.shares_memory(self._values, transposed)
        self._measured = measured
        self._stale = True
        self._rows = self._timed_with = -1  # rows and non-zeros when the forms were timed
        self._places: IntArray = np.zeros(0, np.int64)  # of the kept weights in _values
        self._matrix: torch.Tensor | None = None  # CSR; None: dense

    @property
    def form(self) -> str:
        """dense or csr: what the last product took."""
        return "dense" if self._matrix is None else "csr"

    @property
    def bytes(self) -> int:
        """Memory of the form in use; CSR's is in addition to the weight itself, which others need."""
        if self._matrix is None:
            return self._values.nbytes
        return sum(
            part.numel() * part.element_size()
            for part in (self._matrix.values(), self._matrix.col_indices(), self._matrix.crow_indices())
        )

    def refresh(self) -> None:
        """The weight has changed: its values, perhaps which of them are there. Costs nothing until the next
        product."""
        self._stale = True
        self._dense.refresh()

    def product(self, inputs: FloatArray) -> FloatArray:
        if self._stale or inputs.shape[0] != self._rows:
            self._prepare(inputs)
        return self._dense.product(inputs) if self._matrix is None else self._sparse_product(inputs)

    def _sparse_product(self, inputs: FloatArray) -> FloatArray:
        import torch

        assert self._matrix is not None
        product: FloatArray = torch.mm(self._matrix, torch.from_numpy(inputs.T)).numpy().T
        return product

    def _prepare(self, inputs: FloatArray) -> None:
        """Follow the weight, and time the forms again where that may have another outcome."""
        count = _non_zeros(self._values)
        if self._matrix is not None and self._stale:
            self._follow(count)
        self._stale = False
        rows = inputs.shape[0]
        if not self._measured:
            if self._matrix is None:
                self._convert()
        elif rows != self._rows or abs(count - self._timed_with) > CHANGE * self._timed_with:
            self._timed_with = count
            self._choose(inputs, count)
        self._rows = rows

    def _follow(self, count: int) -> None:
        """Gather the kept weights' new values; start anew where there are non-zeros elsewhere, such as a
        grown weight after its first update."""
        assert self._matrix is not None
        kept = self._matrix.values().numpy()
        np.take(self._values, self._places, out=kept, mode="clip")  # the mode that writes without a buffer
        if _non_zeros(kept) != count:
            self._convert()

    def _convert(self) -> None:
        import torch  # the products by non-zeros are torch's: ranks that act with dense weights do without it

        inputs, outputs = self._dense.transposed.shape
        self._places = np.flatnonzero(self._values != 0)
        starts = np.searchsorted(self._places, np.arange(outputs + 1) * inputs).astype(np.int32)
        columns = (self._places % inputs).astype(np.int32)
        parts = (
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            torch.from_numpy(self._values[self._places]),
        )
        with warnings.catch_warnings():
            # torch: its CSR tensors are a beta feature
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            self._matrix = torch.sparse_csr_tensor(*parts, size=(outputs, inputs), check_invariants=False)

    def _choose(self, inputs: FloatArray, count: int) -> None:
        if count > MOST_NON_ZEROS * self._values.size:
            self._matrix = None
            return
        if self._matrix is None:
            self._convert()
        dense, sparse = _best_seconds(
            [lambda: self._dense.product(inputs), lambda: self._sparse_product(inputs)]
        )
        if sparse > MARGIN * dense:
            self._matrix = None


def _non_zeros(values: FloatArray) -> int:
    return int(np.count_nonzero(values != 0))  # counting the floats themselves takes numpy six times as long


def _best_seconds(calls: list[Callable[[], object]]) -> list[float]:
    """The shortest of a few runs of each, taken in turn; the first round does not count."""
    best = [np.inf] * len(calls)
    for turn in range(REPEATS + 1):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            if turn:
                best[index] = min(best[index], time.perf_counter() - began)
    return best
