"""Memory of this process, and memory that the machine or its cgroup has available."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def resident_memory() -> float:
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0


def available_memory() -> float | None:
    """Return the memory available to the job, in bytes.

    Returns:
        Available memory of the machine, or the limit of a cgroup of this process if that is lower. None if
        the system reports neither.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(
            float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
        )
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = Path("/sys/fs/cgroup") / controllers
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                own = root / path.lstrip("/")
                found += [
                    limit
                    for place in (own, *own.parents)
                    if place.is_relative_to(root) and (limit := _limit(place / name))
                ]
    return min(found, default=None)


def _limit(path: Path) -> float | None:
    """Return the number in a cgroup file; None for "max" or if the file cannot be read."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
