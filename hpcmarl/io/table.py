"""A table of metrics in memory: one row for each version, in increasing order, with a bounded number of rows.

The newest half is always complete. When the table is full, older rows are thinned evenly over the versions
that they cover, to a quarter of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROWS = 20_000  # most rows of a table
TABLE_BYTES = 64 << 20  # wide tables have fewer rows, to stay below this size …
FEWEST_ROWS = 64  # … but at least these
FIRST_ROWS, FIRST_BYTES = 256, 1 << 20  # initial room: the smaller of the two


def row_limit(row_bytes: int) -> int:
    """Return the number of rows at which a table with rows of `row_bytes` bytes is thinned."""
    return max(FEWEST_ROWS, min(ROWS, TABLE_BYTES // max(1, row_bytes)))


class Table:
    """Rows of named figures by version.

    Args:
        width: Numbers of a figure in a row: 1, or one for each group.

    Attributes:
        names: Figures, in the order in which they were added.
        changed_from: First row that differs since `saved`; -1 if the names differ, too.
    """

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self.names: list[str] = []
        self.changed_from = 0
        self._rows = 0
        self._versions: NDArray[np.float64] = np.zeros(0)
        self._values: NDArray[np.float64] = np.zeros((0, 0, width))

    def __len__(self) -> int:
        return self._rows

    @property
    def versions(self) -> NDArray[np.float64]:
        """Version of each row, shape [row], strictly increasing."""
        return self._versions[: self._rows]

    @property
    def values(self) -> NDArray[np.float64]:
        """All figures, shape [row, name, width]; NaN if a row has no value."""
        return self._values[: self._rows]

    def append(self, version: float, figures: Mapping[str, ArrayLike]) -> None:
        """Add a row.

        It replaces an earlier row of its version, whose other figures stay. Rows of later versions are
        dropped.

        Args:
            version: Version of the row.
            figures: Name -> value, of the width of the table.
        """
        known = set(self.names)
        self.add_names([name for name in figures if name not in known])
        values = np.full((len(self.names), self.width), np.nan)
        for index, name in enumerate(self.names):
            if name in figures:
                values[index] = figures[name]
        self.push(version, values)

    def add_names(self, names: Sequence[str]) -> None:
        """Add figures; earlier rows have no value for them."""
        if names:
            self.names += names
            missing = np.full((len(self._values), len(names), self.width), np.nan)
            self._values = np.concatenate([self._values, missing], axis=1)
            self.changed_from = -1

    def push(self, version: float, values: NDArray[np.float64]) -> None:
        """Add a row as `append` does.

        Args:
            version: Version of the row.
            values: Shape [name, width].
        """
        if self._rows and version <= self._versions[self._rows - 1]:
            self.cut(version)
            if self._rows and version == self._versions[self._rows - 1]:
                values = np.where(np.isnan(values), self._values[self._rows - 1], values)
                self._shorten(self._rows - 1)
        if self._rows == len(self._versions):
            self._make_room(values.nbytes)
        self._versions[self._rows], self._values[self._rows] = version, values
        self._rows += 1
        if self._rows >= row_limit(8 * values.size):
            self._thin()

    def cut(self, version: float) -> None:
        """Drop the rows of versions after `version`."""
        self._shorten(int(np.searchsorted(self.versions, version, side="right")))

    def saved(self) -> None:
        """Record that a file now holds the same content as the table."""
        self.changed_from = self._rows

    def _make_room(self, row_bytes: int) -> None:
        room = max(2 * self._rows, 4, min(FIRST_ROWS, FIRST_BYTES // max(1, row_bytes)))
        versions, values = np.zeros(room), np.zeros((room, *self._values.shape[1:]))
        versions[: self._rows], values[: self._rows] = self.versions, self.values
        self._versions, self._values = versions, values

    def _shorten(self, rows: int) -> None:
        self._rows = rows
        self.changed_from = min(self.changed_from, rows)

    def _thin(self) -> None:
        """Thin the older half: keep the last row of each of equal spans of versions, and the very first row.

        The length of a span is a power of two, and a span begins at a multiple of it. So every row that a
        wide span keeps was also kept by narrower ones.
        """
        older = self.versions[: self._rows // 2]
        spans = max(1, self._rows // 4)
        span = 1.0
        while older[-1] - older[0] >= span * spans:
            span *= 2
        place = np.floor(older / span)
        stay = np.append(place[1:] != place[:-1], True)
        stay[0] = True
        kept = np.concatenate([np.flatnonzero(stay), np.arange(len(older), self._rows)])
        self._versions[: len(kept)], self._values[: len(kept)] = self._versions[kept], self._values[kept]
        self._rows = len(kept)
        self.changed_from = min(self.changed_from, 0)
