"""Telling one process from a later one that was given the same number, and ending it. Called by roles/; knows
no MPI."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def started_at(pid: int) -> int:
    """When a process of this machine was started, in clock ticks since boot; 0 where it is gone or the system
    does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def kill_process(pid: int, start: int) -> bool:
    """SIGKILL to the process `pid` if it is still the one that was started at `start`; whether it was
    sent."""
    if start == 0 or started_at(pid) != start:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
