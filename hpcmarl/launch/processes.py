"""Start times of processes, which distinguish a process from a later one with the same number."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def started_at(pid: int) -> int:
    """Return the start time of a process on this machine.

    Args:
        pid: Process number.

    Returns:
        Clock ticks since boot; 0 if the process has ended or the system has no /proc.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def kill_process(pid: int, start: int) -> bool:
    """Send SIGKILL to a process unless its number now belongs to another process.

    Args:
        pid: Process number.
        start: Start time of the process, from `started_at`.

    Returns:
        Whether the signal was sent.
    """
    if start == 0 or started_at(pid) != start:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
