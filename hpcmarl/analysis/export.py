"""Export of trajectories as npz or csv, for tools that do not read HDF5.

The exported table is one of:

- "segments": the index of the segments of all shards;
- "env": the steps of the environment;
- the name of a policy: its steps.

Shards are streamed in slabs, so memory is bounded.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.trajectories.layout import ENVIRONMENT, INDEX
from hpcmarl.io.trajectories.live_segments import LiveSegments, refuse_overlaps, runs_of
from hpcmarl.io.trajectories.merge import collect_shards
from hpcmarl.io.trajectories.shard_reader import ROW_KEYS, ShardReader
from hpcmarl.types import Array

OnProgress = Callable[[int, int], object]


class _Source:
    """Shards to read, by default without the segments that a later start of their run has superseded.

    Args:
        shards: Trajectory files.
        superseded: Also read superseded segments.
        named: Fill the column `run` with names of runs; False: with indices into `runs`.
        on_progress: Called after each shard that was read, with the numbers of shards and of all shards over
            all passes.

    Attributes:
        runs: Name of each run -> its index.
        passes: Number of times that all shards will be read.
    """

    def __init__(
        self, shards: Sequence[Path], *, superseded: bool, named: bool, on_progress: OnProgress
    ) -> None:
        self.passes, self._read, self._on_progress = 1, 0, on_progress
        self.shards, self._superseded, self._named = shards, superseded, named
        self._live = LiveSegments()
        self.runs: dict[str, int] = {}
        for shard in shards:
            with ShardReader(shard) as reader:
                for name in runs_of(reader):
                    self.runs.setdefault(name, len(self.runs))

    def open(self) -> Iterator[ShardReader]:
        """Yield each shard, opened, with its column `run` renumbered or renamed for the whole export."""
        self._on_progress(self._read, self.passes * len(self.shards))
        for shard in self.shards:
            with ShardReader(shard) as reader:
                if not self._superseded:
                    self._live.select(reader)
                names = runs_of(reader)
                labels = np.array(names if self._named else [self.runs[name] for name in names])
                reader.index["run"] = labels[np.clip(reader.index["run"], 0, len(names) - 1)]
                yield reader
            self._read += 1
            self._on_progress(self._read, self.passes * len(self.shards))


def export(
    paths: Sequence[Path],
    output: Path,
    *,
    form: str,
    table: str = INDEX,
    superseded: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Any]:
    """Write one table of all shards to one file.

    An npz file holds one array per column, rows first, and the array `runs`; the column `run` holds indices
    into it. A csv file of a policy has one line per step and agent, and its column `run` holds names. Tables
    of steps also have the columns of ROW_KEYS.

    Args:
        paths: Trajectory files and directories.
        output: File to create.
        form: "npz" or "csv".
        table: "segments", "env" or the name of a policy.
        superseded: Also export segments that later starts of the runs have superseded.
        on_progress: Called after each shard of each pass, with the numbers of those read and of all. An npz
            file needs a pass for each column.

    Returns:
        rows: number of rows; columns: their names; bytes: size of the file.

    Raises:
        UsageError: If the table is unknown, the output exists, or two shards hold the same rollouts.
        FormatError: If a shard is damaged.
        StorageError: If the file cannot be written.
    """
    if output.exists():
        raise UsageError(f"--out {output}: exists; choose another name or delete it first")
    shards = collect_shards(paths)
    for shard in shards:
        _check_table(shard, table)
    refuse_overlaps(shards)
    result: dict[str, Any] = {}
    write = _write_npz if form == "npz" else _write_csv
    source = _Source(shards, superseded=superseded, named=form == "csv", on_progress=on_progress)
    write_atomically(output, lambda partial: result.update(write(source, partial, table)))
    return {**result, "bytes": output.stat().st_size}


def _group(table: str) -> str:
    return INDEX if table == INDEX else f"steps/{table}"


def _check_table(shard: Path, table: str) -> None:
    with ShardReader(shard) as reader:
        if _group(table) not in reader.layout:
            policies = [name.removeprefix("steps/") for name in reader.layout if name.startswith("steps/")]
            raise UsageError(f"--table {table}: not in {shard}; allowed: {', '.join([INDEX, *policies])}")


def _column_slabs(source: _Source, table: str, name: str) -> Iterator[Array]:
    for reader in source.open():
        if name in ROW_KEYS and table != INDEX:
            for first in range(0, reader.steps, 1 << 20):
                yield reader.row_keys(first, min(1 << 20, reader.steps - first))[name]
        else:
            for _, rows in reader.slabs(_group(table), [name]):
                yield rows[name]


def _write_npz(source: _Source, partial: Path, table: str) -> dict[str, Any]:
    with ShardReader(source.shards[0]) as reader:
        columns = reader.layout[_group(table)].columns
    names = [*columns, *(ROW_KEYS if table != INDEX else ())]
    source.passes = 1 + len(names)
    total = sum(reader.segments if table == INDEX else reader.steps for reader in source.open())
    with zipfile.ZipFile(partial, "w", allowZip64=True) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                dtype, sizes = (
                    (columns[name].dtype, columns[name].sizes)
                    if name in columns
                    else (np.dtype(np.int64), ())
                )
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (total, *sizes),
                }
                np.lib.format.write_array_header_1_0(stream, header)
                for slab in _column_slabs(source, table, name):
                    stream.write(np.ascontiguousarray(slab, dtype).tobytes())
        with archive.open("runs.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array(list(source.runs)), allow_pickle=False)
    return {"rows": total, "columns": [*names, "runs"]}


def _write_csv(source: _Source, partial: Path, table: str) -> dict[str, Any]:
    rows = 0
    heading: list[str] = []
    with ExitStack() as stack:
        stream = stack.enter_context(partial.open("w", encoding="utf-8", newline=""))
        writer = csv.writer(stream, lineterminator="\n")
        for reader in source.open():
            for names, lines in _csv_blocks(reader, table):
                if not heading:
                    heading = names
                    writer.writerow(heading)
                writer.writerows(lines)
                rows += len(lines)
    return {"rows": rows, "columns": heading}


def _csv_blocks(reader: ShardReader, table: str) -> Iterator[tuple[list[str], list[Any]]]:
    for first, slab in reader.slabs(_group(table)):
        count = len(next(iter(slab.values())))
        for start in range(0, count, 4096):
            block = {name: values[start : start + 4096] for name, values in slab.items()}
            if table == INDEX:
                yield list(block), list(zip(*(_plain(values) for values in block.values()), strict=True))
            else:
                yield _step_lines(reader, table, first + start, block)


def _plain(values: Array) -> list[Any]:
    cells: list[Any] = (values.astype(np.uint8) if values.dtype == bool else values).tolist()
    return cells


def _step_lines(
    reader: ShardReader, table: str, first: int, block: dict[str, Array]
) -> tuple[list[str], list[Any]]:
    """Return the names of the columns and one line per step and agent (table "env": per step).

    Arrays are spread over columns name_0, name_1 and so on.

    Args:
        reader: Open shard.
        table: "env" or the name of a policy.
        first: Row of the shard at which the block begins.
        block: Column -> values of the block, rows first.
    """
    count = len(next(iter(block.values())))
    labels = reader.layout[_group(table)].labels.get("agent", ())
    agents = 1 if table == ENVIRONMENT else len(labels)
    names, columns = [], []
    for name, values in reader.row_keys(first, count).items():
        names.append(name)
        columns.append(np.repeat(values, agents).tolist())
    if table != ENVIRONMENT:
        names.append("agent")
        columns.append([label.rstrip(b"\0").decode() for label in labels] * count)
    for name, values in block.items():
        flat = values.reshape(count * agents, -1)
        spread = values.ndim > (1 if table == ENVIRONMENT else 2)
        for place in range(flat.shape[1]):
            names.append(f"{name}_{place}" if spread else name)
            columns.append(_plain(flat[:, place]))
    return names, list(zip(*columns, strict=True))
