"""The course of a simulation at a bounded number of points, whatever its length. Called by the cluster; knows
plain numbers only."""

from __future__ import annotations

from array import array

import numpy as np

from hpcmarl.types import Array


class Trace:
    """Keeps every stride-th round; when `points` are full, every second one is forgotten and the stride
    doubles."""

    def __init__(self, columns: tuple[str, ...], points: int) -> None:
        self.columns = columns
        self.points = points
        self.stride = 1
        self._rows: list[array[float]] = []

    def due(self, number: int) -> bool:
        """Whether the round of this number is to be kept."""
        return number % self.stride == 0

    def add(self, number: int, values: tuple[float, ...]) -> None:
        """Keep a round that is due."""
        if len(self._rows) >= self.points:
            self._rows = self._rows[::2]
            self.stride *= 2
            if not self.due(number):
                return
        self._rows.append(array("d", values))

    def arrays(self) -> dict[str, Array]:
        """Column -> values [number of points] float64."""
        table = np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.columns))
        return {name: table[:, index].copy() for index, name in enumerate(self.columns)}
