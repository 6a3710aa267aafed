"""Recovery of shards that killed writers or failing disks left open or damaged.

The committed rows of an open shard (see shard.py) are copied into a new file with the final name of the
shard. The temporary file stays, unless its removal is requested. Of a damaged shard, the segments whose
chunks are all good are copied. If a finished shard is damaged, the copy takes its name, and the damaged file
is kept beside it as *.damaged. No other file is ever replaced.
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
    """Result for one file.

    Attributes:
        path: The file.
        status: "recovered" (a new shard was written), "empty" (the file held nothing), "live" (its writer is
            running), "done" (a good shard with its content exists), "unneeded" (nothing had to be recovered)
            or "failed".
        note: Explanation in one line.
        output: The shard that holds its content; None if no such shard exists.
        steps: Steps that were recovered.
        segments: Segments that were recovered.
        lost_steps: Steps in the file that were not recovered. Steps that were never written are not counted.
        removed: Whether the file was deleted.
    """

    path: str
    status: str
    note: str
    output: str | None = None
    steps: int = 0
    segments: int = 0
    lost_steps: int = 0
    removed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self)


def list_partials(path: Path) -> list[Path]:
    """List the temporary files below a directory; a file is returned as it is."""
    return (
        sorted(file for file in path.rglob("*" + PARTIAL) if not file.is_dir()) if path.is_dir() else [path]
    )


def salvage(
    path: Path,
    *,
    remove: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Salvaged]:
    """Recover temporary files, and finished shards whose structure is damaged.

    Args:
        path: A directory or a file. A file is read completely. For the finished shards of a directory only
            the structure is checked.
        remove: Delete files from which nothing more can be recovered.
        on_progress: Called at the beginning and after each file, with the numbers of files done
            and of all.

    Returns:
        One result for each file. A file that cannot be recovered is not an error.
    """
    damaged = [shard for shard in list_shards(path) if not _is_sound(shard)] if path.is_dir() else []
    files, results = [*list_partials(path), *damaged], list[Salvaged]()
    on_progress(0, len(files))
    for file in files:
        results.append(salvage_file(file, remove=remove))
        on_progress(len(results), len(files))
    return results


def _is_sound(shard: Path) -> bool:
    try:
        check_shard(shard)
    except FormatError:
        return False
    return True


def salvage_file(partial: Path, *, remove: bool = False) -> Salvaged:
    """Recover one temporary or damaged file.

    Args:
        partial: The file.
        remove: Delete it if nothing more can be recovered from it.

    Returns:
        The result.

    Raises:
        StorageError: If the file cannot be deleted.
    """
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
            result = _recover_committed(partial, final)
        except FormatError as error:
            result = _recover_whole(partial, final, str(error))
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(partial, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return result if result.status == "failed" else _finish(result, partial, remove)


def _holder(partial: Path, final: Path) -> Path | None:
    """Return the finished shard that was made from a temporary one; None if no such shard exists.

    It is not always `final`, which may have been written by another process. No segment is in two shards, so
    shards are compared by their segments.
    """
    if os.path.samefile(partial, final):
        return final
    try:
        segments = _segments_of(partial, partial=True)
    except FormatError:
        try:
            segments = _segments_of(partial, damaged=True)
        except FormatError:
            return final  # nothing can be recovered from the temporary file
    for shard in [final, *(other for other in list_shards(final.parent) if other != final)]:
        with contextlib.suppress(FormatError):
            if not segments or segments & _segments_of(shard):
                return shard
    return None


def _segments_of(shard: Path, *, partial: bool = False, damaged: bool = False) -> set[tuple[Any, ...]]:
    """Return the rows of the index of a shard, without the positions of segments in the file."""
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
    """Copy the rows that a killed writer had committed.

    Raises:
        FormatError: If the file is also damaged.
        StorageError: If the disk fails.
    """
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
    """Copy the segments of a damaged shard whose chunks are all good.

    Args:
        shard: The damaged file.
        final: Name of the copy.
        why: Description of the damage.
        aside: Called when the copy is complete. It gives the damaged file another name, so that the copy can
            replace it.

    Returns:
        The result.

    Raises:
        FormatError: If the damage prevents reading, or the copy does not verify.
        StorageError: If the disk fails.
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
                str(shard), "failed", f"{shard}: no segment is undamaged: {why}", lost_steps=begun
            )
        kept: list[Path] = []
        output = copy_shard(reader, final, None if aside is None else lambda: kept.append(aside()))
        note = f"{declared - reader.segments} of {declared} segments are lost: {why}"
        note += f"; the damaged file is {kept[0].name}" if kept else ""
        return Salvaged(
            str(shard), "recovered", note, str(output), reader.steps, reader.segments, begun - reader.steps
        )


def _salvage_finished(shard: Path, *, remove: bool) -> Salvaged:
    """Replace a finished, damaged shard by a copy of its good segments.

    The damaged file is kept beside it, unless `remove` is set.
    """
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
        result = _recover_whole(shard, shard, why, aside=aside)
    except OSError as error:
        return Salvaged(name, "failed", str(storage_error(shard, "read", error)))
    except (FormatError, StorageError) as error:
        return Salvaged(name, "failed", str(error))
    return _finish(result, kept[0], remove) if kept else result


def _keep_aside(shard: Path) -> Path:
    """Give a damaged shard a second name that is free, and return it.

    Raises:
        OSError: If the disk fails.
    """
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
    """Write the committed (or selected) rows of a shard as a new file.

    The new file is read back completely before it gets its final name.

    Args:
        reader: The open shard.
        final: Name of the new file.
        make_way: Called when the new file is complete. Then the new file replaces `final`. Without it no file
            is replaced: if `final` exists, the new file gets the next free number.

    Returns:
        The new file.

    Raises:
        StorageError: If the disk fails.
        FormatError: If the new file or the shard does not verify.
    """
    # Another process may salvage the same shard, so the temporary name is unique.
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
    """Append all rows of a shard to an open one, slab by slab.

    The start rows in the index are shifted by the rows that the open shard already had.

    Args:
        shard: The open shard.
        reader: The shard to copy.
        runs: For each run of `reader`, its position in the root attribute `runs` of the open shard; None:
            unchanged.
    """
    first_row = shard.steps
    for group in reader.layout:
        for _, rows in reader.slabs(group):
            if group == INDEX:
                rows["start"] = rows["start"] + first_row
                if runs is not None:
                    rows["run"] = np.asarray(runs)[np.clip(rows["run"], 0, len(runs) - 1)]
            shard.append_group(group, rows, len(next(iter(rows.values()))))


def _finish(result: Salvaged, partial: Path, remove: bool) -> Salvaged:
    if remove:
        try:
            partial.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(partial, "delete", error) from error
    return Salvaged(**{**asdict(result), "removed": remove})
