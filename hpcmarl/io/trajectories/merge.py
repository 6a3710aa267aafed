"""Merging of many shards into one file of the same layout, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmarl.errors import FormatError, HpcmarlError, UsageError
from hpcmarl.io.atomic import storage_error
from hpcmarl.io.hdf5.schema import read_attributes
from hpcmarl.io.trajectories.layout import Layout
from hpcmarl.io.trajectories.live_segments import LiveSegments, RolloutSpans, runs_of
from hpcmarl.io.trajectories.salvage import append_shard
from hpcmarl.io.trajectories.shard import ShardFile
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards


def collect_shards(paths: Sequence[Path]) -> list[Path]:
    """Return all shards of the given files and directories, in order and once each.

    Raises:
        UsageError: If there are none.
    """
    shards = list(dict.fromkeys(shard.resolve() for path in paths for shard in list_shards(path)))
    if not shards:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no finished shards (shard-*.h5) there; after a kill try `hpcmarl "
            "data salvage`"
        )
    return shards


def _shape(layout: Layout) -> Any:
    """Return the parts of a layout that must be equal: everything except the attributes of datasets."""
    return {
        path: replace(
            group, columns={name: replace(column, attributes={}) for name, column in group.columns.items()}
        )
        for path, group in layout.items()
    }


def _in_common(shards: Sequence[Path]) -> tuple[Layout, dict[str, Any]]:
    """Return the layout of all shards and the root attributes of their merged file.

    Each shard is opened once.

    Raises:
        UsageError: If two shards hold the same rollouts, or their layouts or environments differ.
        FormatError: If a shard is damaged.
    """
    spans, runs = RolloutSpans(), dict[str, None]()
    problem: HpcmarlError | None = None
    first: tuple[Layout, dict[str, Any]] | None = None
    for shard in shards:
        try:
            with ShardReader(shard) as reader:
                spans.note(reader)
                own, layout = read_attributes(reader.file), reader.layout
                runs |= dict.fromkeys(runs_of(reader))
        except FormatError as error:
            problem = problem or error
            continue
        if first is None:
            first = layout, own
        attributes = first[1]
        if _shape(layout) != _shape(first[0]) or own.get("env") != attributes.get("env"):
            environments = f"{own.get('env')} and {attributes.get('env')}"
            problem = problem or UsageError(
                f"{shard}: another environment or layout than {shards[0]} ({environments}); merge them "
                "separately"
            )
        attributes["rank"] = attributes["rank"] if own.get("rank") == attributes["rank"] else -1
    spans.refuse()
    if problem is not None:
        raise problem
    assert first is not None
    layout, attributes = first
    return layout, {**attributes, "merged_from": [str(shard) for shard in shards], "runs": list(runs)}


def merge_shards(
    paths: Sequence[Path],
    output: Path,
    compression: str = "none",
    *,
    superseded: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, int]:
    """Write all shards of `paths` into one file.

    The root attributes are those of the first shard. `merged_from` lists the files, `runs` lists the runs,
    and `rank` is -1 if the ranks differ. Every segment keeps its run, start, rank and rollout.

    Args:
        paths: Files and directories.
        output: The new file.
        compression: Compression of the new file.
        superseded: Include segments that later starts of the runs have superseded.
        on_progress: Called at the beginning and after each shard, with the bytes of the copied shards and of
            all.

    Returns:
        Numbers of shards, steps, segments and bytes, and superseded_segments, the number of segments that
        were left out.

    Raises:
        UsageError: If `output` exists, the shards differ in environment or layout, two shards hold the same
            rollouts, or no segment is left.
        FormatError: If a shard is damaged.
        StorageError: If the disk fails.
    """
    if output.exists():
        raise UsageError(f"--out {output}: exists; choose another name or delete it first")
    shards = collect_shards(paths)
    layout, attributes = _in_common(shards)
    runs = {name: place for place, name in enumerate(attributes["runs"])}
    live, left_out = LiveSegments(), 0
    sizes = [shard.stat().st_size for shard in shards]
    on_progress(0, sum(sizes))
    try:
        merged = ShardFile(output, layout, attributes, compression)
        try:
            for number, shard in enumerate(shards, start=1):
                with ShardReader(shard) as reader:
                    whole = reader.segments
                    if not superseded:
                        live.select(reader)
                    left_out += whole - reader.segments
                    append_shard(merged, reader, [runs[name] for name in runs_of(reader)])
                on_progress(sum(sizes[:number]), sum(sizes))
            if not merged.segments:
                where = ", ".join(map(str, paths))
                raise UsageError(
                    f"{where}: all {left_out} segments are superseded by later starts; include them with "
                    "--superseded"
                )
            merged.close()
        except BaseException:
            merged.abandon()
            merged.partial.unlink(missing_ok=True)
            raise
        counts = {
            "shards": len(shards),
            "steps": merged.steps,
            "segments": merged.segments,
            "bytes": output.stat().st_size,
        }
        return {**counts, "superseded_segments": left_out}
    except (OSError, RuntimeError, ValueError) as error:
        raise storage_error(output, "write", error) from error
