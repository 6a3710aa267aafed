"""How a run directory is opened: locked, checked, and given the record of one more start. Called by
train.prepare, on rank 0 alone.

Everything that can be refused is refused before a file changes. What a start goes on from, and what differs
from the start before, is collected in `remarks` and logged when logging begins.
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
# another value of these is another experiment: refused in the same directory unless --accept-changes is given
NOT_MEANT = ("env.id",)
OWN_NAME = "name"


@dataclass(frozen=True)
class Request:
    """What the user asked for: --run-dir, --resume and --accept-changes."""

    run_dir: str | None = None
    resume: str | None = None
    accept_changes: bool = False


@dataclass(frozen=True)
class Loaded:
    """A checkpoint."""

    path: Path
    state: dict[str, Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class OpenedRun:
    """A run directory that this start may write to.

    Attributes:
        state: what it goes on from; None: from nothing.
        remarks: lines for the log: what it goes on from, and what differs.
    """

    directory: Path
    state: dict[str, Any] | None
    lock: RunLock
    start: Start
    remarks: tuple[str, ...] = ()


def open_run(config: Config, request: Request, topology: Topology, library: str) -> OpenedRun:
    """Make the run directory, or go on in an existing one.

    Args:
        config: the present configuration.
        request: where to write and what to go on from.
        topology: the roles of this start's ranks.
        library: the MPI library, in words.

    Returns:
        The locked directory and the state to go on from.

    Raises:
        ConfigError: the directory is in use, is not empty, or belongs to another run; the checkpoint does not
            fit.
        FormatError: no checkpoint verifies where one was named.
        StorageError: the disk fails.
    """
    if request.resume is None:
        return _opened(config, request, topology, library, _new_directory(config, request.run_dir), None)
    if request.resume == "auto" and request.run_dir is None:
        home = newest_run(config.name)
        if home is None:
            return _opened(config, request, topology, library, _new_directory(config, None), None)
        return _opened(config, request, topology, library, home, home)
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
            f"--resume {source}: the file lies in no run's checkpoints/; say with --run-dir where the run is "
            "to go on"
        )
    return _opened(config, request, topology, library, target, source)


def _opened(
    config: Config, request: Request, topology: Topology, library: str, target: Path, source: Path | None
) -> OpenedRun:
    """Lock `target` and go on there from `source`, which may be the same directory; None: begin there."""
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
        directory.check(resuming=inside)  # another job may have been quicker
        if source is not None and inside:
            loaded, changes = _load(config, request, topology, source, inside=True)
        start = _next_start(target, loaded, _facts(topology, library))
        remarks = _remarks(config, start, loaded, changes)
        directory.create(
            dump_config(config), keep=f"start-{start.number - 1:04d}" if start.number > 1 else None
        )
        if source is not None:
            remarks += _clear_the_way(directory, loaded, start)
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
    """Return the newest directory under runs/ of a run of this very name that has a checkpoint; None where
    there is none."""
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
    """Load a checkpoint, or the newest of a directory that verifies.

    Args:
        inside: the run goes on in the checkpoint's own directory.

    Returns:
        The checkpoint and how its configuration differs from the present one; None where `--resume auto`
        finds none.

    Raises:
        ConfigError: the checkpoint does not fit.
        FormatError: it does not verify, or a named directory has none that does.
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
    """Refuse a checkpoint that does not fit; returns how its configuration differs from the present one."""
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
    refused = (*NOT_MEANT, OWN_NAME) if inside else NOT_MEANT
    found = next((change for change in changes if change.key in refused), None)
    if found is None or request.accept_changes:
        return changes
    what = "is of another environment" if found.key != OWN_NAME else "belongs to another run"
    raise ConfigError(
        f"--resume {loaded.path}: the checkpoint {what} ({found}); use its configuration (config.yaml in its "
        "run directory), another --run-dir, or say --accept-changes"
    )


def _next_start(target: Path, loaded: Loaded | None, facts: Mapping[str, Any]) -> Start:
    """Describe this start; its parent is the start that wrote the checkpoint, if that was in this
    directory."""
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
    """Where, when and with what this start runs."""
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


def _remarks(config: Config, start: Start, loaded: Loaded | None, changes: list[Difference]) -> list[str]:
    """Lines for the log: what this start goes on from, what is missing there and what differs."""
    facts = start.facts
    job = f"job {facts['job']}, " if facts["job"] else ""
    place = f"{job}process {facts['process']} on {facts['host']}, {facts['library']}"
    if loaded is None:
        again = (
            "no checkpoint to go on from, so it begins at version 0; what earlier starts recorded is "
            "superseded"
        )
        return [f"start {start.number} of {config.name} ({place}): {again}"] if start.number > 1 else []
    lines = [
        (
            f"start {start.number} of {config.name} ({place}): going on from version {start.version}, "
            f"{loaded.path}"
        )
    ]
    if missing := loaded.state.get("missing"):
        lines.append(
            f"{loaded.path} was written without the state of {', '.join(missing)}: those begin with fresh "
            "random numbers"
        )
    shown = [change for change in changes if change.key != OWN_NAME or start.parent is not None]
    lines += [f"changed since that checkpoint: {change}" for change in shown[:SHOWN_DIFFERENCES]]
    if len(shown) > SHOWN_DIFFERENCES:
        lines.append(f"changed since that checkpoint: {len(shown) - SHOWN_DIFFERENCES} more keys")
    return lines


def _clear_the_way(directory: RunDirectory, loaded: Loaded | None, start: Start) -> list[str]:
    """Move checkpoints that this start does not go on from aside, and have its own among the others. Returns
    lines for the log."""
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
    return [f"{len(moved)} checkpoints that are not gone on from are in {moved[0].parent}"]
