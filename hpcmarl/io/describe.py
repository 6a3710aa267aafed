"""Content and state of files, for `hpcmarl data inspect` and `hpcmarl data verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.activity import read_activity
from hpcmarl.io.atomic import PARTIAL
from hpcmarl.io.checkpoint import list_checkpoints, verify_checkpoint
from hpcmarl.io.hdf5.schema import (
    ACTIVITY,
    CHECKPOINT,
    METRICS,
    SIMULATION,
    SNAPSHOT,
    TRAJECTORIES,
    open_checked,
    read_attributes,
    reading,
)
from hpcmarl.io.hdf5.state_file import read_state
from hpcmarl.io.metrics import CSV, GROUPS_NPY, read_hdf5, read_hdf5_groups, read_summary, verify_hdf5
from hpcmarl.io.pool import verify_snapshot
from hpcmarl.io.row_files import check_csv, count_rows, load_npy
from hpcmarl.io.run_state import read_run_state
from hpcmarl.io.simulation import read_simulation
from hpcmarl.io.starts import DIRECTORY as STARTS
from hpcmarl.io.starts import read_start, read_starts
from hpcmarl.io.trajectories.layout import ENVIRONMENT
from hpcmarl.io.trajectories.live_segments import RolloutSpans, SupersededCounts, as_plain
from hpcmarl.io.trajectories.salvage import list_partials
from hpcmarl.io.trajectories.shard import is_live
from hpcmarl.io.trajectories.shard_reader import ShardReader, list_shards, verify_shard

GOOD, BAD, OPEN = "good", "bad", "open"


def file_kind(path: Path) -> str:
    """Return the format of a finished HDF5 file. Only its root attributes are checked.

    Raises:
        FormatError: If it is not a readable file of hpcmarl.
    """
    with open_checked(path, None, contents=False) as file, reading(path):
        return str(file.attrs["format"])


def run_files(path: Path) -> Iterator[Path]:
    """Yield the files of a directory that can be verified, including temporary ones; a file yields itself."""
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if (
            file.suffix in (".h5", PARTIAL)
            or file.name in (CSV, GROUPS_NPY, "summary.json")
            or _is_start(file)
        ):
            yield file


def _is_start(path: Path) -> bool:
    return path.parent.name == STARTS and path.suffix == ".json"


def verify_file(path: Path, note: Callable[[ShardReader], object] | None = None) -> dict[str, Any]:
    """Read a whole file and report whether it is good.

    Args:
        path: The file.
        note: Called with each shard while it is open, see `verify_shard`.

    Returns:
        A dictionary of "path", "status" (good, bad, or open for a temporary file) and "reason" (one line,
        empty if the file is good).
    """
    try:
        if path.name.endswith(PARTIAL):
            reason = (
                "being written" if is_live(path) else "left by a killed writer; see `hpcmarl data salvage`"
            )
            return {"path": str(path), "status": OPEN, "reason": reason}
        if path.name == CSV:
            check_csv(path)
        elif path.name == GROUPS_NPY:
            load_npy(path)
        elif _is_start(path):
            read_start(path)
        elif path.suffix == ".json":
            read_summary(path)
        else:
            {
                TRAJECTORIES: lambda shard: verify_shard(shard, note),
                CHECKPOINT: verify_checkpoint,
                SNAPSHOT: verify_snapshot,
                METRICS: verify_hdf5,
                SIMULATION: read_simulation,
                ACTIVITY: read_activity,
            }[file_kind(path)](path)
    except (HpcmarlError, OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        if path.name.startswith("shard-") and "damaged" in reason and "data salvage" not in reason:
            reason += f"; `hpcmarl data salvage {path}` recovers the undamaged segments"
        return {"path": str(path), "status": BAD, "reason": reason}
    return {"path": str(path), "status": GOOD, "reason": ""}


def verify_paths(
    paths: Sequence[Path], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Read all files of some paths, and compare the shards of each directory.

    Args:
        paths: Files and directories.
        on_progress: Called after each file with the bytes done and all bytes.

    Returns:
        The result of `verify_file` for each file, with one more for each shard that holds the rollouts of
        another one; and the superseded trajectories in the directories, see `superseded`.
    """
    found: list[dict[str, Any]] = []
    doubles: list[tuple[Path, str]] = []
    counts = SupersededCounts()
    files = {path: list(run_files(path)) for path in paths}
    done, total = 0, sum(_size(file) for own in files.values() for file in own)
    for path, own in files.items():
        spans = RolloutSpans()

        def note(reader: ShardReader, spans: RolloutSpans = spans) -> None:
            if reader.path.match("shard-*.h5"):
                spans.note(reader)
                counts.note(reader)

        for file in own:
            size = _size(file)
            found.append(verify_file(file, note if path.is_dir() else None))
            on_progress(done := done + size, total)
        doubles += spans.overlaps()
    found += [{"path": str(shard), "status": BAD, "reason": why} for shard, why in doubles]
    return found, counts.by_start


