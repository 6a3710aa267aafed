"""State of a run, read from its files alone: running, finished, interrupted, failed or killed.

Any process on the shared file system can ask, on another node as well. Nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.metrics import CSV, read_summary
from hpcmarl.io.run_lock import NAME as LOCK
from hpcmarl.io.run_lock import STALE_SECONDS, read_owner
from hpcmarl.io.starts import Start, read_starts

State = Literal["empty", "running", "finished", "interrupted", "failed", "killed"]


@dataclass(frozen=True)
class RunState:
    """State of a run.

    Attributes:
        state: "empty": no start is recorded. "running": a job holds and renews the lock. "killed": the newest
            start has neither a summary nor a living owner. The others are the summary's own status.
        began: Time of the newest start, seconds since the epoch; None: no start is recorded.
        updated: Time of the newest metrics row, seconds since the epoch; None: there is none.
        starts: Number of starts.
        owner: Facts about the job that holds the lock, such as host, process and job; empty if none does.
        summary: summary.json of the newest start; None: it has not written one.
    """

    state: State
    began: float | None
    updated: float | None
    starts: int
    owner: dict[str, Any]
    summary: dict[str, Any] | None

    def sentence(self) -> str:
        """Return the state in one line, such as "running since 2026-01-01 12:00 on node3"."""
        since = "" if self.began is None else _clock(self.began)
        update = "no update yet" if self.updated is None else f"last update {_clock(self.updated)}"
        if self.state == "empty":
            return "not started"
        if self.state == "running":
            host = self.owner.get("host")
            return f"running since {since}" + (f" on {host}" if host else "") + f", {update}"
        if self.state == "killed":
            return f"killed (started {since}, {update})"
        reason = self.summary.get("error") if self.state == "failed" and self.summary else None
        return f"{self.state} (started {since})" + (f": {reason}" if isinstance(reason, str) else "")


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def read_run_state(directory: str | os.PathLike[str]) -> RunState:
    """Return the state of a run directory. Damaged files count as missing."""
    path = Path(directory)
    starts: dict[int, Start] = {}
    with contextlib.suppress(HpcmarlError):
        starts = read_starts(path)
    newest = starts.get(max(starts, default=0))
    began = _began(path, newest)
    summary = _summary(path, began)
    owner: dict[str, Any] = {}
    if (age := _age(path / LOCK)) is not None and age < STALE_SECONDS:
        with contextlib.suppress(HpcmarlError, OSError):
            owner = read_owner(path) or {}
    state: State = "killed"
    if summary is not None and summary.get("status") == "failed":
        state, owner = "failed", {}  # the lock of an aborted job stays until it is stale
    elif owner:
        state = "running"
    elif summary is not None and summary.get("status") in ("finished", "interrupted"):
        state = summary["status"]
    elif newest is None and not (path / CSV).exists():
        state = "empty"
    return RunState(state, began, _modified(path / CSV), len(starts), owner, summary)


def _began(path: Path, start: Start | None) -> float | None:
    """Return the time of a start, seconds since the epoch."""
    if start is None:
        return None
    try:
        return datetime.fromisoformat(str(start.facts["created"])).timestamp()
    except (KeyError, ValueError):
        return _modified(path / "starts" / f"start-{start.number:04d}.json")


def _summary(path: Path, began: float | None) -> dict[str, Any] | None:
    """Return summary.json, unless an earlier start has written it."""
    written = _modified(path / "summary.json")
    if written is None or (began is not None and written < began):
        return None
    try:
        return read_summary(path / "summary.json")
    except FormatError:
        return None


def _age(path: Path) -> float | None:
    modified = _modified(path)
    return None if modified is None else time.time() - modified


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
