"""Submissions of a run directory: a configuration, a batch script and a job number, never overwritten.

`hpcmarl submit` writes DIR/submissions/0001.yaml, 0001.sbatch and 0001.job, then 0002 and so on. It creates
the configuration file first, exclusively. So only one of two simultaneous submissions gets a number, even on
NFS.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.launch import sbatch

FOLDER = "submissions"
_NAME = re.compile(r"(\d{4,})\.yaml")


@dataclass(frozen=True)
class Submission:
    """Files of one submission.

    Attributes:
        directory: Run directory.
        number: Number of the submission, from 1.
    """

    directory: Path
    number: int

    def path(self, ending: str) -> Path:
        """Return the path of a file: ending yaml (configuration), sbatch (script) or job (job number)."""
        return self.directory / FOLDER / f"{self.number:04d}.{ending}"

    @property
    def job(self) -> str:
        """Job number, followed by `;CLUSTER` if there are several clusters; empty before the submission."""
        try:
            return self.path("job").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def write(self, ending: str, text: str) -> None:
        """Create a read-only file.

        Args:
            ending: Ending of the file (`path`).
            text: Its text.

        Raises:
            OSError: If the file exists or cannot be written.
        """
        descriptor = os.open(self.path(ending), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)

    def remove(self) -> None:
        """Delete the files of a submission that sbatch has refused, and folders that become empty."""
        for ending in ("sbatch", "yaml"):
            self.path(ending).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder is not empty
            self.path("yaml").parent.rmdir()
            self.directory.rmdir()


def list_submissions(directory: Path) -> list[Submission]:
    """List the submissions of a run directory, the earliest first."""
    try:
        names = os.listdir(directory / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    return [Submission(directory, number) for number in sorted(int(match[1]) for match in found)]


def new_directory(path: Path) -> Path:
    """Create the run directory PATH; if it exists, PATH-2, PATH-3 and so on.

    Raises:
        UsageError: If all numbers up to 999 exist.
        OSError: If the directory cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for candidate in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise UsageError(f"{path} and {path.name}-2 to -999 exist; choose another directory with --run-dir")


def claim(directory: Path, config: str) -> Submission:
    """Begin the next submission of a run directory by writing its configuration.

    Args:
        directory: Run directory.
        config: Resolved configuration as YAML text.

    Raises:
        UsageError: If a job of an earlier submission is waiting or running, or another submission is in
            progress.
        HpcmarlError: If squeue does not answer.
        OSError: If the file cannot be written.
    """
    earlier = list_submissions(directory)
    for submission in earlier:
        if not submission.job:
            raise _in_the_making(submission)
    _check_ended(directory, earlier)
    submission = Submission(directory, earlier[-1].number + 1 if earlier else 1)
    submission.path("yaml").parent.mkdir(parents=True, exist_ok=True)
    try:
        submission.write("yaml", config)
    except FileExistsError:
        raise _in_the_making(submission) from None
    return submission


def _in_the_making(submission: Submission) -> UsageError:
    path = submission.path("yaml")
    return UsageError(
        f"--run-dir {submission.directory}: {FOLDER}/{path.name} has no job number yet: another hpcmarl "
        f"submit is running or was killed; try again, or remove {path} if `squeue --me` does not show its job"
    )


def _check_ended(directory: Path, earlier: list[Submission]) -> None:
    """Check that no job of a run directory is waiting or running.

    Raises:
        UsageError: If one is.
        HpcmarlError: If squeue does not answer.
    """
    if not earlier:
        return
    try:
        live = sbatch.live_jobs([submission.job for submission in earlier])
    except HpcmarlError as error:
        raise HpcmarlError(
            f"--run-dir {directory}: cannot check whether its earlier jobs have ended: {error}; try again"
        ) from None
    if live:
        job, state = next(iter(live.items()))
        others = f" and {len(live) - 1} more" if len(live) > 1 else ""
        number = re.split(r"\D", job, maxsplit=1)[0]
        raise UsageError(
            f"--run-dir {directory}: job {job} ({state}){others} of an earlier submission uses it; wait for "
            f"its end, cancel it with scancel {number}, or choose another --run-dir"
        )