def _size(path: Path) -> int:
    """Return the size of a file, bytes; 0 if it has gone, as a temporary file of a running writer may."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def describe(path: Path) -> dict[str, Any]:
    """Return the content of a file or run directory as plain values, with units in the keys.

    Raises:
        FormatError: If a file cannot be read.
    """
    if path.is_dir():
        return _describe_run(path)
    if path.name.endswith(PARTIAL):
        return {**_describe_shard(path, partial=True), "writer_alive": is_live(path)}
    kind = file_kind(path)
    if kind == TRAJECTORIES:
        return _describe_shard(path, partial=False)
    if kind == SIMULATION:
        return _describe_simulation(path)
    if kind == ACTIVITY:
        return _describe_activity(path)
    return _describe_state(path, kind) if kind in (CHECKPOINT, SNAPSHOT) else _describe_metrics(path)


def _root(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in attributes.items() if key != "config"}
    return {"path": str(path), **shown, "bytes": path.stat().st_size}


def _describe_shard(
    path: Path, *, partial: bool, note: Callable[[ShardReader], object] | None = None
) -> dict[str, Any]:
    with ShardReader(path, partial=partial) as shard:
        if note is not None:
            note(shard)
        with reading(path):
            attributes = read_attributes(shard.file)
        index = shard.index
        ended = index["terminated"] | index["truncated"]
        returns = index["return_mean"][np.isfinite(index["return_mean"])]
        groups = {
            name.removeprefix("steps/"): group
            for name, group in shard.layout.items()
            if name.startswith("steps/")
        }
        return {
            **_root(path, attributes),
            "steps": shard.steps,
            "segments": shard.segments,
            "episodes_ended": int(ended.sum()),
            "return_mean": float(returns.mean()) if len(returns) else None,
            "versions": [int(index["version"].min()), int(index["version"].max())]
            if shard.segments
            else None,
            "policies": {
                name: {key: f"{column.dtype}{list(column.sizes)}" for key, column in group.columns.items()}
                for name, group in groups.items()
                if name != ENVIRONMENT
            },
            "environment": {
                key: f"{column.dtype}{list(column.sizes)}"
                for key, column in groups[ENVIRONMENT].columns.items()
            },
        }


def _outline(tree: Any, depth: int = 0) -> Any:
    if isinstance(tree, dict):
        return (
            {key: _outline(value, depth + 1) for key, value in tree.items()}
            if depth < 3
            else f"{len(tree)} entries"
        )
    if isinstance(tree, np.ndarray):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, list):
        return f"list of {len(tree)}"
    return tree if not isinstance(tree, str) or len(tree) < 100 else f"text of {len(tree)} characters"


def _describe_state(path: Path, kind: str) -> dict[str, Any]:
    state, attributes = read_state(path, kind)
    return {**_root(path, attributes), "state": _outline(state)}


def _describe_metrics(path: Path) -> dict[str, Any]:
    columns = read_hdf5(path)
    with open_checked(path, METRICS) as file, reading(path):
        attributes = read_attributes(file)
    last = {name: float(values[-1]) for name, values in columns.items() if len(values)}
    rows = {"rows": len(next(iter(columns.values()), ()))}
    if (groups := read_hdf5_groups(path)) is not None:
        rows |= {
            "group_rows": len(groups.version),
            "groups": next((values.shape[1] for values in groups.figures.values()), 0),
        }
    return {**_root(path, attributes), **rows, "last_row": last}


def _describe_activity(path: Path) -> dict[str, Any]:
    activity = read_activity(path)
    with open_checked(path, ACTIVITY) as file, reading(path):
        attributes = read_attributes(file)
    totals = activity.spent[-1].sum(axis=0) if len(activity.spent) else np.zeros(len(activity.activities))
    return {
        **_root(path, attributes),
        "ranks": len(activity.ranks),
        "rows": len(activity.seconds),
        "seconds": dict(zip(activity.activities, map(float, totals), strict=True)),
    }


def _describe_simulation(path: Path) -> dict[str, Any]:
    found, attributes = read_simulation(path)
    rows = [
        {name: case[name] for name in ("setting", "method", "batch")} | {"seeds": len(case["outcomes"])}
        for case in found
    ]
    return {**_root(path, attributes), "cases": rows}


def _describe_run(path: Path) -> dict[str, Any]:
    shards, bad, counts = [], [], SupersededCounts()
    for shard in list_shards(path):
        try:
            shards.append(_describe_shard(shard, partial=False, note=counts.note))
        except FormatError as error:
            bad.append(str(error))
    summary = path / "summary.json"
    checkpoints = list_checkpoints(path)
    try:
        status = read_summary(summary).get("status") if summary.exists() else None
    except FormatError:
        status = None
    return {
        "path": str(path),
        "format": "run directory",
        "status": status if isinstance(status, str) else None,
        "state": read_run_state(path).sentence(),
        "shards": len(shards),
        "bad_shards": bad,
        "temporary_files": len(list_partials(path)),
        "trajectory_bytes": sum(shard["bytes"] for shard in shards),
        "steps": sum(shard["steps"] for shard in shards),
        "segments": sum(shard["segments"] for shard in shards),
        "episodes_ended": sum(shard["episodes_ended"] for shard in shards),
        "superseded": as_plain(counts.by_start),
        "starts": sorted(read_starts(path)),
        "environments": sorted({str(shard.get("env")) for shard in shards}),
        "ranks": sorted({shard.get("rank") for shard in shards}),
        "checkpoints": [checkpoint.name for checkpoint in checkpoints],
        "metrics_rows": count_rows(path / CSV) if (path / CSV).exists() else 0,
    }
