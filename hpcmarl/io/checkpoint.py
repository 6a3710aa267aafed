"""Checkpoints: one HDF5 file a version, atomic, with a checksum; the newest that verifies is found again.

The server writes them (CheckpointWriter, in the background), `--resume`, `eval` and `data verify` read them. Knows nothing
of what the state holds: a tree (see hpcmarl.packing). A state of S bytes needs S more while it is written.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcmarl.errors import HpcmarlError, StorageError
from hpcmarl.io.atomic import PARTIAL, storage_error
from hpcmarl.io.schema import CHECKPOINT
from hpcmarl.io.state_file import read_state, write_state
from hpcmarl.io.sturdy import close_at_exit
from hpcmarl.packing import Tree

LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-(\d+)\.h5")


def checkpoint_path(directory: str | os.PathLike[str], version: int) -> Path:
    """checkpoint-0000001234.h5 for version 1234."""
    return Path(directory) / f"checkpoint-{version:010d}.h5"


def save_checkpoint(directory: str | os.PathLike[str], state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any]) -> Path:
    """Writes the state whole or not at all, reads it back and compares checksums. Returns the file.

    `attributes` (config, env, seeds, …; plain values) become root attributes. Raises StorageError where the disk fails or
    gives back something else, TypeError for a state that is no tree.
    """
    path = checkpoint_path(directory, version)
    write_state(path, CHECKPOINT, state, {**attributes, "version": version})
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The state and the root attributes. Raises FormatError for a file that is damaged, foreign or newer."""
    return read_state(path, CHECKPOINT, "resume from an older checkpoint")


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Reads the whole file and compares its checksum. Raises FormatError."""
    load_checkpoint(path)


def list_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a run directory, or of its checkpoints/ directory, newest version first."""
    directory = Path(directory)
    nested = directory / "checkpoints"
    try:
        files = list((nested if nested.is_dir() else directory).iterdir())
    except OSError:
        return []
    found = [(int(match[1]), file) for file in files if (match := _NAME.fullmatch(file.name))]
    return [file for _, file in sorted(found, reverse=True)]


def find_checkpoint(path: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a run directory that verifies; bad ones are named in the log. None where there is none.

    A file is verified and given back. Raises FormatError for a file that does not verify.
    """
    if Path(path).is_file():
        verify_checkpoint(path)
        return Path(path)
    for candidate in list_checkpoints(path):
        try:
            verify_checkpoint(candidate)
        except HpcmarlError as error:
            LOGGER.warning("skipping a bad checkpoint: %s", error)
        else:
            return candidate
    return None


def prune(directory: str | os.PathLike[str], keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints (at least one stays). Raises StorageError."""
    for file in list_checkpoints(directory)[max(keep, 1) :]:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(file, "delete", error) from error


class CheckpointWriter:
    """Writes checkpoints from a background thread, one at a time; of those that wait, the newest wins.

    Errors never stop training by themselves: `poll` hands them over and the caller decides. last_error: of the newest
    checkpoint that was tried, None when it was written. What a killed writer left under temporary names is removed first.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int) -> None:
        self.directory, self.keep = Path(directory), keep
        self.last_path: Path | None = None
        self.last_version: int | None = None
        self.last_error: StorageError | None = None
        self._errors: list[StorageError] = []
        self._pending: tuple[dict[str, Tree], int, dict[str, Any]] | None = None
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        with contextlib.suppress(OSError):
            for stale in self.directory.glob("checkpoint-*.h5" + PARTIAL):
                stale.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()
        close_at_exit(self)

    def submit(self, state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any], copied: bool = False) -> None:
        """Copies the state (unless it is `copied`: nobody will change it) and returns at once; it replaces one that still waits."""
        work = (state if copied else copy.deepcopy(state), version, dict(attributes))
        with self._changed:
            if self._closed:
                raise StorageError(f"{self.directory}: the checkpoint writer is closed")
            self._pending = work
            self._changed.notify_all()

    def poll(self) -> StorageError | None:
        """The oldest error not yet handed over, or None."""
        with self._changed:
            return self._errors.pop(0) if self._errors else None

    def wait(self) -> None:
        """Returns when all that was submitted is written or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending is None and not self._busy)

    def close(self) -> None:
        """Writes what waits and ends the thread; ask `poll` afterwards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closed)
                if self._pending is None:
                    return
                (state, version, attributes), self._pending, self._busy = self._pending, None, True
            error: StorageError | None = None
            try:
                path = save_checkpoint(self.directory, state, version=version, attributes=attributes)
                self.last_path, self.last_version = path, version
                prune(self.directory, self.keep)
            except StorageError as problem:
                error = problem
            except Exception as problem:  # a thread must not die silently: whatever it is, poll() tells
                error = StorageError(f"{self.directory}: checkpoint of version {version} failed: {problem!r}")
                error.__cause__ = problem
            with self._changed:
                self._busy, self.last_error = False, error
                if error is not None:
                    self._errors = [*self._errors[-9:], error]
                self._changed.notify_all()
