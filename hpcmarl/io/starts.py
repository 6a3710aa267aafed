"""The starts of a run, one immutable record each, and their lineage.

A run is started once and resumed any number of times. Each start continues from a checkpoint of an earlier
start, or begins without one. Steps that an earlier start played after that checkpoint are played again, so
their segments are superseded. Rank 0 writes a record `starts/start-0003.json` before anything else. `Lineage`
decides which segments of trajectories still belong to the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.atomic import publish_new, read_bytes, storage_error
from hpcmarl.types import BoolArray, IntArray

DIRECTORY = "starts"
LARGEST_RECORD = 16 << 20  # bytes; enough for a hundred thousand ranks
_NAME = re.compile(r"start-(\d+)\.json")


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        number: 1 for the first start in the run directory, then counting up.
        parent: Start that wrote the checkpoint. None if this start does not continue from a checkpoint in
            this directory.
        version: Version of the checkpoint; 0 without a checkpoint.
        checkpoint: Path of the checkpoint; None without one.
        rollouts: Rank of the parent -> number of its rollouts that the checkpoint covers.
        facts: Host, process, job, MPI library and the like, for people.
        run: Identity of the run, which also distinguishes its files from those of other runs.
    """

    number: int
    parent: int | None = None
    version: int = 0
    rollouts: Mapping[int, int] = field(default_factory=dict)
    checkpoint: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


class Lineage:
    """The chain of starts that leads to the newest one.

    Args:
        starts: Number -> start.
    """

    def __init__(self, starts: Mapping[int, Start]) -> None:
        self.starts = dict(starts)
        self._next: dict[int, Start | None] = {}  # start of the chain -> start that continued from it
        following: Start | None = None
        current = self.starts.get(max(self.starts, default=0))
        while current is not None and current.number not in self._next:
            self._next[current.number] = following
            following = current
            current = None if current.parent is None else self.starts.get(current.parent)

    @property
    def chain(self) -> list[int]:
        """Numbers of the starts that make up the run, oldest first."""
        return sorted(self._next)

    def live(self, start: int, rank: int, rollout: IntArray, version: IntArray) -> BoolArray:
        """Return which segments belong to the run as it stands.

        Args:
            start: Start that recorded the segments.
            rank: Rank that recorded them.
            rollout: Number of the rollout from which each segment was cut, shape [S].
            version: Version of the parameters under which each segment was sampled, shape [S].

        Returns:
            Shape [S]; False if a later start has played the steps of the segment again or abandoned them.
            Segments of a start without a record count as live, since nothing shows that they are superseded.
        """
        rollout = np.asarray(rollout)
        if start not in self.starts:
            return np.ones(rollout.shape, np.bool_)
        if start not in self._next:
            return np.zeros(rollout.shape, np.bool_)
        following = self._next[start]
        if following is None:
            return np.ones(rollout.shape, np.bool_)
        if rank in following.rollouts:
            return np.asarray(rollout < following.rollouts[rank], np.bool_)
        # The checkpoint was written without the state of this rank, so its number of rollouts is unknown.
        return np.asarray(np.asarray(version) < following.version, np.bool_)


def read_starts(run_directory: str | os.PathLike[str]) -> dict[int, Start]:
    """Return the records of a run directory by number; empty if there are none.

    Raises:
        FormatError: If a record is damaged.
        StorageError: If a record cannot be read.
    """
    directory = Path(run_directory) / DIRECTORY
    starts = {}
    try:
        files = list(directory.iterdir())
    except OSError:
        return {}
    for file in files:
        if (match := _NAME.fullmatch(file.name)) is not None:
            starts[int(match[1])] = read_start(file)
    return starts


def read_lineage(run_directory: str | os.PathLike[str]) -> Lineage:
    """Return the lineage of a run directory.

    Raises:
        FormatError: If a record is damaged.
        StorageError: If a record cannot be read.
    """
    return Lineage(read_starts(run_directory))


def write_start(run_directory: str | os.PathLike[str], start: Start) -> Path:
    """Write the record of a start atomically; never replace an existing one.

    Returns:
        The file.

    Raises:
        StorageError: If the disk fails, or a record with that number exists.
    """
    path = Path(run_directory) / DIRECTORY / f"start-{start.number:04d}.json"
    content = (
        json.dumps(
            {**asdict(start), "rollouts": {str(rank): count for rank, count in start.rollouts.items()}},
            indent=2,
        )
        + "\n"
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text(content, encoding="utf-8")
        publish_new(partial, path)
    except OSError as error:
        raise storage_error(path, "write", error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def read_start(path: Path) -> Start:
    """Read one record.

    Raises:
        FormatError: If it is damaged.
        StorageError: If it cannot be read.
    """
    try:
        record = json.loads(read_bytes(path, LARGEST_RECORD))
        rollouts = {int(rank): int(count) for rank, count in record["rollouts"].items()}
        parent = None if record["parent"] is None else int(record["parent"])
        checkpoint = None if record["checkpoint"] is None else str(record["checkpoint"])
        number = int(record["number"])
        if path.name != f"start-{number:04d}.json" or not (parent is None or 0 < parent < number):
            raise ValueError(f"number {number}, parent {parent}")
        return Start(
            number,
            parent,
            int(record["version"]),
            rollouts,
            checkpoint,
            dict(record["facts"]),
            str(record["run"]),
        )
    except OSError as error:
        raise storage_error(path, "read", error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FormatError(
            f"{path}: not the record of a start ({words}); restore it from a copy, or remove it"
        ) from error
