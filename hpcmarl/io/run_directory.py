"""Paths in a run directory, and checks that a path can hold one."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from hpcmarl.errors import ConfigError
from hpcmarl.io.atomic import remedy, storage_error, write_text
from hpcmarl.io.run_lock import NAME as LOCK

LOGGER = logging.getLogger(__name__)
LOW_SPACE_BYTES = 2 << 30
CHECKPOINTS = "checkpoints"


def home_of(source: Path) -> Path | None:
    """Return the run directory of a checkpoint or of a directory of checkpoints.

    Args:
        source: A checkpoint file, a checkpoints/ directory or something in it, or a run directory.

    Returns:
        The run directory. A directory without a parent named checkpoints/ is its own. None for a file outside
        a run directory.
    """
    place = source.absolute()
    home = next((parent.parent for parent in (place, *place.parents) if parent.name == CHECKPOINTS), None)
    return home if home is not None or source.is_file() else source


def new_run_directory(name: str) -> Path:
    """Return the default directory of a new run: runs/NAME-DATE-TIME."""
    first = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 1000)))
    return next(path for path in candidates if not path.exists())


class RunDirectory:
    """Paths inside a run directory. Creating the object touches no files."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / CHECKPOINTS
        self.trajectories = self.path / "trajectories"
        self.replay = self.path / "replay"
        self.logs = self.path / "logs"
        self.traces = self.path / "trace"

    def log_path(self, rank: int) -> Path:
        """Return logs/rank-NNNN.log."""
        return self.logs / f"rank-{rank:04d}.log"

    def failure_path(self, start: int) -> Path:
        """Return logs/failure-NNNN.log, the traceback with which a start ended."""
        return self.logs / f"failure-{start:04d}.log"

    def trajectory_directory(self, rank: int) -> Path:
        """Return trajectories/rank-NNNN."""
        return self.trajectories / f"rank-{rank:04d}"

    def trace_directory(self, start: int) -> Path:
        """Return trace/start-NNNN."""
        return self.traces / f"start-{start:04d}"

    def replay_directory(self, group: int) -> Path:
        """Return replay/group-NNNN."""
        return self.replay / f"group-{group:04d}"

    def create(self, config: str, *, keep: str | None = None) -> None:
        """Create the directories and write config.yaml.

        A warning is logged if little space is free.

        Args:
            config: The resolved configuration as YAML text.
            keep: The earlier configuration is copied to starts/`keep`.yaml. None: it is overwritten.

        Raises:
            ConfigError: If the directory cannot be created or written.
            StorageError: If the disk fails.
        """
        self.make_root()
        try:
            for directory in (self.checkpoints, self.trajectories, self.logs):
                directory.mkdir(exist_ok=True)
            earlier = self.path / "starts" / f"{keep}.yaml"
            if keep is not None and self.config.exists() and not earlier.exists():
                earlier.parent.mkdir(exist_ok=True)
                shutil.copyfile(self.config, earlier)
        except OSError as error:
            raise storage_error(self.path, "create the run directory", error) from error
        write_text(self.config, config)
        free = shutil.disk_usage(self.path).free
        if free < LOW_SPACE_BYTES:
            LOGGER.warning(
                "%s: only %.1f GB are free; set trajectories.max_gigabytes, or use --run-dir on another disk",
                self.path,
                free / 1e9,
            )

    def make_root(self) -> bool:
        """Create the directory itself, and check that files can be written there.

        Returns:
            Whether the directory is new.

        Raises:
            ConfigError: If it cannot be created or written.
            StorageError: If the disk fails.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            if error.errno in (
                errno.EACCES,
                errno.EPERM,
                errno.EROFS,
                errno.ENOTDIR,
                errno.EEXIST,
                errno.ENAMETOOLONG,
                errno.ENOENT,
            ):
                words = os.strerror(error.errno)
                raise ConfigError(
                    f"--run-dir {self.path}: cannot write there: {words}; {remedy(error)}"
                ) from error
            raise storage_error(self.path, "create the run directory", error) from error
        return new

    def remove_if_empty(self) -> None:
        """Remove the directory if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def check(self, *, resuming: bool) -> None:
        """Check that the path can hold the run.

        Refused are a file, a dangling link, and a directory that is not empty unless the run is resumed.

        Raises:
            ConfigError: If the path is refused; one line with the remedy.
        """
        try:
            if self.path.is_symlink() and not self.path.exists():
                raise ConfigError(
                    f"--run-dir {self.path}: a link to nothing; remove it, or choose another --run-dir"
                )
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"--run-dir {self.path}: a file, not a directory; choose another --run-dir")
            if (
                not resuming
                and self.path.is_dir()
                and any(LOCK not in file.name for file in self.path.iterdir())
            ):
                raise ConfigError(
                    f"--run-dir {self.path}: not empty; continue that run with --resume {self.path}, or "
                    "choose a new --run-dir"
                )
        except OSError as error:
            raise ConfigError(
                f"--run-dir {self.path}: cannot be read: {os.strerror(error.errno or 0)}; {remedy(error)}"
            ) from error
