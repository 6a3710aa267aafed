"""Checkpoints: one HDF5 file for each version, written atomically and protected by a checksum.

The state is a tree (see hpcmarl.packing). A training state contains its version and its number of optimizer
steps; loading checks that both agree with the version of the file. Writing a state of S bytes takes S more
bytes of memory, because it is read back. The copy that `CheckpointWriter` makes takes another S.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpcmarl.errors import FormatError, HpcmarlError, StorageError
from hpcmarl.io.atomic import PARTIAL, storage_error
from hpcmarl.io.hdf5.fault_tolerant_file import close_at_exit
from hpcmarl.io.hdf5.schema import CHECKPOINT
from hpcmarl.io.hdf5.state_file import read_state, write_state
from hpcmarl.io.stacking import MARK, stack, unstack
from hpcmarl.packing import Tree

LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-(\d+)\.h5")
SUPERSEDED = "superseded"


def checkpoint_path(directory: str | os.PathLike[str], version: int) -> Path:
    """Return the path of a checkpoint: checkpoint-0000001234.h5 for version 1234."""
    return Path(directory) / f"checkpoint-{version:010d}.h5"


def save_checkpoint(
    directory: str | os.PathLike[str], state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any]
) -> Path:
    """Write a state atomically, read it back and compare checksums.

    Args:
        directory: Directory of the checkpoints.
        state: A tree.
        version: Version of the parameters.
        attributes: Root attributes (config, env, seeds, …) as plain values.

    Returns:
        The file.

    Raises:
        StorageError: If the disk fails or returns other data than were written.
        TypeError: If the state is not a tree.
    """
    path = checkpoint_path(directory, version)
    write_state(path, CHECKPOINT, _with_stacked_actors(state), {**attributes, "version": version})
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Return the state and the root attributes of a checkpoint.

    Raises:
        FormatError: If the file is damaged, foreign or of a newer format, or contradicts itself.
    """
    state, attributes = read_state(path, CHECKPOINT, "resume from an older checkpoint")
    _unstack_actors(path, state)
    _check_versions(path, state, attributes)
    return state, attributes


def _with_stacked_actors(state: dict[str, Tree]) -> dict[str, Tree]:
    """Stack the states of all actors (stacking.py), since there may be thousands."""
    roles = state.get("roles")
    if not isinstance(roles, dict) or not isinstance(roles.get("actor"), dict) or MARK in roles["actor"]:
        return state
    return {**state, "roles": {**roles, "actor": stack(roles["actor"])}}


