"""Live segments of the shards of a run, segments that a later start has superseded, and overlaps of shards.

hpcmarl/io/starts.py defines the starts of a run and their lineage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError, UsageError
from hpcmarl.io.starts import Lineage, read_lineage
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards
from hpcmarl.types import BoolArray, IntArray


def run_of(shard: Path) -> Path | None:
    """Return the run directory of a shard; None if the shard is not in one.

    Its path must be RUN/trajectories/rank-NNNN/shard-NNNNNN.h5.
    """
    place = shard.absolute().parent
    return (
        place.parent.parent
        if place.name.startswith("rank-") and place.parent.name == "trajectories"
        else None
    )


def runs_of(reader: ShardReader) -> list[str]:
    """Return the identities of the runs in a shard.

    A run without an identity is identified by its directory.
    """
    named = reader.attributes.get("runs")
    known = [str(name) for name in named] if isinstance(named, list) and named else [""]
    return [name or str(run_of(reader.path) or reader.path.parent) for name in known]


class LiveSegments:
    """Finds the live segments of shards. The lineage of each run is read only once."""

    def __init__(self) -> None:
        self._lineages: dict[Path, Lineage] = {}

    def of(self, reader: ShardReader) -> BoolArray:
        """Return which segments of an open shard no later start has superseded, shape [segments].

        Raises:
            FormatError: If the record of a start is damaged.
            StorageError: If it cannot be read.
        """
        run = run_of(reader.path)
        if run is None or not reader.segments:
            return np.ones(reader.segments, np.bool_)
        if run not in self._lineages:
            self._lineages[run] = read_lineage(run)
        index, live = reader.index, np.zeros(reader.segments, np.bool_)
        for start in np.unique(index["start_number"]).tolist():
            for rank in np.unique(index["rank"]).tolist():
                own = (index["start_number"] == start) & (index["rank"] == rank)
                live[own] = self._lineages[run].live(
                    start, rank, index["rollout"][own], index["version"][own]
                )
        return live

    def select(self, reader: ShardReader) -> None:
        """Restrict a reader to segments that are not superseded."""
        live = self.of(reader)
        if not live.all():
            reader.select(live)


class SupersededCounts:
    """Counts the superseded segments and steps of shards that are open.

    Attributes:
        by_start: Number of a start -> {"segments", "steps"}; starts without superseded segments are left out.
    """

    def __init__(self) -> None:
        self.by_start: dict[str, dict[str, int]] = {}
        self._live = LiveSegments()

    def note(self, reader: ShardReader) -> None:
        """Count those of one shard. A shard whose run has a damaged record of a start is skipped."""
        with contextlib.suppress(FormatError):
            gone = ~self._live.of(reader)
            for start in np.unique(reader.index["start_number"][gone]).tolist():
                own = gone & (reader.index["start_number"] == start)
                count = self.by_start.setdefault(str(start), {"segments": 0, "steps": 0})
                count["segments"] += int(own.sum())
                count["steps"] += int(reader.index["length"][own].sum())


def superseded(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Count the superseded segments and steps in the shards of files and directories.

    Files that cannot be read are skipped.

    Returns:
        Number of a start -> {"segments", "steps"}; starts without superseded segments are left out.
    """
    counts = SupersededCounts()
    for shard in (shard for path in paths for shard in list_shards(path) if shard.suffix == ".h5"):
        with contextlib.suppress(FormatError), ShardReader(shard) as reader:
            counts.note(reader)
    return counts.by_start


class RolloutSpans:
    """First and last rollouts that shards hold, noted while each shard is open."""

    def __init__(self) -> None:
        self._shards: list[Path] = []
        # (run, start, rank) -> (first rollout, last rollout, place in _shards) of each shard
        self._spans: dict[tuple[str, int, int], list[tuple[int, int, int]]] = {}

    def note(self, reader: ShardReader) -> None:
        """Note those of one shard. Shards are noted in their order, and before segments are selected."""
        for key, rollouts in _rollouts(reader).items():
            self._spans.setdefault(key, []).append((int(rollouts[0]), int(rollouts[-1]), len(self._shards)))
        self._shards.append(reader.path)

    def overlaps(self) -> list[tuple[Path, str]]:
        """Find shards that hold rollouts which an earlier shard holds, too; see `overlaps`."""
        return [(shard, f"{why}; move one of them away") for shard, why in self._doubles()]

    def refuse(self) -> None:
        """Check that no two shards hold the same rollouts.

        Those of a run and of its copy do, and so do those of a run and of a file that was merged from them.

        Raises:
            UsageError: If two shards hold the same rollouts.
        """
        for shard, why in self._doubles():
            raise UsageError(f"{shard}: {why}; leave one of them out")

    def _doubles(self) -> list[tuple[Path, str]]:
        """Return pairs of a shard and a description.

        Ranges are compared first. Only shards whose ranges overlap are opened again.
        """
        doubles = []
        for key, parts in self._spans.items():
            parts = sorted(parts)
            ends = accumulate((last for _, last, _ in parts), max)
            if any(first <= end for (first, _, _), end in zip(parts[1:], ends, strict=False)):
                doubles += _exact_doubles(
                    key, [self._shards[place] for place in sorted(place for _, _, place in parts)]
                )
        return doubles


