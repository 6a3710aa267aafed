"""Episodes of trajectory shards. An episode that was recorded in several unrolls is put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcmarl.io.trajectories.layout import Layout
from hpcmarl.io.trajectories.live_segments import LiveSegments
from hpcmarl.io.trajectories.shard_reader import ShardReader
from hpcmarl.types import Array, IntArray

# Columns of /segments that tell which episode a segment belongs to. The start is not among them, since a
# deterministic run that is resumed continues its episodes.
KEYS = ("actor", "slot", "episode")
ENDS = ("terminated", "truncated", "return_mean", "version", "worker")


@dataclass(frozen=True)
class EpisodeTable:
    """Complete episodes of some shards, in the order in which they ended.

    Attributes:
        shards: The files.
        columns: actor, slot, episode, length (steps), terminated, return_mean (of all agents),
            version (of the last segment) and worker (-1: none), shape [episodes] each.
        first: First place of each episode in `parts`, shape [episodes].
        parts: Segments of all episodes in order, int64 [segments, 3]: number of the shard, first row,
            rows.
    """

    shards: tuple[Path, ...]
    columns: dict[str, Array]
    first: IntArray
    parts: IntArray

    def __len__(self) -> int:
        return len(self.first)

    def segments_of(self, episode: int) -> IntArray:
        """Return the segments of an episode in order, as rows of `parts`."""
        stop = self.first[episode + 1] if episode + 1 < len(self) else len(self.parts)
        return self.parts[self.first[episode] : stop]


def find_episodes(shards: Sequence[Path]) -> EpisodeTable:
    """Find the complete episodes of shards. Superseded segments and unfinished episodes are left out.

    Args:
        shards: Finished shards of one run.

    Raises:
        FormatError: If a shard is damaged.
    """
    live, columns = LiveSegments(), dict[str, list[Array]]()
    for number, shard in enumerate(shards):
        with ShardReader(shard) as reader:
            keep = live.of(reader)
            index = {name: values[keep] for name, values in reader.index.items()}
            own = {name: index[name] for name in (*KEYS, "start_number", "first_step", "start", "length")}
            own |= {name: index[name] for name in ENDS if name in index}
            own.setdefault("worker", np.full(len(index["start"]), -1, np.int32))
            own["shard"] = np.full(len(index["start"]), number, np.int64)
            for name, values in own.items():
                columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return _joined(tuple(shards), joined)


def _joined(shards: tuple[Path, ...], index: dict[str, Array]) -> EpisodeTable:
    """Put the segments of each episode together."""
    if not index or not len(index["start"]):
        names = (*KEYS, "length", "terminated", "return_mean", "version", "worker")
        return EpisodeTable(
            shards, {name: np.zeros(0) for name in names}, np.zeros(0, int), np.zeros((0, 3), int)
        )
    order = np.lexsort(
        [index["first_step"], index["start_number"], *(index[name] for name in reversed(KEYS))]
    )
    sorted_index = {name: values[order] for name, values in index.items()}
    length, steps = sorted_index["length"], sorted_index["first_step"]
    new = np.ones(len(order), bool)
    new[1:] = np.logical_or.reduce([sorted_index[name][1:] != sorted_index[name][:-1] for name in KEYS])
    new[1:] |= steps[1:] != steps[:-1] + length[:-1]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(order)) - 1
    total = np.add.reduceat(length, first)
    # complete: begins at step 0 and has an end
    whole = steps[first] == 0
    whole &= (sorted_index["terminated"] | sorted_index["truncated"])[last] != 0
    chosen = np.flatnonzero(whole)
    chosen = chosen[np.lexsort([sorted_index["shard"][last[chosen]], sorted_index["version"][last[chosen]]])]
    columns = {name: sorted_index[name][first[chosen]] for name in KEYS} | {"length": total[chosen]}
    columns |= {name: sorted_index[name][last[chosen]] for name in ENDS if name != "truncated"}
    counts = (last - first + 1)[chosen]
    begins = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
    places = np.repeat(first[chosen] - begins, counts) + np.arange(counts.sum())
    parts = np.stack([sorted_index[name][places] for name in ("shard", "start", "length")], 1)
    return EpisodeTable(shards, columns, begins, parts.astype(np.int64))


def read_episode(table: EpisodeTable, episode: int) -> tuple[dict[str, dict[str, Array]], Layout]:
    """Read the steps of one episode.

    Args:
        table: The episodes.
        episode: Number of the episode in the table.

    Returns:
        Policy, or "env" -> column -> values, shape [length, ...]; and the layout of the file.

    Raises:
        FormatError: If a shard is damaged.
    """
    found: dict[str, dict[str, list[Array]]] = {}
    layout: Layout = {}
    for shard, first, rows in table.segments_of(episode).tolist():
        with ShardReader(table.shards[shard]) as reader:
            layout = reader.layout
            for group in (name for name in layout if name.startswith("steps/")):
                own = found.setdefault(group.removeprefix("steps/"), {})
                for name in layout[group].columns:
                    own.setdefault(name, []).append(reader.rows(group, name, first, first + rows))
    return {
        group: {name: np.concatenate(parts) for name, parts in own.items()} for group, own in found.items()
    }, layout
