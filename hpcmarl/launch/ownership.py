"""Identity of the process that owns the lock of a run directory, and a check whether that owner has ended."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcmarl.launch.processes import started_at

BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_owner(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the identity of this process for a lock.

    Args:
        environ: Environment variables of this process.

    Returns:
        host: Name of the host.
        process: Process number.
        started: Start time in clock ticks since boot.
        machine: Boot and process namespace; process numbers are valid only within them.
        job: Slurm job; empty outside Slurm.
        restart: Number of requeues of the Slurm job; 0 outside Slurm.
    """
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "started": started_at(os.getpid()),
        "machine": _machine(),
        "job": job_name(environ),
        "restart": int(restart) if restart.isdecimal() else 0,
    }


def job_name(environ: Mapping[str, str]) -> str:
    """Return the Slurm job, for array jobs JOB_TASK; empty outside Slurm."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID", "")


def is_gone(owner: Mapping[str, Any], environ: Mapping[str, str]) -> bool | None:
    """Return whether the owner of a lock has ended.

    Args:
        owner: Identity of the owner, from `this_owner`.
        environ: Environment variables of this process.

    Returns:
        True if it has ended, False if it is alive, None if this process cannot tell. This process itself
        counts as ended, so that it can take over its own lock. An earlier start of the same Slurm job counts
        as ended, because Slurm requeues a job only after its end.
    """
    here = this_owner(environ)
    process, started = owner.get("process"), owner.get("started")
    if (
        here["machine"]
        and owner.get("machine") == here["machine"]
        and isinstance(process, int)
        and isinstance(started, int)
    ):
        return process == here["process"] or started == 0 or started_at(process) != started
    restart = owner.get("restart")
    if (
        here["job"]
        and owner.get("job") == here["job"]
        and isinstance(restart, int)
        and restart < here["restart"]
    ):
        return True
    return None


def _machine() -> str:
    """Return the boot id and the process namespace of this machine; empty if they are unknown."""
    try:
        return f"{BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
