"""End time of the Slurm job that contains this process.

From Slurm 22.05 on, jobs have the variable SLURM_JOB_END_TIME. In older versions `job_end` runs scontrol, so
call it before MPI is initialised. Later changes of the limit are not noticed.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime

from hpcmarl.launch.world import launcher_world

SECONDS_FOR_SCONTROL = 10.0


def job_end(environ: Mapping[str, str]) -> float | None:
    """Return the end of the Slurm job in seconds since 1970.

    Args:
        environ: Environment variables of this process.

    Returns:
        None outside a Slurm job, without a limit, and on ranks other than 0.
    """
    job, end_time = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_JOB_END_TIME", "")
    world = launcher_world(environ)
    if not job.isdecimal() or (world is not None and world.rank > 0):
        return None
    if end_time.isdecimal():
        return float(end_time)
    try:
        answer = subprocess.run(
            ["scontrol", "show", "job", job, "--oneliner"],
            capture_output=True,
            errors="replace",
            timeout=SECONDS_FOR_SCONTROL,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return end_of(answer.stdout)


def end_of(text: str) -> float | None:
    """Return the EndTime in the output of `scontrol show job`, in seconds since 1970.

    Args:
        text: Output; its times are in the time zone of the machine.

    Returns:
        None if the time is unknown or has passed.
    """
    found = re.search(r"\bEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    end = datetime.fromisoformat(found.group(1)).timestamp() if found else None
    return end if end is not None and end > time.time() else None
