"""How much memory a process takes, and how much its machine or cgroup has left for the job."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def resident_memory() -> float:
    """Return the bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0


def available_memory() -> float | None:
    """Bytes that this machine has free for the job, or its cgroup's limit where that is lower; None where the
    system does not tell."""
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
    """The number in a cgroup's file; None for "max" and where the file is not there."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
