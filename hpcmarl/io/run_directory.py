"""The run directory: what lies where in it, and whether a place is fit to hold one.

The first rank makes it before anything else is written; every rank asks it for paths. Knows no contents of the files.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from hpcmarl.errors import ConfigError
from hpcmarl.io.atomic import remedy, storage_error, write_text

LOGGER = logging.getLogger(__name__)
LOW_SPACE_BYTES = 2 << 30


class RunDirectory:
    """Paths inside a run directory; making the object touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
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

    def create(self, config: str, *, resuming: bool) -> None:
        """Makes the directories and writes config.yaml (the resolved configuration as YAML text).

        Raises ConfigError where the path is a file, cannot be written, or holds something and the run does not resume;
        StorageError where the disk fails. Warns in the log when little space is left.
        """
        self._check(resuming)
        try:
            for directory in (self.path, self.checkpoints, self.trajectories, self.logs):
                directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
                words = os.strerror(error.errno)
                raise ConfigError(f"--run-dir {self.path}: cannot write there: {words}; {remedy(error)}") from error
            raise storage_error(self.path, "create the run directory", error) from error
        write_text(self.config, config)
        free = shutil.disk_usage(self.path).free
        if free < LOW_SPACE_BYTES:
            LOGGER.warning("%s: only %.1f GB are free; set trajectories.max_gigabytes, or use --run-dir on another disk", self.path, free / 1e9)

    def _check(self, resuming: bool) -> None:
        try:
            if self.path.is_symlink() and not self.path.exists():
                raise ConfigError(f"--run-dir {self.path}: a link to nothing; remove it, or choose another --run-dir")
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"--run-dir {self.path}: a file, not a directory; choose another --run-dir")
            if not resuming and self.path.is_dir() and any(self.path.iterdir()):
                raise ConfigError(f"--run-dir {self.path}: not empty; continue that run with --resume {self.path}, or choose a new --run-dir")
        except OSError as error:
            raise ConfigError(f"--run-dir {self.path}: cannot be read: {os.strerror(error.errno or 0)}; {remedy(error)}") from error
