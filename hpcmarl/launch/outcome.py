"""Outcome files: a run reports its exit code to the program that started its ranks.

The exit code of a launcher is not reliable. With fault tolerance it is 0 if every rank was killed, and 137 if
one rank was replaced and the run completed. The variable HPCMARL_OUTCOME names a file into which the first
rank writes the exit code. Files beside it hold the run directory (.run), and mark that the reason for the end
was printed (.said).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcmarl.errors import EXIT_FAILURE, EXIT_TRY_AGAIN, EXIT_USAGE

OUTCOME = "HPCMARL_OUTCOME"
# A rank that ends the job with one of these codes has printed the reason.
_SPOKEN = (EXIT_FAILURE, EXIT_USAGE, EXIT_TRY_AGAIN)


def report_outcome(code: int, environ: Mapping[str, str]) -> None:
    """Write the exit code of the run to the outcome file; do nothing without HPCMARL_OUTCOME."""
    _write(environ, "", str(code))


def report_run_directory(path: Path, environ: Mapping[str, str]) -> None:
    """Write the path of the run directory, for the message if every rank is killed."""
    _write(environ, ".run", str(path.absolute()))


def said_path(environ: Mapping[str, str]) -> str:
    """Return the file that marks a printed reason; empty without HPCMARL_OUTCOME."""
    return f"{environ[OUTCOME]}.said" if environ.get(OUTCOME) else ""


def report_explained(environ: Mapping[str, str]) -> None:
    """Mark that the reason for the end of the job was printed."""
    _write(environ, ".said", "")


def is_said(environ: Mapping[str, str]) -> bool:
    """Return whether a rank of this host, or its start watch, has printed why the job ends."""
    return bool(path := said_path(environ)) and Path(path).exists()


def judge(
    code: int, path: Path, resumable: Callable[[Path], bool], source: Callable[[], Path | None]
) -> tuple[int, str]:
    """Determine the exit code of a job that has ended.

    Args:
        code: Exit code of the launcher.
        path: File that HPCMARL_OUTCOME named.
        resumable: Whether a run directory holds a checkpoint that verifies, or a checkpoint file verifies.
        source: Returns the run directory or checkpoint that the job resumes, or None. It is called if the
            ranks ended before they opened a run directory.

    Returns:
        The exit code, and one line for the user; the line is empty if the reason was already printed.
    """
    if (noted := _read(path)).isdecimal():
        return int(noted), ""
    said = path.with_name(path.name + ".said").exists()
    if code in _SPOKEN and not said:
        return code, ""
    run = run_directory(path) or str(source() or "")
    good = bool(run) and resumable(Path(run))
    line = (
        f"all ranks ended without a message (exit code of the launcher: {code}); they may have run out of "
        "memory"
    )
    if run:
        line += f"; continue with --resume {run}" if good else f"; {run} has no checkpoint to resume from"
    return EXIT_TRY_AGAIN if good else EXIT_FAILURE, "" if said else line


def run_directory(path: Path) -> str:
    """Return the run directory that was written beside an outcome file; empty if none was written."""
    return _read(path.with_name(path.name + ".run"))


def _write(environ: Mapping[str, str], ending: str, text: str) -> None:
    if path := environ.get(OUTCOME):
        # the first rank may run on another machine than the launcher
        with contextlib.suppress(OSError):
            Path(path + ending).write_text(text)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
