"""Finished simulations of an unfinished experiment in virtual time.

They are HDF5 files in `parts/` of the experiment's directory, one for each simulation, beside config.yaml. A
simulation has figures (name -> value) and a course (column -> values over time); both are plain trees
(hdf5/tree.py).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import storage_error, write_atomically, write_text
from hpcmarl.io.hdf5.schema import (
    SIMULATION,
    new_file,
    open_checked,
    reading,
    root_attributes,
    write_attributes,
)
from hpcmarl.io.hdf5.tree import read_tree, write_tree
from hpcmarl.types import Array

CONFIG_NAME = "config.yaml"
WORTH = 1.0  # seconds; shorter simulations are not stored


class PartialResultStore:
    """Stores simulations that took WORTH seconds or more.

    Args:
        directory: Directory of the whole experiment.
        config: The whole configuration as YAML. An experiment can only be resumed with the same one.
    """

    def __init__(self, directory: Path, config: str) -> None:
        """Prepare the store; nothing is read or written yet."""
        self.directory = directory
        self.config = config
        self.parts = directory / "parts"

    def check(self, resume: bool) -> None:
        """Check that the directory can be used.

        It can be used if it is empty, or if `resume` is set and it holds the beginning of the same
        experiment.

        Raises:
            UsageError: If the directory cannot be used.
        """
        if not self.directory.exists() or (self.directory.is_dir() and not any(self.directory.iterdir())):
            return
        written = self.directory / CONFIG_NAME
        if not resume:
            raise UsageError(
                f"--out {self.directory}: exists and is not empty; choose another directory, or continue "
                "the experiment in it with --resume"
            )
        if not self.parts.is_dir() or not written.is_file():
            raise UsageError(
                f"--resume: {self.directory} holds no unfinished simulation; choose another directory, or "
                "omit --resume"
            )
        if written.read_text() != self.config:
            raise UsageError(
                f"--resume: {written} differs from the given configuration; give the same file and "
                "overrides, or choose another --out"
            )

    def get(self, config: str, seed: int) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """Return a stored simulation.

        Args:
            config: Configuration of the simulation as YAML.
            seed: Its seed.

        Returns:
            Its figures and its course; None if it is not stored.

        Raises:
            FormatError: If the file is damaged.
        """
        path = self._path(config, seed)
        if not path.is_file():
            return None
        with open_checked(path, SIMULATION) as file, reading(path):
            outcome = read_tree(file["outcome"])
            return outcome["figures"], outcome["course"]

    def put(self, config: str, seed: int, figures: Mapping[str, Any], course: Mapping[str, Array]) -> None:
        """Store a simulation if it took WORTH seconds or more.

        Args:
            config: Configuration of the simulation as YAML.
            seed: Its seed.
            figures: Its results by name; `seconds` is the time that it took.
            course: Column -> values over time.

        Raises:
            StorageError: If the disk fails.
        """
        if figures["seconds"] < WORTH:
            return
        if not self.parts.is_dir():
            try:
                self.parts.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(self.parts, "make", error) from error
            write_text(self.directory / CONFIG_NAME, self.config)

        def write(partial: Path) -> None:
            with new_file(partial) as file:
                write_attributes(
                    file,
                    root_attributes(SIMULATION, {"role": "simulator", "config": config, "seeds": [seed]}),
                )
                write_tree(file.create_group("outcome"), {"figures": dict(figures), "course": dict(course)})

        write_atomically(self._path(config, seed), write)

    def clear(self) -> None:
        """Delete all stored simulations, after their results have been written elsewhere."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def _path(self, config: str, seed: int) -> Path:
        return self.parts / f"{hashlib.sha256(f'{seed} {config}'.encode()).hexdigest()[:32]}.h5"
