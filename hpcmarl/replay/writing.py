"""Writing of an episode in the form that the name of the file asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpcmarl.errors import UsageError
from hpcmarl.io.atomic import storage_error, write_atomically
from hpcmarl.replay.page import render_page
from hpcmarl.replay.recording import Recording
from hpcmarl.replay.video import check_packages, write_gif, write_mp4


def _write_page(recording: Recording, path: Path) -> None:
    path.write_text(render_page(recording), "utf-8")


WRITERS: dict[str, Callable[[Recording, Path], None]] = {
    ".html": _write_page,
    ".gif": write_gif,
    ".mp4": write_mp4,
}


def check_out(path: Path) -> None:
    """Check the name of a file, and the packages that it needs.

    Raises:
        UsageError: The ending is unknown.
        MissingPackageError: A package is not installed.
    """
    if path.suffix not in WRITERS:
        raise UsageError(f"--out {path}: unknown ending {path.suffix!r}; allowed: {', '.join(WRITERS)}")
    check_packages(path.suffix)


def write_recording(recording: Recording, path: Path) -> None:
    """Write an episode; an existing file is replaced, and a failure leaves no half a file.

    Args:
        recording: The episode.
        path: File with the ending .html, .gif or .mp4. Its directory is made.

    Raises:
        UsageError: The ending is unknown.
        MissingPackageError: A package is not installed.
        StorageError: The disk fails.
    """
    check_out(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path.parent, "create the directory", error) from error
    write_atomically(path, lambda partial: WRITERS[path.suffix](recording, partial))
