"""The snapshots of a pool as the book has them, and as they stand in its checkpoints: column by column, so
that thousands are written at once.

Called by league/core/state.py. Knows no file or policy: a snapshot is a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcmarl.types import IntArray


@dataclass
class Snapshot:
    """A frozen policy. member: its index; updates, env_steps: of the member in all, when it was frozen; bad:
    its file does not verify.

    generation: of its member, another one after a reset. met [k, 2]: the snapshots that its term met most,
    and in how many games; what a run that was killed met after its last checkpoint is not known.
    """

    name: str
    member: int
    side: str
    term: int
    updates: int
    env_steps: int
    seconds: float
    bad: bool = False
    generation: int = 1
    met: IntArray = field(default_factory=lambda: np.zeros((0, 2), np.int64))


COLUMNS = {
    "member": np.int64,
    "term": np.int64,
    "updates": np.int64,
    "env_steps": np.int64,
    "seconds": np.float64,
    "bad": np.bool_,
    "generation": np.int64,
}


def columns_of(snapshots: Sequence[Snapshot], sides: Sequence[str]) -> dict[str, Any]:
    """An array [N] for each of COLUMNS; names: all of them, with spaces between; side [N]: their places in
    `sides`; met [K, 3]: (snapshot, who was met, games).
    """
    columns: dict[str, Any] = {
        name: np.array([getattr(each, name) for each in snapshots], kind) for name, kind in COLUMNS.items()
    }
    met = [
        np.column_stack([np.full(len(each.met), number), each.met]) for number, each in enumerate(snapshots)
    ]
    places = np.array([sides.index(each.side) for each in snapshots], np.int64)
    return {
        **columns,
        "names": " ".join(each.name for each in snapshots),
        "side": places,
        "met": np.concatenate([np.zeros((0, 3), np.int64), *met]),
    }


def snapshots_from(columns: Mapping[str, Any], sides: Sequence[str]) -> list[Snapshot]:
    """What `columns_of` told. Raises KeyError, TypeError, ValueError or IndexError where that is not it."""
    met = np.asarray(columns["met"], np.int64).reshape(-1, 3)
    names, places = columns["names"].split(), np.asarray(columns["side"]).tolist()
    rows = zip(*(np.asarray(columns[name], kind).tolist() for name, kind in COLUMNS.items()), strict=True)
    return [
        Snapshot(
            name, side=sides[place], met=met[met[:, 0] == number, 1:], **dict(zip(COLUMNS, row, strict=True))
        )
        for number, (name, place, row) in enumerate(zip(names, places, rows, strict=True))
    ]
