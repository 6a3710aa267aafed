"""The starts of a run, one immutable record each, and the lineage that they make.

A run is started once and resumed any number of times. Each start goes on from a checkpoint of an earlier
start, or from nothing. What an earlier start played after that checkpoint is played again, so its files are
superseded. The first rank writes a record `starts/start-0003.json` before anything else; readers of
trajectories ask `Lineage` which segments still belong to the run.
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
LARGEST_RECORD = 16 << 20  # bytes: a hundred thousand ranks
_NAME = re.compile(r"start-(\d+)\.json")


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        number: 1 for the first start in the run directory, counting up.
        parent: the start that wrote the checkpoint; None where this start goes on from nothing in this
            directory.
        version: the checkpoint's version; 0 without a checkpoint.
        rollouts: for each rank of the parent, how many of its rollouts the checkpoint knows.
        checkpoint: path of the checkpoint; None without one.
        run: identifies the run directory's run, also among others' files.
        facts: host, process, job, MPI library and the like, for people.
    """

    number: int
    parent: int | None = None
    version: int = 0
    rollouts: Mapping[int, int] = field(default_factory=dict)
    checkpoint: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


class Lineage:
    """The chain of starts that leads to the newest one."""

    def __init__(self, starts: Mapping[int, Start]) -> None:
        self.starts = dict(starts)
        self._next: dict[int, Start | None] = {}  # start of the chain -> the start that went on from it
        following: Start | None = None
        current = self.starts.get(max(self.starts, default=0))
        while current is not None and current.number not in self._next:
            self._next[current.number] = following
            following = current
            current = None if current.parent is None else self.starts.get(current.parent)

    @property
    def chain(self) -> list[int]:
        """Numbers of the starts that the run consists of, oldest first."""
        return sorted(self._next)

    def live(self, start: int, rank: int, rollout: IntArray, version: IntArray) -> BoolArray:
        """Tell which segments belong to the run as it stands.

        Args:
            start: the start that recorded the segments.
            rank: the rank that recorded them.
            rollout: [S], number of the rollout that each segment was cut from.
            version: [S], parameter version that each segment was sampled under.

        Returns:
            [S], False where a later start has played again, or abandoned, what the segment holds. Segments of
            a start without a record count as live, since nothing is known against them.
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
        # the checkpoint was written without this rank's state
        return np.asarray(np.asarray(version) < following.version, np.bool_)


def read_starts(run_directory: str | os.PathLike[str]) -> dict[int, Start]:
    """Return the records of a run directory by number; empty where there are none.

    Raises:
        FormatError: a record that is damaged.
    """
    directory = Path(run_directory) / DIRECTORY
    found = {}
    try:
        files = list(directory.iterdir())
    except OSError:
        return {}
    for file in files:
        if (match := _NAME.fullmatch(file.name)) is not None:
            found[int(match[1])] = read_start(file)
    return found


def read_lineage(run_directory: str | os.PathLike[str]) -> Lineage:
    """Return the lineage of a run directory. Raises FormatError for a damaged record."""
    return Lineage(read_starts(run_directory))


def write_start(run_directory: str | os.PathLike[str], start: Start) -> Path:
    """Write the record of a start, whole or not at all; an existing one is never replaced.

    Raises:
        StorageError: the disk fails, or the number is taken.
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
    """Read one record. Raises FormatError, StorageError."""
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
