"""Open a run directory: lock it, check it, and record this start.

Rank 0 alone runs this code. Every check that can refuse the run comes before the first file changes. The log
does not exist yet at this point. Lines about the checkpoint and about changed settings are therefore
collected in `OpenedRun.remarks` and logged later.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hpcmarl
from hpcmarl.comm.topology import Topology
from hpcmarl.config import Config
from hpcmarl.config.differences import Difference, differences
from hpcmarl.config.file import dump_config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, FormatError, HpcmarlError
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint, load_newest, set_aside
from hpcmarl.io.run_directory import RunDirectory, home_of
from hpcmarl.io.run_lock import RunLock, acquire
from hpcmarl.io.starts import Start, read_starts, write_start
from hpcmarl.launch.ownership import is_gone, job_name, this_owner
from hpcmarl.roles.state_checks import check_fits, check_same_actors

logger = logging.getLogger(__name__)
SHOWN_DIFFERENCES = 20
# A run with another value of these keys is another experiment. It may not resume the checkpoint unless
# --accept-changes is given.
EXPERIMENT_KEYS = ("env.id",)
NAME_KEY = "name"


@dataclass(frozen=True)
class Request:
    """The user's options --run-dir, --resume and --accept-changes.

    Attributes:
        run_dir: Run directory; None: a new one below runs/, or the directory of the resumed run.
        resume: "auto", a run directory or a checkpoint file; None: a new run.
        accept_changes: Whether a checkpoint of another environment or another run is accepted.
    """

    run_dir: str | None = None
    resume: str | None = None
    accept_changes: bool = False


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        path: The file.
        state: State of the run.
        attributes: Root attributes of the HDF5 file.
    """

    path: Path
    state: dict[str, Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class OpenedRun:
    """A locked run directory that this start may write to.

    Attributes:
        directory: The run directory.
        state: State of the checkpoint that the run resumes from, with its `path`; None for a new run.
        lock: The lock on the directory.
        start: Record of this start.
        remarks: Lines for the log: the checkpoint that the run resumes from, and settings that differ.
    """

    directory: Path
    state: dict[str, Any] | None
    lock: RunLock
    start: Start
    remarks: tuple[str, ...] = ()


def open_run(config: Config, request: Request, topology: Topology, library: str) -> OpenedRun:
    """Create a run directory, or resume an existing run.

    Args:
        config: Configuration of this start.
        request: Output directory and checkpoint that the user named.
        topology: Roles of this start's ranks.
        library: Description of the MPI library, for the record of the start.

    Returns:
        The locked directory and the state to resume from.

    Raises:
        ConfigError: The directory is in use, is not empty, or belongs to another run; or the checkpoint does
            not fit the configuration.
        FormatError: The named file or directory holds no checkpoint that verifies.
        StorageError: The disk fails.
    """
    if request.resume is None:
        return _open_locked(config, request, topology, library, _new_directory(config, request.run_dir), None)
    if request.resume == "auto" and request.run_dir is None:
        home = newest_run(config.name)
        if home is None:
            return _open_locked(config, request, topology, library, _new_directory(config, None), None)
        return _open_locked(config, request, topology, library, home, home)
    source = Path(request.run_dir or "") if request.resume == "auto" else Path(request.resume)
    if request.resume != "auto" and not source.exists():
        raise ConfigError(
            f"--resume {request.resume}: no such file or directory; allowed: auto, a run directory or a "
            "checkpoint file"
        )
    target = Path(request.run_dir) if request.run_dir is not None else home_of(source)
    if request.resume == "auto":
        RunDirectory(source).check(resuming=True)
    if target is None:
        raise ConfigError(
            f"--resume {source}: the file is in no run's checkpoints/; name the directory of the resumed run "
            "with --run-dir"
        )
    return _open_locked(config, request, topology, library, target, source)


def _open_locked(
    config: Config, request: Request, topology: Topology, library: str, target: Path, source: Path | None
) -> OpenedRun:
    """Lock `target` and prepare it for this start.

    Args:
        config: Configuration of this start.
        request: The user's options.
        topology: Roles of this start's ranks.
        library: Description of the MPI library.
        target: Run directory to write to.
        source: Checkpoint or directory to resume from; it may be `target` itself. None: a new run.
    """
    directory = RunDirectory(target)
    home = None if source is None else home_of(source)
    inside = home is not None and home.resolve() == target.resolve()
    loaded, changes = (None, []) if source is None or inside else _load(config, request, topology, source)
    directory.check(resuming=inside)
    created = directory.make_root()
    lock: RunLock | None = None
    try:
        lock = acquire(
            target, this_owner(os.environ), lambda owner: is_gone(owner, os.environ), logger.warning
        )
        # Another job may have written to the directory before the lock was acquired.
        directory.check(resuming=inside)
        if source is not None and inside:
            loaded, changes = _load(config, request, topology, source, inside=True)
        start = _next_start(target, loaded, _facts(topology, library))
        remarks = _remarks(config, target, start, loaded, changes)
        directory.create(
            dump_config(config), keep=f"start-{start.number - 1:04d}" if start.number > 1 else None
        )
        if source is not None:
            remarks += _set_aside_superseded(directory, loaded, start)
        write_start(target, start)
    except BaseException:
        if lock is not None:
            lock.release()
        if created:
            directory.remove_if_empty()
        raise
    state = None if loaded is None else {**loaded.state, "path": str(loaded.path)}
    return OpenedRun(directory.path, state, lock, start, tuple(remarks))


def _new_directory(config: Config, run_dir: str | None) -> Path:
    if run_dir is not None:
        return Path(run_dir)
    first = Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 1000)))
    return next(path for path in candidates if not path.exists())


