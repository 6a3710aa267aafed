"""Memory for the messages of a large replay, from which parts of many messages are copied at once.

Messages lie one after the other in slabs, large blocks of memory. Messages leave in the order of their
arrival, so a slab is freed when the last of its messages leaves. The operating system provides the pages of a
slab when they are first written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Buffer
from hpcmarl.types import Array, IntArray

ALIGNMENT = 16


class Slabs:
    """Copies of buffers in slabs. Slabs are numbered from 0.

    Args:
        size: Bytes of a slab; a larger buffer gets a slab of its own.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._slabs: dict[int, Buffer] = {}
        self._newest, self._end = -1, 0

    def add(self, buffer: Buffer) -> tuple[int, int, Buffer]:
        """Copy a buffer.

        Args:
            buffer: Bytes.

        Returns:
            Number of the slab, offset of the copy in it, and the copy.
        """
        if self._newest < 0 or self._end + buffer.nbytes > self._slabs[self._newest].nbytes:
            self._newest, self._end = self._newest + 1, 0
            self._slabs[self._newest] = np.empty(max(self._size, buffer.nbytes), np.uint8)
        start, end = self._end, self._end + buffer.nbytes
        copy = self._slabs[self._newest][start:end]
        copy[:] = buffer
        self._end = -(-end // ALIGNMENT) * ALIGNMENT
        return self._newest, start, copy

    def forget_before(self, number: int) -> None:
        """Free the slabs with smaller numbers."""
        for old in [slab for slab in self._slabs if slab < number]:
            del self._slabs[old]

    def gather(self, slabs: IntArray, offsets: IntArray, dtype: np.dtype[Any]) -> Array:
        """Copy values from many places.

        Args:
            slabs: Number of the slab of each value, shape [n].
            offsets: Offset of each value in its slab, in bytes, shape [n].
            dtype: Type of a value, possibly with a shape.

        Returns:
            Values, shape [n, *shape of the type].
        """
        # Overlapping values of opaque bytes, one for each offset: numpy copies the chosen ones one by one,
        # whatever their size and alignment.
        opaque = np.dtype((np.void, dtype.itemsize))
        values = np.empty(len(offsets), opaque)
        numbers = [self._newest] if (slabs == self._newest).all() else np.unique(slabs).tolist()
        for number in numbers:
            slab, rows = self._slabs[number], slabs == number if len(numbers) > 1 else slice(None)
            places = slab.nbytes - dtype.itemsize + 1
            values[rows] = np.ndarray((places,), opaque, slab.data, strides=(1,))[offsets[rows]]
        return values.view(dtype.base).reshape(len(offsets), *dtype.shape)
