"""Episodes of trajectory shards. An episode that was recorded in several unrolls is put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpcmarl.errors import FormatError
from hpcmarl.io.trajectories.layout import Layout
from hpcmarl.io.trajectories.live_segments import LiveSegments
from hpcmarl.io.trajectories.shard_reader import ShardReader
from hpcmarl.types import Array, IntArray

# Columns of /segments that tell which episode a segment belongs to. The start is not among them, since a
# deterministic run that is resumed continues its episodes.
KEYS = ("actor", "slot", "episode")
ENDS = ("terminated", "truncated", "return_mean", "version", "worker")
OPEN_FILES = 16  # of an EpisodeReader


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


class Recording(NamedTuple):
    """The steps of one episode, of L steps.

    Attributes:
        steps: Policy, or "env" -> column -> values, shape [L, ...].
        final: Policy, or "env" -> column -> value after the last step, shape [...]; zeros once the episode
            has terminated.
        layout: Layout of the file that holds its end.
    """

    steps: dict[str, dict[str, Array]]
    final: dict[str, dict[str, Array]]
    layout: Layout


class EpisodeReader:
    """Reads episodes one at a time, for use in a `with` statement. It keeps few files open.

    Args:
        table: The episodes.
    """

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table
        self._open: dict[int, ShardReader] = {}  # by number of the shard, least recently used first
        self._forms: tuple[Path, Layout] | None = None

    def __enter__(self) -> EpisodeReader:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._open.values():
            reader.file.close()

    def read(self, episode: int) -> Recording:
        """Read the steps of one episode.

        Args:
            episode: Number of the episode in the table.

        Raises:
            FormatError: If a shard is damaged, or its agents or spaces differ from those of the others.
        """
        found: dict[str, dict[str, list[Array]]] = {}
        for shard, first, rows in self._table.segments_of(episode).tolist():
            reader = self.shard(shard)
            for group in (name for name in reader.layout if name.startswith("steps/")):
                own = found.setdefault(group.removeprefix("steps/"), {})
                for name in reader.layout[group].columns:
                    own.setdefault(name, []).append(reader.rows(group, name, first, first + rows))
        segment = int(np.searchsorted(reader.index["start"], first))
        final = {
            group.removeprefix("final/"): {
                name: reader.rows(group, name, segment, segment + 1)[0] for name in own.columns
            }
            for group, own in reader.layout.items()
            if group.startswith("final/")
        }
        steps = {
            group: {name: np.concatenate(parts) for name, parts in own.items()}
            for group, own in found.items()
        }
        return Recording(steps, final, reader.layout)

    def shard(self, number: int) -> ShardReader:
        """Return one of the table's shards, opened."""
        reader = self._open.pop(number, None)
        if reader is None:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).file.close()
            reader = ShardReader(self._table.shards[number])
            self._check_form(reader)
        self._open[number] = reader
        return reader

    def _check_form(self, reader: ShardReader) -> None:
        form = {path: group for path, group in reader.layout.items() if path.startswith("steps/")}
        if self._forms is None:
            self._forms = reader.path, form
        elif form != self._forms[1]:
            reader.file.close()
            raise FormatError(
                f"{reader.path}: its agents or spaces differ from those of {self._forms[0]}; read the shards "
                "of each environment separately"
            )


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
    with EpisodeReader(table) as reader:
        recording = reader.read(episode)
    return recording.steps, recording.layout
