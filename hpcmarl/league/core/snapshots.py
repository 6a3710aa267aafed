"""Records of a pool's snapshots, and their layout in checkpoints of the league.

Checkpoints store the records column by column, so that thousands are written at once. Files and parameters of
snapshots are in io/pool.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcmarl.types import IntArray


@dataclass
class Snapshot:
    """Record of a frozen policy.

    Attributes:
        name: Name of the snapshot.
        member: Index of its member.
        side: Side that it plays.
        term: Number of the training assignment that it ended; 0: the initial weights.
        updates: Updates of the member when it was frozen, over all generations.
        env_steps: Environment steps of the member when it was frozen, over all generations.
        seconds: Training time of the league when it was frozen, seconds.
        bad: Whether its file does not verify.
        generation: Generation of its member. A reset begins another one.
        met: Snapshots that were met most in its assignment and the number of games against each, shape [k,
            2]. Games after the last checkpoint of a run that was killed are missing.
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
    """Return the records column by column, for a checkpoint.

    Args:
        snapshots: The records, N of them.
        sides: Names of the sides.

    Returns:
        One array [N] for each entry of COLUMNS, and three more entries. names: all names in one text,
        separated by spaces. side: places in `sides`, shape [N]. met: rows (snapshot, snapshot met, games),
        shape [K, 3].
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
    """Return the records from the columns that `columns_of` made.

    Args:
        columns: The columns.
        sides: Names of the sides.

    Raises:
        KeyError: If a column is missing.
        TypeError: If a column has the wrong type.
        ValueError: If a column has the wrong length or content.
        IndexError: If a side does not exist.
    """
    met = np.asarray(columns["met"], np.int64).reshape(-1, 3)
    names, places = columns["names"].split(), np.asarray(columns["side"]).tolist()
    rows = zip(*(np.asarray(columns[name], kind).tolist() for name, kind in COLUMNS.items()), strict=True)
    return [
        Snapshot(
            name, side=sides[place], met=met[met[:, 0] == number, 1:], **dict(zip(COLUMNS, row, strict=True))
        )
        for number, (name, place, row) in enumerate(zip(names, places, rows, strict=True))
    ]
