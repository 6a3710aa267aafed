"""What sbatch is asked: formats and option names checked before anything is written, the script handed over, the job's number read.

Called by cli_submit.py. Knows nothing of what the script does (launch/slurm.py writes it).
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from collections.abc import Sequence

from hpcmarl.errors import HpcmarlError, UsageError

# the long options of sbatch that may be added; some need a newer Slurm than 22.05, which says so itself
_NAMES = """
    acctg-freq batch bb bbf begin bell clusters cluster-constraint comment constraint container contiguous core-spec cores-per-socket
    cpu-freq cpus-per-gpu deadline delay-boot dependency distribution error exclude exclusive export extra-node-info gid gpu-bind gpu-freq
    gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket
    overcommit oversubscribe power prefer priority profile propagate qos reboot reservation segment sockets-per-node spread-job switches
    thread-spec threads-per-core time-min tmp tres-bind tres-per-task uid use-min-nodes verbose wait-all-nodes wckey"""
OPTIONS = frozenset(_NAMES.split())
# what hpcmarl sets itself -> what to use instead
OWN = {
    "account": "--account or slurm.account",
    "partition": "--partition, slurm.partition or slurm.actor_partition",
    "nodes": "--nodes",
    "ntasks": "--nodes and --ntasks-per-node",
    "ntasks-per-node": "--ntasks-per-node",
    "cpus-per-task": "--cpus-per-task",
    "time": "--time",
    "array": "--seeds",
    "signal": "slurm.signal_seconds",
    "job-name": "name, in the configuration",
    "output": "--run-dir: the job's output lies there",
    "chdir": "cd, before hpcmarl submit",
    "requeue": "nothing: it is always on",
    "no-requeue": "nothing: a stopped run is requeued, which scancel prevents",
    "open-mode": "nothing: output is always appended",
}
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<clock>\d+(?::\d{1,2}){0,2})|(?P<plain>\d+(?::\d{1,2}){0,2}))", re.ASCII)
TIME_FORMATS = "MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES or DAYS-HOURS:MINUTES:SECONDS"


def seconds_of(time: str) -> int:
    """The seconds of a Slurm time limit such as 04:00:00 or 1-12. Raises UsageError for anything else, and for no time at all."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise UsageError(f"--time {time}: not a time limit; allowed: {TIME_FORMATS}")
    days = int(match["days"] or 0)
    numbers = [int(part) for part in (match["clock"] or match["plain"]).split(":")]
    if match["days"] is None and len(numbers) < 3:  # minutes come first where there are no days and no hours
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise UsageError(f"--time {time}: no time at all; Slurm would take it for no limit")
    return total


def check_time(time: str, signal_seconds: int) -> None:
    """The limit must leave time to train before the signal. Raises UsageError."""
    if seconds_of(time) <= signal_seconds:
        raise UsageError(
            f"--time {time} is no longer than slurm.signal_seconds {signal_seconds}: the job would be asked to stop as it starts; "
            "raise --time or lower slurm.signal_seconds"
        )


def check_options(options: Sequence[str], origin: str) -> None:
    """Names of further sbatch options: known, and not what hpcmarl sets itself. Raises UsageError, naming `origin` and the nearest name."""
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        if not option.startswith("--") or not name or " " in name:
            raise UsageError(f"{origin} {option!r}: write a long option of sbatch with its value, like {origin.split()[-1]}=--gres=gpu:1")
        if name in OWN:
            raise UsageError(f"{origin} {option}: hpcmarl sets --{name} itself; use {OWN[name]}")
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, [*OPTIONS, *OWN], 1)
            raise UsageError(f"{origin} {option}: sbatch has no option --{name}{f'; did you mean --{near[0]}?' if near else ''}")


def find_sbatch() -> str:
    """Raises HpcmarlError where there is no sbatch."""
    found = shutil.which("sbatch")
    if found is None:
        raise HpcmarlError("no sbatch on PATH; submit from a login node of the cluster (--dry-run prints the script and needs no Slurm)")
    return found


def submit(sbatch: str, script: str, options: Sequence[str] = ()) -> str:
    """Hand a script to sbatch; returns the job's number. Raises HpcmarlError with sbatch's own words where it refuses."""
    try:
        done = subprocess.run([sbatch, "--parsable", *options], input=script, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise HpcmarlError(f"{sbatch} does not run: {error}") from None
    number = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not number.isdecimal():
        said = " ".join((done.stderr or done.stdout).split()) or "nothing"
        raise HpcmarlError(f"sbatch refused the job (exit code {done.returncode}) and said: {said}")
    return number
