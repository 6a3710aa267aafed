"""How a run tells the program that started its ranks what became of it.

A launcher's exit code does not say: with fault tolerance it is 0 where every rank was killed, and 137 where
one rank was replaced and the run was finished. The variable HPCMARL_OUTCOME names a file that the first rank
writes; files beside it say more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcmarl.errors import EXIT_FAILURE, EXIT_TRY_AGAIN, EXIT_USAGE

OUTCOME = "HPCMARL_OUTCOME"
_SPOKEN = (EXIT_FAILURE, EXIT_USAGE, EXIT_TRY_AGAIN)  # a rank that ends the job with these has said why


def report_outcome(code: int, environ: Mapping[str, str]) -> None:
    """Write down that the run has ended with this exit code."""
    _write(environ, "", str(code))


def report_run_directory(path: Path, environ: Mapping[str, str]) -> None:
    """Write down where the run is, for what is said should every rank be killed."""
    _write(environ, ".run", str(path.absolute()))


def said_path(environ: Mapping[str, str]) -> str:
    """Return the file that stands for "why the job ends has been said"; empty where nobody asks."""
    return f"{environ[OUTCOME]}.said" if environ.get(OUTCOME) else ""


def report_explained(environ: Mapping[str, str]) -> None:
    """Note that the reason for the end of the job has been said."""
    _write(environ, ".said", "")


def is_said(environ: Mapping[str, str]) -> bool:
    """Return whether a rank of this host, or the watch over the start, has said why the job ends."""
    return bool(path := said_path(environ)) and Path(path).exists()


def judge(
    code: int, path: Path, resumable: Callable[[Path], bool], source: Callable[[], Path | None]
) -> tuple[int, str]:
    """Decide what a finished job's exit code is.

    Args:
        code: the launcher's.
        path: the file that HPCMARL_OUTCOME named.
        resumable: whether a run directory, or a checkpoint, holds one that verifies.
        source: what the job was to go on from; None: nothing. Asked where the ranks ended before they had
            opened a run directory.

    Returns:
        The exit code, and one line for the user, or nothing where it is clear why the job has ended.
    """
    if (noted := _read(path)).isdecimal():
        return int(noted), ""
    said = path.with_name(path.name + ".said").exists()
    if code in _SPOKEN and not said:
        return code, ""
    run = run_directory(path) or str(source() or "")
    good = bool(run) and resumable(Path(run))
    line = (
        f"all ranks ended without a word (the launcher's exit code: {code}); they may have been killed "
        "for want of memory"
    )
    if run:
        line += f"; go on with --resume {run}" if good else f"; {run} has no checkpoint to go on from"
    return EXIT_TRY_AGAIN if good else EXIT_FAILURE, "" if said else line


def run_directory(path: Path) -> str:
    """Return the run's directory as it was written beside the outcome; empty where it was not."""
    return _read(path.with_name(path.name + ".run"))


def _write(environ: Mapping[str, str], ending: str, text: str) -> None:
    if path := environ.get(OUTCOME):
        with contextlib.suppress(OSError):  # the first rank may be on another machine than the launcher
            Path(path + ending).write_text(text)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
