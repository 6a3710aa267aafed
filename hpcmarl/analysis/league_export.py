"""A league's policies and payoffs as files for other tools: npz with JSON beside it, and csv. Called by
`hpcmarl league export`.

Takes plain arrays and values; knows no league. docs/league.md describes the formats.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl import __version__
from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import write_atomically, write_text
from hpcmarl.types import FloatArray

FORMAT, FORMAT_VERSION = "hpcmarl-policy", 1
COLUMNS = ("row", "column", "games", "mean_score", "mean_return")


def check_outputs(parameters: Path | None, table: Path | None) -> None:
    """Whether these files can be written, asked before any is. Raises UsageError."""
    if parameters is not None and parameters.suffix != ".npz":
        raise UsageError(f"--out {parameters}: parameters are written as npz; let the name end in .npz")
    paths = [
        path
        for path in (parameters, parameters and parameters.with_suffix(".json"), table)
        if path is not None
    ]
    for path in paths:
        if path.exists():
            raise UsageError(f"{path}: exists; choose another name or delete it first")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no directory {path.parent}; make it first")
        if paths.count(path) > 1:
            raise UsageError(f"{path}: named for two files; choose another name for one")


def write_parameters(
    path: Path, parameters: Mapping[str, FloatArray], description: Mapping[str, Any]
) -> dict[str, Any]:
    """FILE.npz: one float32 array a parameter, by name; FILE.json: the description and all names with shapes,
    in the order of the vector.

    Returns {path, description, parameters (how many numbers), bytes}. Raises StorageError."""

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **dict(parameters))

    shapes = {name: list(value.shape) for name, value in parameters.items()}
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hpcmarl_version": __version__,
        **description,
        "parameters": shapes,
    }
    beside = path.with_suffix(".json")
    write_atomically(path, write)
    write_text(beside, json.dumps(whole, indent=2) + "\n")
    count = sum(value.size for value in parameters.values())
    return {"path": str(path), "description": str(beside), "parameters": count, "bytes": path.stat().st_size}


def write_payoff(
    path: Path,
    names: Sequence[str],
    games: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float | None]],
    returns: Sequence[Sequence[float | None]],
) -> dict[str, Any]:
    """One line for each ordered pair of snapshots that has played: both names, games, the row's mean score
    and mean return.

    Returns {path, pairs, bytes}. Raises StorageError."""
    lines = [
        (names[row], names[column], count, scores[row][column], returns[row][column])
        for row, counts in enumerate(games)
        for column, count in enumerate(counts)
        if count
    ]

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(lines)

    write_atomically(path, write)
    return {"path": str(path), "pairs": len(lines), "bytes": path.stat().st_size}
