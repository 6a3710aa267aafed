"""The run directory: what lies where in it, and whether a place is fit to hold one.

The first rank makes it before anything else is written; every rank asks it for paths. Knows no contents of
the files.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from hpcmarl.errors import ConfigError
from hpcmarl.io.atomic import remedy, storage_error, write_text
from hpcmarl.io.run_lock import NAME as LOCK

LOGGER = logging.getLogger(__name__)
LOW_SPACE_BYTES = 2 << 30
CHECKPOINTS = "checkpoints"


def home_of(source: Path) -> Path | None:
    """Return the run directory that a checkpoint or a directory of checkpoints lies in; another directory is
    its own.

    None for a file that lies in no run directory."""
    place = source.absolute()
    home = next((parent.parent for parent in (place, *place.parents) if parent.name == CHECKPOINTS), None)
    return home if home is not None or source.is_file() else source


class RunDirectory:
    """Paths inside a run directory; making the object touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / CHECKPOINTS
        self.trajectories = self.path / "trajectories"
        self.replay = self.path / "replay"
        self.logs = self.path / "logs"

    def log_path(self, rank: int) -> Path:
        """logs/rank-NNNN.log"""
        return self.logs / f"rank-{rank:04d}.log"

    def trajectory_directory(self, rank: int) -> Path:
        """trajectories/rank-NNNN"""
        return self.trajectories / f"rank-{rank:04d}"

    def replay_directory(self, group: int) -> Path:
        """replay/group-NNNN"""
        return self.replay / f"group-{group:04d}"

    def create(self, config: str, *, keep: str | None = None) -> None:
        """Make the directories and write config.yaml.

        Args:
            config: the resolved configuration as YAML text.
            keep: where the earlier configuration goes, starts/`keep`.yaml; None: it is overwritten.

        Raises:
            ConfigError: nothing can be written there.
            StorageError: the disk fails.
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
        """Make the directory itself, and see that files can be written there; whether it is new.

        Raises:
            ConfigError: it cannot be made or written.
            StorageError: the disk fails.
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
            ):
                words = os.strerror(error.errno)
                raise ConfigError(
                    f"--run-dir {self.path}: cannot write there: {words}; {remedy(error)}"
                ) from error
            raise storage_error(self.path, "create the run directory", error) from error
        return new

    def remove_if_empty(self) -> None:
        """Remove the directory again if nothing is in it."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def check(self, *, resuming: bool) -> None:
        """Refuse a path that cannot hold the run: a file, a dangling link, or, unless the run resumes, a
        directory that is not empty.

        Raises:
            ConfigError: one line with the remedy.
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
