"""The file simulation.h5: results of `hpcmarl simulate`, case by case.

    /cases/<index>              attributes setting, method, batch (M, if it distinguishes cases; else null),
                                tuned, trials, config (YAML)
    /cases/<index>/outcomes/<index of the seed>
                                attributes seed and all figures
    /cases/<index>/outcomes/<index of the seed>/course
                                one dataset for each column, [points] float64

In memory, cases are plain trees (hdf5/tree.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.hdf5.schema import (
    SIMULATION,
    new_file,
    open_checked,
    read_attributes,
    reading,
    root_attributes,
    write_attributes,
)
from hpcmarl.io.hdf5.tree import read_tree, write_tree

FILE_NAME = "simulation.h5"
_OF_A_CASE = {"setting": str, "method": str, "tuned": dict, "config": str, "outcomes": list}


def write_simulation(path: Path, config: str, seeds: list[int], cases: list[dict[str, Any]]) -> None:
    """Write simulation.h5 atomically.

    Args:
        path: The file.
        config: The whole configuration as YAML.
        seeds: All seeds.
        cases: The cases, as trees.

    Raises:
        StorageError: If the disk fails.
    """

    def write(partial: Path) -> None:
        with new_file(partial) as file:
            write_attributes(
                file, root_attributes(SIMULATION, {"role": "simulator", "config": config, "seeds": seeds})
            )
            write_tree(file.create_group("cases"), {str(index): case for index, case in enumerate(cases)})

    write_atomically(path, write, read_simulation)


def read_simulation(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the cases and the root attributes of a simulation.h5.

    Raises:
        FormatError: If the file is damaged or foreign.
    """
    with open_checked(path, SIMULATION) as file, reading(path):
        attributes = read_attributes(file)
        tree = read_tree(file["cases"])
        cases = [tree[str(index)] for index in range(len(tree))]
    for index, case in enumerate(cases):
        wrong = [
            name
            for name, kind in _OF_A_CASE.items()
            if not isinstance(case, dict) or not isinstance(case.get(name), kind)
        ]
        if wrong or not all(_is_outcome(outcome) for outcome in case["outcomes"]):
            raise FormatError(
                f"{path}: case {index} has invalid fields ({', '.join(wrong) or 'outcomes'}); the file is "
                "damaged or foreign"
            )
    return cases, attributes


def _is_outcome(outcome: Any) -> bool:
    """Return whether this is an outcome: its course has 1-D columns of the same length."""
    course = outcome.get("course") if isinstance(outcome, dict) else None
    columns = list(course.values()) if isinstance(course, dict) else []
    return bool(columns) and all(
        isinstance(column, np.ndarray) and column.shape == columns[0].shape and column.ndim == 1
        for column in columns
    )
