"""Calls of sbatch and squeue, and checks of time limits and sbatch options.

launch/slurm.py renders the batch scripts.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from collections.abc import Sequence

from hpcmarl.errors import HpcmarlError, UsageError

# Long options of sbatch that users may add. Some need a Slurm newer than 22.05; older ones refuse them.
_NAMES = """
    acctg-freq batch bb bbf begin bell clusters cluster-constraint comment constraint container
    contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot dependency
    distribution error exclude exclusive export extra-node-info gid gpu-bind gpu-freq gpus
    gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint kill-on-invalid-dep licenses
    mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill
    nodefile nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket overcommit oversubscribe
    power prefer priority profile propagate qos reboot reservation segment sockets-per-node
    spread-job switches thread-spec threads-per-core time-min tmp tres-bind tres-per-task uid
    use-min-nodes verbose wait-all-nodes wckey"""
OPTIONS = frozenset(_NAMES.split())
# options that hpcmarl sets itself -> remedy for the message
OWN = {
    "account": "use --account or slurm.account",
    "partition": "use --partition, slurm.partition or slurm.actor_partition",
    "nodes": "use --nodes of hpcmarl submit",
    "ntasks": "use --nodes and --ntasks-per-node of hpcmarl submit",
    "ntasks-per-node": "use --ntasks-per-node of hpcmarl submit",
    "cpus-per-task": "use --cpus-per-task of hpcmarl submit",
    "time": "use --time of hpcmarl submit",
    "array": "use --seeds",
    "signal": "set slurm.signal_seconds",
    "job-name": "set name in the configuration",
    "output": "use --run-dir, the directory of the job's output",
    "chdir": "change the directory before hpcmarl submit",
    "requeue": "remove the option, requeue is always on",
    "no-requeue": "remove the option, and end a job for good with scancel",
    "open-mode": "remove the option, output is always appended",
}
SECONDS_FOR_SQUEUE = 60.0
_TIME = re.compile(
    r"(?:(?P<days>\d+)-(?P<clock>\d+(?::\d{1,2}){0,2})|(?P<plain>\d+(?::\d{1,2}){0,2}))", re.ASCII
)
TIME_FORMATS = (
    "MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES or "
    "DAYS-HOURS:MINUTES:SECONDS"
)


def seconds_of(time: str) -> int:
    """Return the seconds of a Slurm time limit such as 04:00:00 or 1-12.

    Raises:
        UsageError: If the text is not a time limit, or if it is 0.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise UsageError(f"--time {time}: not a time limit; allowed: {TIME_FORMATS}")
    days = int(match["days"] or 0)
    numbers = [int(part) for part in (match["clock"] or match["plain"]).split(":")]
    # without days and hours, the first number is minutes
    if match["days"] is None and len(numbers) < 3:
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise UsageError(f"--time {time}: Slurm reads 0 as no limit; set a time longer than 0")
    return total


def check_time(time: str, signal_seconds: int) -> None:
    """Check that the time limit leaves time to train before the signal.

    Args:
        time: Time limit as Slurm writes it.
        signal_seconds: Seconds between the signal and the limit (`slurm.signal_seconds`).

    Raises:
        UsageError: If the limit is not valid, or not longer than `signal_seconds`.
    """
    if seconds_of(time) <= signal_seconds:
        raise UsageError(
            f"--time {time} is no longer than slurm.signal_seconds {signal_seconds}: the job would get the "
            "signal to stop at its start; raise --time or lower slurm.signal_seconds"
        )


def check_options(options: Sequence[str], origin: str) -> None:
    """Check the names of additional sbatch options.

    Args:
        options: Options such as "--gres=gpu:1".
        origin: Key or option of hpcmarl that they come from, for messages.

    Raises:
        UsageError: If an option is not a long option of sbatch, or if hpcmarl sets it itself.
    """
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        if not option.startswith("--") or not name or " " in name:
            raise UsageError(
                f"{origin} {option!r}: write a long option of sbatch with its value, like "
                f"{origin.split()[-1]}=--gres=gpu:1"
            )
        if name in OWN:
            raise UsageError(f"{origin} {option}: hpcmarl sets --{name} itself; {OWN[name]}")
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, [*OPTIONS, *OWN], 1)
            raise UsageError(
                f"{origin} {option}: sbatch has no option "
                f"--{name}; {f'did you mean --{near[0]}?' if near else 'see man sbatch'}"
            )


def find_sbatch() -> str:
    """Return the path of sbatch.

    Raises:
        HpcmarlError: If there is no sbatch on PATH.
    """
    found = shutil.which("sbatch")
    if found is None:
        raise HpcmarlError(
            "no sbatch on PATH; submit from a login node of the cluster, or print the script with --dry-run, "
            "which needs no Slurm"
        )
    return found


def live_jobs(jobs: Sequence[str]) -> dict[str, str]:
    """Ask squeue which jobs are waiting or running.

    Args:
        jobs: Jobs as returned by `submit`.

    Returns:
        State by job or array task; only those that have not ended.

    Raises:
        HpcmarlError: If squeue does not answer; the jobs may still exist then.
    """
    clusters: dict[str, list[str]] = {}
    for job in jobs:
        number, _, cluster = job.partition(";")
        clusters.setdefault(cluster, []).append(number)
    live: dict[str, str] = {}
    program = shutil.which("squeue")
    if program is None:
        raise HpcmarlError("no squeue on PATH; submit from a login node of the cluster")
    for cluster, numbers in clusters.items():
        command = [program, "--noheader", "--format=%i %T", f"--jobs={','.join(numbers)}"]
        command += [f"--clusters={cluster}"] if cluster else []
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS_FOR_SQUEUE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HpcmarlError(f"{program} does not answer: {error}") from None
        # squeue answers "Invalid job id" for a single job that ended long ago
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            reason = " ".join(done.stderr.split()) or "no message"
            raise HpcmarlError(f"squeue failed (exit code {done.returncode}): {reason}")
        lines = [line.split() for line in done.stdout.splitlines()]
        live |= {words[0]: words[1] for words in lines if len(words) == 2 and words[0][0].isdecimal()}
    return live


def submit(sbatch: str, script: str, options: Sequence[str] = ()) -> str:
    """Submit a batch script.

    Args:
        sbatch: Path of sbatch.
        script: Text of the script.
        options: Additional options of sbatch.

    Returns:
        The job number, followed by `;CLUSTER` if there are several clusters.

    Raises:
        HpcmarlError: If sbatch cannot be started or refuses the job; the message quotes sbatch.
    """
    try:
        done = subprocess.run(
            [sbatch, "--parsable", *options],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise HpcmarlError(f"{sbatch} cannot be started: {error}") from None
    answer = done.stdout.strip()
    if done.returncode != 0 or not answer.partition(";")[0].isdecimal():
        reason = " ".join((done.stderr or done.stdout).split()) or "no message"
        raise HpcmarlError(f"sbatch refused the job (exit code {done.returncode}): {reason}")
    return answer