def _unstack_actors(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    roles = state.get("roles")
    if not isinstance(roles, dict) or not isinstance(roles.get("actor"), dict) or MARK not in roles["actor"]:
        return
    try:
        roles["actor"] = unstack(roles["actor"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FormatError(
            f"{os.fspath(path)}: the states of its actors are damaged ({words}); resume from an older "
            "checkpoint"
        ) from error


def _copied(state: dict[str, Tree]) -> dict[str, Tree]:
    """Copy a state, with stacked actors.

    Copying thousands of small dictionaries one by one would take too much of the caller's time.
    """
    stacked = _with_stacked_actors(state)
    if stacked is state:
        return copy.deepcopy(state)
    actors = stacked["roles"]["actor"]
    rest = copy.deepcopy(
        {**stacked, "roles": {name: own for name, own in stacked["roles"].items() if name != "actor"}}
    )
    return {**rest, "roles": {**rest["roles"], "actor": actors}}


def _check_versions(
    path: str | os.PathLike[str], state: Mapping[str, Any], attributes: Mapping[str, Any]
) -> None:
    """Check that rounds, optimizer steps and attributes give the same version.

    Raises:
        FormatError: If they do not.
    """
    try:
        steps, version = int(state["engine"]["optimizer"]["updates"]), int(state["engine"]["rule"]["round"])
    except (KeyError, TypeError, ValueError):
        return  # not the state of a training run, but of a replay or a league
    declared = attributes.get("version", version)
    if not steps == version == declared:
        raise FormatError(
            f"{os.fspath(path)}: declares version {declared}, but its rounds are at {version} and its "
            f"optimizer has made {steps} steps; resume from an older checkpoint"
        )


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Read a checkpoint completely and compare its checksum.

    Raises:
        FormatError: If it is not a good checkpoint.
    """
    load_checkpoint(path)


def list_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """List the checkpoints of a run directory or of its checkpoints/ directory, newest version first."""
    directory = Path(directory)
    nested = directory / "checkpoints"
    try:
        files = list((nested if nested.is_dir() else directory).iterdir())
    except OSError:
        return []
    return sorted((file for file in files if _NAME.fullmatch(file.name)), key=_version_of, reverse=True)


def _version_of(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return int(match[1])


def find_checkpoint(path: str | os.PathLike[str]) -> Path | None:
    """Return the newest checkpoint that verifies.

    Checkpoints that do not verify are skipped with a warning.

    Args:
        path: A run directory, a directory of checkpoints, or a checkpoint file.

    Returns:
        The checkpoint; None if no checkpoint of the directory verifies.

    Raises:
        FormatError: If `path` is a file that does not verify.
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


def load_newest(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Tree], dict[str, Any]] | None:
    """Load the newest checkpoint that verifies, reading it only once.

    Checkpoints that do not verify are skipped with a warning.

    Args:
        path: A run directory or a directory of checkpoints.

    Returns:
        The file, its state and its root attributes; None if no checkpoint verifies.
    """
    for candidate in list_checkpoints(path):
        try:
            return candidate, *load_checkpoint(candidate)
        except HpcmarlError as error:
            LOGGER.warning("skipping a bad checkpoint: %s", error)
    return None


def set_aside(
    directory: str | os.PathLike[str], first: int | None, label: str, spare: Path | None = None
) -> list[Path]:
    """Move checkpoints from which the run does not continue to `directory`/superseded/`label`.

    Args:
        directory: Directory of the checkpoints.
        first: Checkpoints of this version and newer ones are moved; None: all of them.
        label: Name of the start that moves them.
        spare: Checkpoint from which the run continues; it stays.

    Returns:
        The moved files, at their new places.

    Raises:
        StorageError: If a file cannot be moved.
    """
    moved = []
    for file in list_checkpoints(directory):
        if file == spare or (first is not None and _version_of(file) < first):
            continue
        target = Path(directory) / SUPERSEDED / label / file.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        except OSError as error:
            raise storage_error(file, "move aside", error) from error
        moved.append(target)
    return moved


class Keeper:
    """Deletes old checkpoints of a directory, so that the newest `keep` that verify stay.

    A file that does not verify does not count. It is deleted only if it is older than the ones that stay.

    Args:
        directory: Directory of the checkpoints.
        keep: Number of good checkpoints to keep, at least 1.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int) -> None:
        self.directory, self.keep = Path(directory), max(keep, 1)
        # (file, time of its last change) -> whether it verifies
        self._verified: dict[tuple[Path, int], bool] = {}

    def prune(self, written: Path | None = None) -> None:
        """Delete checkpoints that are no longer needed.

        Args:
            written: A checkpoint that has just been written and verified. It counts as good and stays.

        Raises:
            StorageError: If a file cannot be deleted.
        """
        good = 0
        files = list_checkpoints(self.directory)
        if written in files:
            files = [written, *(file for file in files if file != written)]
        for file in files:
            if good < self.keep:
                good += file == written or self._verifies(file)
                continue
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(file, "delete", error) from error

    def _verifies(self, file: Path) -> bool:
        try:
            known = file, file.stat().st_mtime_ns
        except OSError:
            return False
        if known not in self._verified:
            try:
                verify_checkpoint(file)
                self._verified[known] = True
            except HpcmarlError as error:
                LOGGER.warning("not counted among the checkpoints to keep: %s", error)
                self._verified[known] = False
        return self._verified[known]


class CheckpointWriter:
    """Writes checkpoints one at a time in a background thread.

    If several states wait, only the newest is written. Errors do not stop training: `poll` returns them, and
    the caller decides. Temporary files of a killed writer are removed at the start.

    Attributes:
        last_path: The newest checkpoint that was written; None before the first one.
        last_version: Its version.
        last_error: Error of the most recent attempt; None if it succeeded.
        on_written: Called in the thread after each attempt with its begin and end, in seconds of
            time.perf_counter(), and the version; None: attempts are not timed.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int, guard: Callable[[], object] = lambda: None
    ) -> None:
        """Start the thread.

        Args:
            directory: Directory of the checkpoints.
            keep: Number of good checkpoints to keep.
            guard: Called before each checkpoint. If it raises StorageError, that checkpoint is not written.
        """
        self.directory, self._guard = Path(directory), guard
        self._keeper = Keeper(directory, keep)
        self.last_path: Path | None = None
        self.last_version: int | None = None
        self.last_error: StorageError | None = None
        self.on_written: Callable[[float, float, int], None] | None = None
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

    def submit(
        self, state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any], copied: bool = False
    ) -> None:
        """Queue a state for writing and return at once; it replaces a state that still waits.

        Args:
            state: A tree.
            version: Version of the parameters.
            attributes: Root attributes as plain values.
            copied: Whether nobody changes the state any more. Otherwise it is copied first.

        Raises:
            StorageError: If the writer is closed.
        """
        work = (state if copied else _copied(state), version, dict(attributes))
        with self._changed:
            if self._closed:
                raise StorageError(f"{self.directory}: the checkpoint writer is closed")
            self._pending = work
            self._changed.notify_all()

    def poll(self) -> StorageError | None:
        """Return the oldest error that has not been returned yet, or None."""
        with self._changed:
            return self._errors.pop(0) if self._errors else None

    def wait(self) -> None:
        """Wait until all submitted states are written or have failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending is None and not self._busy)

    def close(self) -> None:
        """Write the state that waits and end the thread; `poll` then returns its errors."""
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
            began = time.perf_counter()
            try:
                self._guard()
                path = save_checkpoint(self.directory, state, version=version, attributes=attributes)
                self.last_path, self.last_version = path, version
                self._keeper.prune(path)
            except StorageError as problem:
                error = problem
            except Exception as problem:  # the thread must not die silently: poll() returns every error
                error = StorageError(f"{self.directory}: checkpoint of version {version} failed: {problem!r}")
                error.__cause__ = problem
            if self.on_written is not None:
                self.on_written(began, time.perf_counter(), version)
            with self._changed:
                self._busy, self.last_error = False, error
                if error is not None:
                    self._errors = [*self._errors[-9:], error]
                self._changed.notify_all()
