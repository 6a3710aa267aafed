"""Recovers what killed writers and failing disks left: open and damaged shards become valid ones, never over
an existing file.

Called by `hpcmarl data salvage`. What the writer had committed (see shard.py) is copied into a new file with
the shard's final name; the temporary file stays unless its removal is asked for. Of a damaged shard the
segments are copied whose chunks are whole. The copy of a finished one takes its name, and the damaged file is
kept beside it as *.damaged. Knows no rollout.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hpcmarl.errors import FormatError, HpcmarlError, StorageError
from hpcmarl.io.atomic import NO_HARD_LINKS, PARTIAL, fsync_path, storage_error
from hpcmarl.io.hdf5.schema import read_attributes
from hpcmarl.io.hdf5.unclosed_file import has_beginning
from hpcmarl.io.trajectories.layout import INDEX
from hpcmarl.io.trajectories.shard import ShardFile, is_live
from hpcmarl.io.trajectories.shard_reader import ShardReader, check_shard, list_shards, verify_shard

_COPY = ".salvage"
DAMAGED = ".damaged"


@dataclass(frozen=True)
class Salvaged:
    """What became of one temporary file. lost_steps: rows that were begun and not committed (what was never
    written is unknown)."""

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
    return (
        sorted(file for file in path.rglob("*" + PARTIAL) if not file.is_dir()) if path.is_dir() else [path]
    )


def salvage(path: Path, *, remove: bool = False) -> list[Salvaged]:
    """Recover the temporary files under `path`, and the finished shards whose structure is damaged.

    Args:
        path: a directory or a file. A file is read whole; of a directory's finished shards the structure
            alone is looked at.
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
        return _finish(
            Salvaged(name, "unneeded", "left by an interrupted write; the last good file is beside it"),
            partial,
            remove,
        )
    if final.exists():
        try:
            verify_shard(final)
        except HpcmarlError as error:
            return Salvaged(name, "failed", f"{final.name} exists and is bad, move it away first: {error}")
        if (holder := _holder(partial, final)) is not None:
            return _finish(
                Salvaged(name, "done", f"{holder.name} exists and is good", str(holder)), partial, remove
            )
    try:
        if not has_beginning(partial):
            return _finish(Salvaged(name, "empty", "its writer died before the first row"), partial, remove)
        try:
            found = _recover_committed(partial, final)
        except FormatError as error:
            found = _recover_whole(partial, final, str(error))
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(partial, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return found if found.status == "failed" else _finish(found, partial, remove)


def _holder(partial: Path, final: Path) -> Path | None:
    """Return the finished shard that was made of a temporary one: not always `final`, which may be another
    writer's. No segment is in two shards."""
    if os.path.samefile(partial, final):
        return final
    try:
        wanted = _segments_of(partial, partial=True)
    except FormatError:
        try:
            wanted = _segments_of(partial, damaged=True)
        except FormatError:
            return final  # nothing can be got from it
    for shard in [final, *(other for other in list_shards(final.parent) if other != final)]:
        with contextlib.suppress(FormatError):
            if not wanted or wanted & _segments_of(shard):
                return shard
    return None


def _segments_of(shard: Path, *, partial: bool = False, damaged: bool = False) -> set[tuple[Any, ...]]:
    """Return the rows of the index without their places in the file."""
    with ShardReader(shard, partial=partial, damaged=damaged) as reader:
        if damaged:
            reader.select(reader.whole())
        columns = [
            values.tolist()
            for name, values in sorted(reader.index.items())
            if name not in ("start", "return_mean")
        ]
        return set(zip(*columns, strict=True))


def _recover_committed(partial: Path, final: Path) -> Salvaged:
    """Copy what a killed writer had committed. Raises FormatError where the file is damaged besides,
    StorageError."""
    with ShardReader(partial, partial=True) as reader:
        lost = reader.step_rows() - reader.steps
        if not reader.segments:
            return Salvaged(
                str(partial), "empty", "nothing was committed before the writer died", lost_steps=lost
            )
        output = copy_shard(reader, final)
        note = f"killed while {', '.join(sorted(reader.torn))} was being written" if reader.torn else ""
        return Salvaged(str(partial), "recovered", note, str(output), reader.steps, reader.segments, lost)


def _recover_whole(
    shard: Path, final: Path, why: str, *, aside: Callable[[], Path] | None = None
) -> Salvaged:
    """Copy the segments of a damaged shard whose chunks are whole.

    Args:
        shard: the damaged file.
        final: name of the copy.
        why: what is wrong with the damaged file.
        aside: called when the copy is whole; gives the damaged file another name, so that the copy can
            replace it.

    Raises:
        FormatError, StorageError, OSError: not even the structure is there, or the disk fails.
    """
    why = why.removeprefix(f"{shard}: ")
    try:
        reader = ShardReader(shard, damaged=True)
    except FormatError:
        return Salvaged(str(shard), "failed", f"{shard}: {why}")
    with reader:
        declared, begun = reader.segments, reader.step_rows()
        reader.select(reader.whole())
        if not reader.segments:
            return Salvaged(
                str(shard), "failed", f"{shard}: no segment of it is whole: {why}", lost_steps=begun
            )
        kept: list[Path] = []
        output = copy_shard(reader, final, None if aside is None else lambda: kept.append(aside()))
        note = f"{declared - reader.segments} of {declared} segments are lost: {why}"
        note += f"; the damaged file is {kept[0].name}" if kept else ""
        return Salvaged(
            str(shard), "recovered", note, str(output), reader.steps, reader.segments, begun - reader.steps
        )


def _salvage_finished(shard: Path, *, remove: bool) -> Salvaged:
    """Replace a finished, damaged shard by its whole segments; the damaged file is kept beside it."""
    name = str(shard)
    if not shard.name.startswith("shard-") or shard.suffix != ".h5":
        return Salvaged(
            name, "failed", f"only shards (shard-*.h5) and temporary files (*{PARTIAL}) can be recovered"
        )
    kept: list[Path] = []
    try:
        verify_shard(shard)
        return Salvaged(name, "unneeded", "the shard is good")
    except FormatError as error:
        why = str(error)

    def aside() -> Path:
        kept.append(_keep_aside(shard))
        return kept[0]

    try:
        found = _recover_whole(shard, shard, why, aside=aside)
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(shard, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return _finish(found, kept[0], remove) if kept else found


def _keep_aside(shard: Path) -> Path:
    """Give a damaged shard a second name that nobody has, and return it. Raises OSError."""
    for number in count():
        kept = shard.with_name(shard.name + DAMAGED + (f"-{number}" if number else ""))
        try:
            os.link(shard, kept)
            return kept
        except FileExistsError:
            if os.path.samefile(shard, kept):  # an earlier attempt was killed here
                return kept
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            with contextlib.suppress(FileExistsError):
                with shard.open("rb") as source, kept.open("xb") as target:
                    shutil.copyfileobj(source, target)
                fsync_path(kept)
                return kept
    raise AssertionError("unreachable")


def copy_shard(reader: ShardReader, final: Path, make_way: Callable[[], object] | None = None) -> Path:
    """Write the committed, or selected, rows of a shard as a new file, which is read back whole before it has
    its name.

    Args:
        reader: the opened shard.
        final: name of the new file.
        make_way: called when the new file is whole but for its name; then the new file replaces `final`.
            Without it no file is replaced, and the new one has the next free number where `final` is taken.

    Returns:
        The new file.

    Raises:
        StorageError: the disk fails.
        FormatError: the new file, or the one that is read, does not verify.
    """
    # another process may do the same
    partial = final.with_name(f"{final.name}.{uuid4().hex[:12]}{_COPY}{PARTIAL}")

    def verify(written: Path) -> None:
        verify_shard(written)
        if make_way is not None:
            make_way()

    try:
        shard = ShardFile(
            final, reader.layout, {**read_attributes(reader.file), "salvaged": True}, partial=partial
        )
        try:
            append_shard(shard, reader)
            shard.close(verify=verify, replace=make_way is not None)
        except BaseException:
            shard.abandon()
            partial.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError, ValueError) as error:
        raise storage_error(final, "write", error) from error
    return shard.path


def append_shard(shard: ShardFile, reader: ShardReader, runs: Sequence[int] | None = None) -> None:
    """Adds all rows of a read shard to an open one, slab by slab; the index is moved by the rows that were
    there.

    runs: the place that each of its runs has in the open one's root attribute `runs`; default: the same
    one."""
    first_row = shard.steps
    for group in reader.layout:
        for _, rows in reader.slabs(group):
            if group == INDEX:
                rows["start"] = rows["start"] + first_row
                if runs is not None:
                    rows["run"] = np.asarray(runs)[np.clip(rows["run"], 0, len(runs) - 1)]
            shard.append_group(group, rows, len(next(iter(rows.values()))))


def _finish(found: Salvaged, partial: Path, remove: bool) -> Salvaged:
    if remove:
        try:
            partial.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(partial, "delete", error) from error
    return Salvaged(**{**asdict(found), "removed": remove})
