"""When the Slurm job around this process ends. Called by train.py before MPI is initialised, since it may
start a program.

The variable SLURM_JOB_END_TIME stands in the environment of jobs from Slurm 22.05 on; older ones are asked by
scontrol. A limit that is changed while the job runs is not noticed.
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
    """The end of the job in seconds since 1970; None outside a Slurm job, without a limit, and on ranks other
    than 0."""
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
    """EndTime in the words of `scontrol show job`, in the machine's own time zone; None where it says Unknown
    or has passed."""
    found = re.search(r"\bEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    end = datetime.fromisoformat(found.group(1)).timestamp() if found else None
    return end if end is not None and end > time.time() else None
