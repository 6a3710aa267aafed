"""Recovers what killed writers and failing disks left: open and damaged shards become valid ones, never over an existing file.

Called by `hpcmarl data salvage`. What the writer had committed (see shard.py) is copied into a new file with the shard's final
name; the temporary file stays unless its removal is asked for. Of a finished shard that is damaged the segments are copied whose chunks are
whole; the damaged file is kept beside as *.damaged. Knows no rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError, HpcmarlError, StorageError
from hpcmarl.io.atomic import PARTIAL, storage_error
from hpcmarl.io.layout import INDEX
from hpcmarl.io.schema import read_attributes
from hpcmarl.io.shard import ShardFile, is_live
from hpcmarl.io.shard_reader import ShardReader, check_shard, list_shards, verify_shard
from hpcmarl.io.unfinished import has_beginning

_COPY = ".salvage"
DAMAGED = ".damaged"


@dataclass(frozen=True)
class Salvaged:
    """What became of one temporary file. lost_steps: rows that were begun and not committed (what was never written is unknown)."""

    path: str
    status: str  # recovered, empty, live, done, unneeded, failed
    note: str
    output: str | None = None
    steps: int = 0
    segments: int = 0
    lost_steps: int = 0
    removed: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_partials(path: Path) -> list[Path]:
    """The temporary files under a directory; a file stands for itself."""
    return sorted(file for file in path.rglob("*" + PARTIAL) if not file.is_dir()) if path.is_dir() else [path]


def salvage(path: Path, *, remove: bool = False) -> list[Salvaged]:
    """Recover the temporary files under `path`, and the finished shards whose structure is damaged.

    Args:
        path: a directory or a file. A file is read whole; of a directory's finished shards the structure alone is looked at.
        remove: delete what holds nothing more.

    Returns:
        An entry a file; one bad file is no error.
    """
    damaged = [shard for shard in list_shards(path) if not _is_sound(shard)] if path.is_dir() else []
    return [salvage_file(file, remove=remove) for file in [*list_partials(path), *damaged]]


def _is_sound(shard: Path) -> bool:
    try:
        check_shard(shard)
    except FormatError:
        return False
    return True


def salvage_file(partial: Path, *, remove: bool = False) -> Salvaged:
    """Recovers one temporary or damaged file."""
    name = str(partial)
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    if not partial.name.endswith(PARTIAL):
        return _salvage_finished(partial, remove=remove)
    if is_live(partial):
        return Salvaged(name, "live", "its writer is still running")
    if not final.name.startswith("shard-") or final.name.endswith(_COPY):
        return _finish(Salvaged(name, "unneeded", "left by an interrupted write; the last good file is beside it"), partial, remove)
    if final.exists():
        try:
            verify_shard(final)
        except HpcmarlError as error:
            return Salvaged(name, "failed", f"{final.name} exists and is bad, move it away first: {error}")
        return _finish(Salvaged(name, "done", f"{final.name} exists and is good", str(final)), partial, remove)
    try:
        if not has_beginning(partial):
            return _finish(Salvaged(name, "empty", "its writer died before the first row"), partial, remove)
        with ShardReader(partial, partial=True) as reader:
            lost = reader.step_rows() - reader.steps
            if not reader.segments:
                return _finish(Salvaged(name, "empty", "nothing was committed before the writer died", lost_steps=lost), partial, remove)
            copy_shard(reader, final)
            note = f"killed while {', '.join(sorted(reader.unchecked))} was being written; read without checksum" if reader.unchecked else ""
            found = Salvaged(name, "recovered", note, str(final), reader.steps, reader.segments, lost)
        verify_shard(final)
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(partial, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return _finish(found, partial, remove)


def _salvage_finished(shard: Path, *, remove: bool) -> Salvaged:
    """Copy the segments of a finished, damaged shard whose chunks are whole; the damaged file goes aside."""
    name = str(shard)
    if not shard.name.startswith("shard-") or shard.suffix != ".h5":
        return Salvaged(name, "failed", f"only shards (shard-*.h5) and temporary files (*{PARTIAL}) can be recovered")
    try:
        verify_shard(shard)
        return Salvaged(name, "unneeded", "the shard is good")
    except FormatError as error:
        why = str(error).removeprefix(f"{shard}: ")
    try:
        with ShardReader(shard, damaged=True) as reader:
            declared, begun = reader.segments, reader.step_rows()
            reader.select(reader.whole())
            if not reader.segments:
                return Salvaged(name, "failed", f"no segment of it is whole: {why}", lost_steps=begun)
            copied = shard.with_name(shard.name + _COPY + PARTIAL)
            copy_shard(reader, shard, lambda: shard.rename(shard.with_name(shard.name + DAMAGED)))
            note = f"{declared - reader.segments} of {declared} segments are lost: {why}"
            found = Salvaged(name, "recovered", note, name, reader.steps, reader.segments, begun - reader.steps)
        copied.unlink(missing_ok=True)
        verify_shard(shard)
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(shard, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return _finish(found, shard.with_name(shard.name + DAMAGED), remove)


def copy_shard(reader: ShardReader, final: Path, make_way: Callable[[], object] = lambda: None) -> None:
    """The committed, or selected, rows of a shard as a new file. make_way: called when it is complete but for its name. Raises StorageError."""
    partial = final.with_name(final.name + _COPY + PARTIAL)
    try:
        shard = ShardFile(final, reader.layout, {**read_attributes(reader.file), "salvaged": True}, partial=partial)
        try:
            append_shard(shard, reader)
            shard.flush()
            make_way()
            shard.close()
        except BaseException:
            shard.abandon()
            partial.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError, ValueError) as error:
        raise storage_error(final, "write", error) from error


def append_shard(shard: ShardFile, reader: ShardReader, runs: Sequence[int] = (0,)) -> None:
    """Adds all rows of a read shard to an open one, slab by slab; the index is moved by the rows that were there.

    runs: the place that each of its runs has in the open one's root attribute `runs`."""
    first_row = shard.steps
    places = np.asarray(runs)
    for group in reader.layout:
        for _, rows in reader.slabs(group):
            if group == INDEX:
                rows["start"] = rows["start"] + first_row
                rows["run"] = places[np.clip(rows["run"], 0, len(places) - 1)]
            shard.append_group(group, rows, len(next(iter(rows.values()))))


def _finish(found: Salvaged, partial: Path, remove: bool) -> Salvaged:
    if remove:
        try:
            partial.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(partial, "delete", error) from error
    return Salvaged(**{**asdict(found), "removed": remove})