def newest_run(name: str) -> Path | None:
    """Return the newest run of this name below runs/ that has a valid checkpoint; None if none exists.

    The name must match exactly: `runs/NAME-DATE-TIME`, with an optional number behind it.
    """
    pattern = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
    runs = sorted(Path("runs").iterdir(), reverse=True) if Path("runs").is_dir() else []
    for run in runs:
        if pattern.fullmatch(run.name) and any(_verifies(path) for path in list_checkpoints(run)):
            return run
    return None


def _verifies(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except HpcmarlError as error:
        logger.warning("skipping a bad checkpoint: %s", error)
        return False
    return True


def _load(
    config: Config,
    request: Request,
    topology: Topology,
    source: Path,
    *,
    inside: bool = False,
) -> tuple[Loaded | None, list[Difference]]:
    """Load a checkpoint file, or the newest valid checkpoint of a directory.

    Args:
        config: Configuration of this start.
        request: The user's options.
        topology: Roles of this start's ranks.
        source: Checkpoint file, run directory or directory of checkpoints.
        inside: Whether the run continues in the checkpoint's own run directory.

    Returns:
        The checkpoint, and the differences between its configuration and the current one. (None, []) if
        `--resume auto` finds no valid checkpoint.

    Raises:
        ConfigError: The checkpoint does not fit the configuration.
        FormatError: The file does not verify, or the named directory holds no checkpoint that verifies.
    """
    if source.is_file():
        loaded = Loaded(source, *load_checkpoint(source))
        return loaded, _check(config, request, topology, loaded, inside=inside)
    found = load_newest(source)
    if found is None and request.resume != "auto":
        raise FormatError(
            f"--resume {source}: no checkpoint in it verifies; allowed: a run directory with "
            "checkpoints/checkpoint-*.h5"
        )
    if found is None:
        return None, []
    loaded = Loaded(*found)
    return loaded, _check(config, request, topology, loaded, inside=inside)


def _check(
    config: Config, request: Request, topology: Topology, loaded: Loaded, *, inside: bool
) -> list[Difference]:
    """Refuse a checkpoint that does not fit the configuration.

    Returns:
        The differences between the checkpoint's configuration and the current one.

    Raises:
        ConfigError: The checkpoint does not fit the configuration. Also without --accept-changes if a key of
            EXPERIMENT_KEYS differs, or, in the checkpoint's own directory, the name of the run.
    """
    if config.league is not None:
        from hpcmarl.league.runtime.startup import check_league_state

        check_league_state(
            config, describe(config.env, config.policies), loaded.state, loaded.path, request.run_dir
        )
    else:
        check_fits(config, loaded.state, loaded.attributes, loaded.path)
        check_same_actors(config, topology, loaded.state, loaded.path)
    before = loaded.attributes.get("config")
    changes = differences(before, config) if isinstance(before, str) and before else []
    refused = (*EXPERIMENT_KEYS, NAME_KEY) if inside else EXPERIMENT_KEYS
    conflict = next((change for change in changes if change.key in refused), None)
    if conflict is None or request.accept_changes:
        return changes
    problem = "is of another environment" if conflict.key != NAME_KEY else "belongs to another run"
    raise ConfigError(
        f"--resume {loaded.path}: the checkpoint {problem} ({conflict}); use its configuration (config.yaml "
        "in its run directory), another --run-dir, or --accept-changes"
    )


def _next_start(target: Path, loaded: Loaded | None, facts: Mapping[str, Any]) -> Start:
    """Describe this start.

    Its parent is the start that wrote the checkpoint, if that start belongs to the same run directory.
    """
    starts = read_starts(target)
    newest = starts[max(starts)] if starts else None
    start = Start(
        max(starts, default=0) + 1,
        facts=facts,
        run=newest.run if newest is not None else secrets.token_hex(8),
    )
    if loaded is None:
        return start
    version = int(loaded.attributes.get("version", 0))
    start = replace(start, version=version, checkpoint=str(loaded.path))
    origin = loaded.state.get("start")
    if not isinstance(origin, dict) or origin.get("run") != start.run or origin.get("number") not in starts:
        return start
    rollouts = {int(rank): int(count) for rank, count in origin["rollouts"].items()}
    return replace(start, parent=int(origin["number"]), rollouts=rollouts)


def _facts(topology: Topology, library: str) -> dict[str, Any]:
    """Return the date, host, process, job, number of ranks, MPI library and version of this start."""
    own = this_owner(os.environ)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": own["host"],
        "process": own["process"],
        "job": job_name(os.environ),
        "ranks": topology.size,
        "library": library,
        "hpcmarl_version": hpcmarl.__version__,
    }


