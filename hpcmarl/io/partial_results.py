"""What is done of an experiment in virtual time that is not done: parts/ in its directory, one HDF5 file a
simulation, beside config.yaml.

Made by cli/simulate.py, called by sim/running.py as its `ResultStore`; knows no simulator: figures and
courses are plain trees (tree.py).
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
WORTH = 1.0  # seconds that a simulation took for it to be kept


class PartialResultStore:
    """Keeps simulations that took WORTH seconds or more. `directory`: of the whole experiment."""

    def __init__(self, directory: Path, config: str) -> None:
        """config: the whole configuration as YAML; only the same one may go on."""
        self.directory = directory
        self.config = config
        self.parts = directory / "parts"

    def check(self, resume: bool) -> None:
        """Whether the directory may be used: empty, or the beginnings of the same experiment where that is to
        be resumed. Raises UsageError."""
        if not self.directory.exists() or (self.directory.is_dir() and not any(self.directory.iterdir())):
            return
        written = self.directory / CONFIG_NAME
        if not resume:
            raise UsageError(
                f"--out {self.directory}: exists and is not empty; choose another directory, or --resume "
                "what was ended in it"
            )
        if not self.parts.is_dir() or not written.is_file():
            raise UsageError(
                f"--resume: {self.directory} holds no unfinished simulation; choose another directory, or "
                "leave --resume out"
            )
        if written.read_text() != self.config:
            raise UsageError(
                f"--resume: {written} is another configuration; give the same file and changes, or choose "
                "another --out"
            )

    def get(self, config: str, seed: int) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """Figures and course of the simulation of a configuration (YAML) with a seed, where it was kept.
        Raises FormatError for a damaged file."""
        path = self._path(config, seed)
        if not path.is_file():
            return None
        with open_checked(path, SIMULATION) as file, reading(path):
            found = read_tree(file["outcome"])
            return found["figures"], found["course"]

    def put(self, config: str, seed: int, figures: Mapping[str, Any], course: Mapping[str, Array]) -> None:
        """Keep it, where it took long. Raises StorageError."""
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
        """All is written elsewhere."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def _path(self, config: str, seed: int) -> Path:
        return self.parts / f"{hashlib.sha256(f'{seed} {config}'.encode()).hexdigest()[:32]}.h5"
