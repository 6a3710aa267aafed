"""Export of a league's policies (npz with a JSON description) and payoffs (csv).

docs/export.md and docs/league.md describe the formats.
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
    """Check that the files can be written, before any work starts.

    Args:
        parameters: File for the parameters, with the suffix .npz; the description gets the same name with
            .json.
        table: File for the payoffs.

    Raises:
        UsageError: If a file exists, has the wrong suffix, has no directory, or is named twice.
    """
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
            raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
        if paths.count(path) > 1:
            raise UsageError(f"{path}: given for two files; choose another name for one of them")


def write_parameters(
    path: Path, parameters: Mapping[str, FloatArray], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the parameters of a policy to an npz file and their description to a JSON file beside it.

    The npz file holds one float32 array per parameter, by name. The JSON file holds the description and the
    shapes of all parameters in the order of the flat vector.

    Args:
        path: The npz file.
        parameters: Name -> values.
        description: Further entries of the JSON file.

    Returns:
        path, description (path of the JSON file), parameters (number of values), bytes (size of the npz
        file).

    Raises:
        StorageError: If a file cannot be written.
    """

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
    write_text(beside, json.dumps(whole, indent=2) + "\n")
    try:
        write_atomically(path, write)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    count = sum(value.size for value in parameters.values())
    return {"path": str(path), "description": str(beside), "parameters": count, "bytes": path.stat().st_size}


def write_payoff(
    path: Path,
    names: Sequence[str],
    games: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float | None]],
    returns: Sequence[Sequence[float | None]],
) -> dict[str, Any]:
    """Write a csv file with one line for each ordered pair of snapshots that has played.

    Args:
        path: The csv file.
        names: Names of the snapshots, [N].
        games: Games of the row's snapshot against the column's, [N, N].
        scores: Mean score of the row, [N, N]; None where no game was played.
        returns: Mean return of the row, [N, N]; None where no game was played.

    Returns:
        path, pairs (number of lines without the heading), bytes (size of the file).

    Raises:
        StorageError: If the file cannot be written.
    """
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
