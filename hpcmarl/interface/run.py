"""A run opened for analysis: configuration, metrics, episodes and checkpoints, all read when asked for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import FormatError, UsageError
from hpcmarl.interface.frames import make_frame
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.io.run_state import RunState, read_run_state

if TYPE_CHECKING:
    from hpcmarl.interface.episodes import Episodes
    from hpcmarl.interface.policy import Policy


class Run:
    """The files of a run, which may be training.

    Only `replay` and `report` write something. A run can be given wherever its path is expected.

    Args:
        path: The run directory.

    Attributes:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = RunDirectory(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.state.sentence()})"

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def config(self) -> Config:
        """Configuration of the newest start."""
        return load_config(self._files.config)

    @property
    def state(self) -> RunState:
        """Whether the run is running, finished, interrupted, failed or killed; read anew each time."""
        return read_run_state(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """Figures at the end of the run (summary.json).

        Raises:
            FormatError: The newest start of the run has not ended.
        """
        state = self.state
        if state.summary is None:
            raise FormatError(f"{self.path}: has no summary, since the run has not ended: {state.sentence()}")
        return state.summary

    @property
    def metrics(self) -> Any:
        """Metrics of the run, a pandas.DataFrame with one row for each version; read anew each time.

        docs/reference/metrics.md explains the columns.
        """
        return self.frame("pandas")

    def frame(self, library: Literal["pandas", "polars"] = "pandas") -> Any:
        """Return the metrics of the run as a frame.

        Args:
            library: Library of the frame.

        Raises:
            UsageError: The library is unknown.
            MissingPackageError: The library is not installed.
            FormatError: The directory holds no metrics, or they are damaged.
        """
        return make_frame(read_metrics(self.path), library)

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return list_checkpoints(self._files.checkpoints)

    @property
    def episodes(self) -> Episodes:
        """Recorded episodes of the finished shards, in the order of their end; read lazily."""
        from hpcmarl.interface.episodes import Episodes

        return Episodes(self.path)

    def load_policy(self, *, member: str | None = None, seed: int = 0) -> Policy:
        """Load the policies of the newest checkpoint; see `hpcmarl.load_policy`."""
        from hpcmarl.interface.policy import load_policy

        return load_policy(self.path, member=member, seed=seed)

    def replay(self, episode: str | int = "best", **options: Any) -> Path:
        """Make a page or video of one episode; see `hpcmarl.interface.replaying.replay`.

        Args:
            episode: Number of the episode, best, worst or failed.
            options: out, play, episodes, greedy and seed.

        Returns:
            The file.
        """
        from hpcmarl.interface.replaying import replay

        return Path(replay(self.path, episode=episode, **options)["path"])

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Make the report of the run: one HTML file with curves, speed and what each rank did.

        Args:
            out: File to write; None: report.html in the run directory.

        Returns:
            The file.

        Raises:
            UsageError: The file exists and is no report, or has another ending than .html.
            MissingPackageError: plotly is not installed.
        """
        from hpcmarl.report.report import check_target, write_report

        target = Path(out) if out is not None else self.path / "report.html"
        check_target(target)
        return write_report([self.path], target).path


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory for analysis.

    Args:
        path: The run directory, of a run in any state.

    Raises:
        UsageError: There is no run in it.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UsageError(f"{path}: no such directory; allowed: the directory of a run (--run-dir)")
    if not RunDirectory(directory).config.exists():
        raise UsageError(f"{path}: holds no config.yaml; allowed: the directory of a run (--run-dir)")
    return Run(directory)