def overlaps(path: Path) -> list[tuple[Path, str]]:
    """Find shards that hold rollouts which an earlier shard holds, too.

    Args:
        path: A file, or a directory that is searched recursively.

    Returns:
        The later of each two shards, and a description of the problem in one line.
    """
    return _spans(all_shards(path)).overlaps()


def refuse_overlaps(shards: Sequence[Path]) -> None:
    """Check that no two shards hold the same rollouts, see `RolloutSpans.refuse`.

    Raises:
        UsageError: If two shards hold the same rollouts.
    """
    _spans(shards).refuse()


def all_shards(path: Path) -> list[Path]:
    """List the finished shards anywhere below a directory, including those of the members of a league.

    A file is returned as it is.
    """
    return sorted(path.rglob("shard-*.h5")) if path.is_dir() else [path]


def _spans(shards: Sequence[Path]) -> RolloutSpans:
    spans = RolloutSpans()
    for shard in shards:
        with contextlib.suppress(FormatError), ShardReader(shard) as reader:
            spans.note(reader)
    return spans


def _exact_doubles(key: tuple[str, int, int], shards: Sequence[Path]) -> list[tuple[Path, str]]:
    """Compare the rollouts of one rank in one start, shard by shard.

    The ranges of two shards may overlap although they have no rollout in common.
    """
    holders: dict[int, Path] = {}
    doubles = []
    for shard in shards:
        with contextlib.suppress(FormatError), ShardReader(shard) as reader:
            rollouts = _rollouts(reader)[key].tolist()
            twice = [rollout for rollout in rollouts if rollout in holders]
            if twice:
                other = holders[twice[0]]
                name = other.name if other.parent == shard.parent else str(other)
                held = f"rollouts {twice[0]} to {twice[-1]} of rank {key[2]} in start {key[1]}"
                doubles.append((shard, f"holds {held}, which {name} holds, too"))
            holders.update((rollout, shard) for rollout in rollouts if rollout not in holders)
    return doubles


def _rollouts(reader: ShardReader) -> dict[tuple[str, int, int], IntArray]:
    """Return the numbers of the rollouts in a shard, in increasing order, by run, start and rank.

    Shards of earlier versions of hpcmarl have no such numbers and give an empty result.
    """
    index, names = reader.index, runs_of(reader)
    known = index["rollout"] >= 0
    place = np.clip(index["run"], 0, len(names) - 1)
    origins = [place[known], index["start_number"][known], index["rank"][known]]
    numbers = {}
    for key in _unique_rows(origins):
        own = known & (place == key[0]) & (index["start_number"] == key[1]) & (index["rank"] == key[2])
        numbers[names[key[0]], key[1], key[2]] = np.unique(index["rollout"][own]).astype(np.int64)
    return numbers


def _unique_rows(columns: Sequence[IntArray]) -> list[list[int]]:
    """Return the different rows of some columns, sorted. Most shards have only one."""
    if len(columns[0]) and all((column == column[0]).all() for column in columns):
        return [[int(column[0]) for column in columns]]
    rows: list[list[int]] = np.unique(np.stack(list(columns)), axis=1).T.tolist()
    return rows


def describe_superseded(counts: dict[str, dict[str, int]]) -> list[str]:
    """Describe the result of `superseded`, one line for each start."""
    return [
        f"start {start}: {count['segments']} segments, {count['steps']} steps are superseded by a later start"
        for start, count in counts.items()
    ]


def as_plain(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Return the result of `superseded` with its totals, for JSON."""
    return {
        **{unit: sum(count[unit] for count in counts.values()) for unit in ("segments", "steps")},
        "by_start": counts,
    }
