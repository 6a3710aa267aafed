"""Checkpoints: one HDF5 file a version, atomic, with a checksum; the newest that verifies is found again.

The server writes them (CheckpointWriter, in the background), `--resume`, `eval` and `data verify` read them.
The state is a tree (see hpcmarl.packing); all that is known here of a training run's is where its version and
its number of steps stand, which must agree. A state of S bytes needs S more while it is written.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import threading
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
    """checkpoint-0000001234.h5 for version 1234."""
    return Path(directory) / f"checkpoint-{version:010d}.h5"


def save_checkpoint(
    directory: str | os.PathLike[str], state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any]
) -> Path:
    """Writes the state whole or not at all, reads it back and compares checksums. Returns the file.

    `attributes` (config, env, seeds, …; plain values) become root attributes. Raises StorageError where the
    disk fails or gives back something else, TypeError for a state that is no tree.
    """
    path = checkpoint_path(directory, version)
    write_state(path, CHECKPOINT, _with_stacked_actors(state), {**attributes, "version": version})
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The state and the root attributes. Raises FormatError for a file that is damaged, foreign, newer or
    contradicts itself."""
    state, attributes = read_state(path, CHECKPOINT, "resume from an older checkpoint")
    _unstack_actors(path, state)
    _check_versions(path, state, attributes)
    return state, attributes


def _with_stacked_actors(state: dict[str, Tree]) -> dict[str, Tree]:
    """The state with the states of its actors, of which there may be thousands, stacked (stacking.py)."""
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
            f"{os.fspath(path)}: its states of actors are not what hpcmarl writes ({words}); resume from an "
            "older checkpoint"
        ) from error


def _copied(state: dict[str, Tree]) -> dict[str, Tree]:
    """A copy with stacked actors: copying thousands of small dicts one by one would hold up the caller."""
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
    """Refuse parameters that are not those of the version they are said to be. Raises FormatError."""
    try:
        taken, version = int(state["engine"]["optimizer"]["updates"]), int(state["engine"]["rule"]["round"])
    except (KeyError, TypeError, ValueError):
        return  # no state of a training run: a replay, a league
    said = attributes.get("version", version)
    if not taken == version == said:
        raise FormatError(
            f"{os.fspath(path)}: says version {said}, but its rounds are at {version} and its optimizer has "
            f"made {taken} steps; resume from an older checkpoint"
        )


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
    return sorted((file for file in files if _NAME.fullmatch(file.name)), key=_version_of, reverse=True)


def _version_of(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return int(match[1])


def find_checkpoint(path: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a run directory that verifies; bad ones are named in the log. None where there
    is none.

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


def load_newest(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Tree], dict[str, Any]] | None:
    """Load the newest checkpoint of a run directory that verifies, reading it once; bad ones are named in the
    log.

    Returns:
        The file, its state and its root attributes; None where there is none.
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
    """Move checkpoints that a run does not go on from to `directory`/superseded/`label`.

    Args:
        directory: a directory of checkpoints.
        first: those of this version and newer ones move; None: all.
        label: names the start of the run that moves them.
        spare: the one that the run goes on from, which stays.

    Returns:
        The files where they lie now.

    Raises:
        StorageError: a file cannot be moved.
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
    """Deletes old checkpoints of a directory, so that `keep` that verify stay.

    A file that does not verify counts for nothing, and goes only when it is older than those that stay."""

    def __init__(self, directory: str | os.PathLike[str], keep: int) -> None:
        self.directory, self.keep = Path(directory), max(keep, 1)
        self._verified: dict[tuple[Path, int], bool] = {}  # (file, time of its last change)

    def prune(self, written: Path | None = None) -> None:
        """Delete what is no longer needed; `written` was written just now: it is good, and it stays. Raises
        StorageError."""
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
    """Writes checkpoints from a background thread, one at a time; of those that wait, the newest wins.

    Errors never stop training by themselves: `poll` hands them over and the caller decides. last_error: of
    the newest checkpoint that was tried, None when it was written. What a killed writer left under temporary
    names is removed first.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int, guard: Callable[[], object] = lambda: None
    ) -> None:
        """Begin the thread.

        Args:
            directory: of the checkpoints.
            keep: so many that verify stay.
            guard: called before each is written; a StorageError that it raises is why that one is not.
        """
        self.directory, self._guard = Path(directory), guard
        self._keeper = Keeper(directory, keep)
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

    def submit(
        self, state: dict[str, Tree], *, version: int, attributes: Mapping[str, Any], copied: bool = False
    ) -> None:
        """Copies the state (unless it is `copied`: nobody will change it) and returns at once; it replaces
        one that still waits."""
        work = (state if copied else _copied(state), version, dict(attributes))
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
                self._guard()
                path = save_checkpoint(self.directory, state, version=version, attributes=attributes)
                self.last_path, self.last_version = path, version
                self._keeper.prune(path)
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
