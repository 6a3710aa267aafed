"""The course of a simulation, thinned to a bounded number of points."""

from __future__ import annotations

from array import array

import numpy as np

from hpcmarl.types import Array


class Trace:
    """Table that keeps every stride-th round.

    When it is full, every second row is dropped and the stride doubles.

    Args:
        columns: Names of the columns.
        points: Largest number of rows.
    """

    def __init__(self, columns: tuple[str, ...], points: int) -> None:
        self.columns = columns
        self.points = points
        self.stride = 1
        self._rows: list[array[float]] = []

    def due(self, number: int) -> bool:
        """Return whether the round with this number is to be kept."""
        return number % self.stride == 0

    def add(self, number: int, values: tuple[float, ...]) -> None:
        """Keep a round that is due.

        Args:
            number: Number of the round.
            values: One value per column.
        """
        if len(self._rows) >= self.points:
            self._rows = self._rows[::2]
            self.stride *= 2
            if not self.due(number):
                return
        self._rows.append(array("d", values))

    def arrays(self) -> dict[str, Array]:
        """Return each column as a float64 array, [number of points]."""
        table = np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.columns))
        return {name: table[:, index].copy() for index, name in enumerate(self.columns)}
