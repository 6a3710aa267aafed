"""Which segments of a run's shards belong to the run as it stands, and which a later start has superseded.

Merge, export, inspection and verification ask here. The starts of a run and their lineage are starts.py's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.shard_reader import ShardReader, list_shards
from hpcmarl.io.starts import Lineage, read_lineage
from hpcmarl.types import BoolArray


def run_of(shard: Path) -> Path | None:
    """Return the run directory of RUN/trajectories/rank-NNNN/shard-NNNNNN.h5; None for a file elsewhere."""
    place = shard.absolute().parent
    return place.parent.parent if place.name.startswith("rank-") and place.parent.name == "trajectories" else None


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
                live[own] = self._lineages[run].live(start, rank, index["rollout"][own], index["version"][own])
        return live

    def select(self, reader: ShardReader) -> None:
        """Read from now on only what is not superseded."""
        live = self.of(reader)
        if not live.all():
            reader.select(live)


def superseded(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Count what later starts have superseded in the shards of these files and directories.

    Returns:
        Number of the start -> {"segments", "steps"}; starts without any are left out, and so are files that cannot be read.
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
    """Find shards of one directory that hold the same rollouts of the same start and rank.

    Returns:
        The later of two such shards, and what is wrong with it in one line.
    """
    spans: dict[tuple[int, int, Path | None], list[tuple[int, int, Path]]] = {}
    for shard in list_shards(path):
        try:
            with ShardReader(shard) as reader:
                if not reader.segments or reader.index["rollout"].min() < 0 or len(reader.attributes.get("runs", [""])) > 1:
                    continue
                for start in np.unique(reader.index["start_number"]).tolist():
                    own = reader.index["rollout"][reader.index["start_number"] == start]
                    key = (start, int(reader.index["rank"][0]), run_of(shard))
                    spans.setdefault(key, []).append((int(own.min()), int(own.max()), shard))
        except FormatError:
            continue
    found = []
    for (start, rank, _), parts in spans.items():
        parts.sort()
        for (_, last, before), (first, end, shard) in pairwise(parts):
            if first <= last:
                held = f"rollouts {first} to {min(last, end)} of rank {rank} in start {start}"
                found.append((shard, f"holds {held}, which {before.name} holds, too; move one of them away"))
    return found


def describe_superseded(counts: dict[str, dict[str, int]]) -> list[str]:
    """Put `superseded` into words, a line a start."""
    return [f"start {start}: {count['segments']} segments, {count['steps']} steps are superseded by a later start" for start, count in counts.items()]


def as_plain(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The counts with their sums, for JSON."""
    return {**{unit: sum(count[unit] for count in counts.values()) for unit in ("segments", "steps")}, "by_start": counts}
