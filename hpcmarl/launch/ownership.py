"""Who this process is, for the lock of a run directory, and whether such an owner has ended."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcmarl.launch.processes import started_at

BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_owner(environ: Mapping[str, str]) -> dict[str, Any]:
    """Describe this process.

    Returns:
        host, process (its number), started (clock ticks since boot), machine (boot and process namespace:
        process numbers mean something only there), job and restart (of Slurm; empty and 0 elsewhere).
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
    """Return the Slurm job of these variables, with the array's task; empty outside Slurm."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID", "")


def is_gone(owner: Mapping[str, Any], environ: Mapping[str, str]) -> bool | None:
    """Judge whether the owner of a lock has ended.

    Returns:
        True: it has, False: it lives, None: nothing here proves either. The same process counts as ended: it
        goes on from itself. An earlier start of the same Slurm job has ended, since Slurm requeues a job only
        then.
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
    """The boot of this kernel and the process namespace; empty where the system does not tell."""
    try:
        return f"{BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
