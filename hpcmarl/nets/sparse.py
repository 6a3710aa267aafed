"""Weight matrices for acting, in dense form or by their non-zeros (CSR).

The faster form depends on the machine, the number of rows and the number of non-zeros. SparseWeight therefore
times both forms on the actual inputs. Products by non-zeros use torch.

Measured on one core of an EPYC with AVX2 (docs/benchmarks.md), with 24 rows, 95 % zeros, and without the copy
of DenseWeight:

    matrix         dense      CSR
    1024 x 1024    1.0 ms     0.28 ms
    64 x 64        5 us       11 us
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

# Largest share of the dense product's time that CSR may take. A tie does not repay the conversions.
MARGIN = 0.9
MOST_NON_ZEROS = 0.5  # largest density at which CSR is tried
# Relative change of the number of non-zeros after which both forms are timed again.
CHANGE = 0.1
REPEATS = 5
# Largest matrix that DenseWeight copies, in weights. A larger copy after each update costs more time than
# several products save.
MOST_COPIED = 512 * 1024


class DenseWeight:
    """A weight [O, I] in dense form, with `product(inputs [rows, I]) -> [rows, O]`.

    The product uses a transposed copy of the weight. For the few rows of acting, it takes half to nine tenths
    of the time of a product with the weight itself. Call `refresh` after each change of the weight.

    Args:
        transposed: View [I, O] of the weight's own memory, which stays valid.
    """

    def __init__(self, transposed: FloatArray) -> None:
        self.transposed = transposed
        self._copy: FloatArray | None = None

    def refresh(self) -> None:
        """Take note that the weight has changed; no cost until the next product."""
        self._copy = None

    def product(self, inputs: FloatArray) -> FloatArray:
        """Return the product of inputs [rows, I] with the weight, shape [rows, O]."""
        if self._copy is None:
            self._copy = (
                np.ascontiguousarray(self.transposed)
                if self.transposed.size <= MOST_COPIED
                else self.transposed
            )
        product: FloatArray = inputs.dot(self._copy)
        return product


class SparseWeight:
    """A weight [O, I] with many zeros; same interface as DenseWeight.

    Args:
        transposed: View [I, O] of the weight's own contiguous memory, which stays valid.
        measured: Whether to time both forms and use the faster one. False: always use CSR.
    """

    def __init__(self, transposed: FloatArray, *, measured: bool) -> None:
        self._dense = DenseWeight(transposed)
        self._values: FloatArray = transposed.T.reshape(-1)
        assert np.shares_memory(self._values, transposed)
        self._measured = measured
        self._stale = True
        self._rows = self._timed_with = -1  # rows and non-zeros of the last timing
        self._places: IntArray = np.zeros(0, np.int64)  # of the CSR weights in _values
        self._matrix: torch.Tensor | None = None  # CSR; None: dense

    @property
    def form(self) -> str:
        """Form that the last product used, "dense" or "csr"."""
        return "dense" if self._matrix is None else "csr"

    @property
    def bytes(self) -> int:
        """Memory of the form in use, in bytes. CSR needs it in addition to the weight itself."""
        if self._matrix is None:
            return self._values.nbytes
        return sum(
            part.numel() * part.element_size()
            for part in (self._matrix.values(), self._matrix.col_indices(), self._matrix.crow_indices())
        )

    def refresh(self) -> None:
        """Take note that values or non-zeros have changed; no cost until the next product."""
        self._stale = True
        self._dense.refresh()

    def product(self, inputs: FloatArray) -> FloatArray:
        """Return the product of inputs [rows, I] with the weight, shape [rows, O]."""
        if self._stale or inputs.shape[0] != self._rows:
            self._prepare(inputs)
        return self._dense.product(inputs) if self._matrix is None else self._sparse_product(inputs)

    def _sparse_product(self, inputs: FloatArray) -> FloatArray:
        import torch

        assert self._matrix is not None
        product: FloatArray = torch.mm(self._matrix, torch.from_numpy(inputs.T)).numpy().T
        return product

    def _prepare(self, inputs: FloatArray) -> None:
        """Update the matrix to the weight, and time both forms again if the result may differ."""
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
        """Copy the new values into the CSR matrix.

        If other weights have become non-zero, for example a grown weight after its first update, convert the
        matrix from scratch.
        """
        assert self._matrix is not None
        kept = self._matrix.values().numpy()
        np.take(self._values, self._places, out=kept, mode="clip")  # this mode needs no buffer
        if _non_zeros(kept) != count:
            self._convert()

    def _convert(self) -> None:
        # Ranks that act with dense weights do not need torch.
        import torch

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
            # torch warns that CSR tensors are a beta feature
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
    # numpy counts booleans six times as fast as floats
    return int(np.count_nonzero(values != 0))


def _best_seconds(calls: list[Callable[[], object]]) -> list[float]:
    """Return the shortest time of each call in seconds.

    The calls are timed in turn, in several rounds. The first round only warms up.
    """
    best = [np.inf] * len(calls)
    for turn in range(REPEATS + 1):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            if turn:
                best[index] = min(best[index], time.perf_counter() - began)
    return best
