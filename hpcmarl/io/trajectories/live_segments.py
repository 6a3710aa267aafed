"""Which segments of a run's shards belong to the run as it stands, and which a later start has superseded.

Merge, export, inspection and verification ask here. The starts of a run and their lineage are starts.py's
matter.
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
    """Return the run directory of RUN/trajectories/rank-NNNN/shard-NNNNNN.h5; None for a file elsewhere."""
    place = shard.absolute().parent
    return (
        place.parent.parent
        if place.name.startswith("rank-") and place.parent.name == "trajectories"
        else None
    )


def runs_of(reader: ShardReader) -> list[str]:
    """Return what identifies the runs of a shard; its directory, where the run has no identity."""
    named = reader.attributes.get("runs")
    known = [str(name) for name in named] if isinstance(named, list) and named else [""]
    return [name or str(run_of(reader.path) or reader.path.parent) for name in known]


class LiveSegments:
    """Reads each run's lineage once."""

    def __init__(self) -> None:
        self._lineages: dict[Path, Lineage] = {}

    def of(self, reader: ShardReader) -> BoolArray:
        """Tell which segments [segments] of an opened shard no later start has superseded.

        Raises:
            FormatError: a record of a start is damaged.
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
        """Read from now on only what is not superseded."""
        live = self.of(reader)
        if not live.all():
            reader.select(live)


def superseded(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Count what later starts have superseded in the shards of these files and directories.

    Returns:
        Number of the start -> {"segments", "steps"}; starts without any are left out, and so are files that
        cannot be read.
    """
    live, counts = LiveSegments(), dict[str, dict[str, int]]()
    for shard in (shard for path in paths for shard in list_shards(path) if shard.suffix == ".h5"):
        try:
            with ShardReader(shard) as reader:
                gone = ~live.of(reader)
                for start in np.unique(reader.index["start_number"][gone]).tolist():
                    own = gone & (reader.index["start_number"] == start)
                    count = counts.setdefault(str(start), {"segments": 0, "steps": 0})
                    count["segments"] += int(own.sum())
                    count["steps"] += int(reader.index["length"][own].sum())
        except FormatError:
            continue
    return counts


def overlaps(path: Path) -> list[tuple[Path, str]]:
    """Find shards that hold rollouts which an earlier one holds, too, in a file or anywhere under a
    directory.

    Returns:
        The later of two such shards, and what is wrong with it in one line.
    """
    return [(shard, f"{why}; move one of them away") for shard, why in _doubles(all_shards(path))]


def refuse_overlaps(shards: Sequence[Path]) -> None:
    """Raise UsageError where two of these shards hold the same rollouts: those of a run and of its copy, or
    of a merged file."""
    for shard, why in _doubles(shards):
        raise UsageError(f"{shard}: {why}; leave one of them out")


def all_shards(path: Path) -> list[Path]:
    """List the finished shards anywhere under a directory, those of a league's members too; a file stands for
    itself."""
    return sorted(path.rglob("shard-*.h5")) if path.is_dir() else [path]


def _doubles(shards: Sequence[Path]) -> list[tuple[Path, str]]:
    spans: dict[tuple[str, int, int], list[tuple[int, int, int]]] = {}
    for place, shard in enumerate(shards):
        with contextlib.suppress(FormatError), ShardReader(shard) as reader:
            for key, rollouts in _rollouts(reader).items():
                spans.setdefault(key, []).append((int(rollouts[0]), int(rollouts[-1]), place))
    found = []
    for key, parts in spans.items():
        parts.sort()
        ends = accumulate((last for _, last, _ in parts), max)
        if any(first <= end for (first, _, _), end in zip(parts[1:], ends, strict=False)):
            found += _exact_doubles(key, [shards[place] for place in sorted(place for _, _, place in parts)])
    return found


def _exact_doubles(key: tuple[str, int, int], shards: Sequence[Path]) -> list[tuple[Path, str]]:
    """Compare the rollouts of one rank in one start; their spans may overlap without a rollout in common."""
    holders: dict[int, Path] = {}
    found = []
    for shard in shards:
        with contextlib.suppress(FormatError), ShardReader(shard) as reader:
            rollouts = _rollouts(reader)[key].tolist()
            twice = [rollout for rollout in rollouts if rollout in holders]
            if twice:
                other = holders[twice[0]]
                name = other.name if other.parent == shard.parent else str(other)
                held = f"rollouts {twice[0]} to {twice[-1]} of rank {key[2]} in start {key[1]}"
                found.append((shard, f"holds {held}, which {name} holds, too"))
            holders.update((rollout, shard) for rollout in rollouts if rollout not in holders)
    return found


def _rollouts(reader: ShardReader) -> dict[tuple[str, int, int], IntArray]:
    """Return the numbers of the rollouts in a shard, rising, by run, start and rank; files from before they
    had numbers have none."""
    index, names = reader.index, runs_of(reader)
    known = index["rollout"] >= 0
    place = np.clip(index["run"], 0, len(names) - 1)
    found = {}
    for key in np.unique(
        np.stack([place[known], index["start_number"][known], index["rank"][known]]), axis=1
    ).T.tolist():
        own = known & (place == key[0]) & (index["start_number"] == key[1]) & (index["rank"] == key[2])
        found[names[key[0]], key[1], key[2]] = np.unique(index["rollout"][own]).astype(np.int64)
    return found


def describe_superseded(counts: dict[str, dict[str, int]]) -> list[str]:
    """Put `superseded` into words, a line a start."""
    return [
        f"start {start}: {count['segments']} segments, {count['steps']} steps are superseded by a later start"
        for start, count in counts.items()
    ]


def as_plain(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The counts with their sums, for JSON."""
    return {
        **{unit: sum(count[unit] for count in counts.values()) for unit in ("segments", "steps")},
        "by_start": counts,
    }