def _remarks(
    config: Config, target: Path, start: Start, loaded: Loaded | None, changes: list[Difference]
) -> list[str]:
    """Return lines for the log: the checkpoint, roles whose state is missing in it, and changed settings.

    Args:
        config: Configuration of this start.
        target: Run directory of this start.
        start: This start.
        loaded: The checkpoint; None: there is none.
        changes: Differences from its configuration.
    """
    facts = start.facts
    job = f"job {facts['job']}, " if facts["job"] else ""
    place = f"{job}process {facts['process']} on {facts['host']}, {facts['library']}"
    if loaded is None:
        again = (
            "no checkpoint to resume from, so it begins at version 0; trajectories of earlier starts are "
            "superseded"
        )
        return [f"start {start.number} of {config.name} ({place}): {again}"] if start.number > 1 else []
    home = home_of(loaded.path)
    source = loaded.path if home is None else home
    forked = home is None or home.resolve() != target.resolve()
    verb = f"forked into {target} from" if forked else "resumed from"
    lines = [
        f"{verb} version {start.version} of {source} ({loaded.path.name}); start {start.number} of "
        f"{config.name}, {place}"
    ]
    if missing := loaded.state.get("missing"):
        lines.append(
            f"{loaded.path} was written without the state of {', '.join(missing)}: these begin with new "
            "random numbers"
        )
    shown = [change for change in changes if change.key != NAME_KEY or start.parent is not None]
    lines += [f"changed since that checkpoint: {change}" for change in shown[:SHOWN_DIFFERENCES]]
    if not shown:
        lines.append("the configuration is that of the checkpoint")
    if len(shown) > SHOWN_DIFFERENCES:
        lines.append(f"changed since that checkpoint: {len(shown) - SHOWN_DIFFERENCES} more keys")
    return lines


def _set_aside_superseded(directory: RunDirectory, loaded: Loaded | None, start: Start) -> list[str]:
    """Move superseded checkpoints aside, and copy the loaded checkpoint into this run directory.

    A checkpoint that is already in this directory stays where it is.

    Returns:
        Lines for the log.
    """
    label = f"start-{start.number:04d}"
    own = None if loaded is None else directory.checkpoints / loaded.path.name
    inside = own is not None and loaded is not None and own.exists() and own.samefile(loaded.path)
    moved = set_aside(
        directory.checkpoints, None if loaded is None else start.version, label, spare=own if inside else None
    )
    if loaded is not None and own is not None and not inside:
        write_atomically(own, lambda partial: shutil.copyfile(loaded.path, partial))
    if not moved:
        return []
    return [f"moved {len(moved)} superseded checkpoints to {moved[0].parent}"]
