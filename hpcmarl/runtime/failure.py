"""Record of a failed run: logs/failure-NNNN.log with the whole traceback, and summary.json.

Many ranks may fail at the same moment, for instance in the same bug of an environment. The first rank that
creates the file of this start records the failure for the run. The run directory is on a shared file system,
so that this works across hosts.
"""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcmarl.envs.failure_trace import own_frames, root_cause
from hpcmarl.errors import EnvironmentFailure, HpcmarlError
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.roles.base import Context

# Attribute of log records that the terminal does not show.
FILE_ONLY = "file_only"
# Figures of the newest metrics row that a failed run's summary has as well, by their names there.
FIGURES = {
    "version": "updates",
    "seconds": "seconds",
    "env_steps": "env_steps",
    "agent_steps": "agent_steps",
    "episodes": "episodes",
    "return_mean": "return_mean",
}


def record_failure(context: Context, error: BaseException, place: str) -> tuple[bool, Path | None]:
    """Write the traceback and a summary with the status failed, unless another rank has done so.

    A disk that fails does not hide the failure itself.

    Args:
        context: Context of this rank.
        error: The failure.
        place: Rank, role and host.

    Returns:
        Whether this rank is the first to record a failure of this start, and the file with the traceback;
        None: it could not be written.
    """
    target = RunDirectory(context.run_directory).failure_path(context.start_number)
    path: Path | None = target
    text = "".join(traceback.format_exception(error))
    try:
        with target.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{place}\n{text}")
    except OSError as problem:
        if problem.errno == errno.EEXIST:
            return False, target
        path = None
    from hpcmarl.io.metrics import write_summary  # loads HDF5, which most ranks do not need

    with contextlib.suppress(HpcmarlError, OSError):
        write_summary(context.run_directory, failed_summary(context, error, place, path))
    return True, path


def failed_summary(context: Context, error: BaseException, place: str, path: Path | None) -> dict[str, Any]:
    """Return the contents of summary.json for a failed run.

    Args:
        context: Context of this rank.
        error: The failure.
        place: Rank, role and host.
        path: File with the traceback; None: there is none.
    """
    cause = root_cause(error)
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(cause.__traceback__)
    if isinstance(error, EnvironmentFailure):
        frames = own_frames(error) or frames
    row = _last_row(context.run_directory)
    return {
        "status": "failed",
        "error": " ".join(str(error).split()) or type(error).__name__,
        "error_type": type(cause).__name__,
        "error_place": place,
        "error_line": f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
        "traceback": None if path is None else str(path.relative_to(context.run_directory)),
        **{name: row.get(column) for column, name in FIGURES.items()},
        "ranks": context.topology.size,
        "roles": [rank["roles"] for rank in context.topology.table()],
        "versions": context.versions(),
    }


def _last_row(directory: Path) -> dict[str, float]:
    """Return the newest metrics row; empty if there is none that can be read."""
    from hpcmarl.io.metrics import read_metrics

    try:
        columns = read_metrics(directory)
    except (HpcmarlError, OSError):
        return {}
    row = {name: float(values[-1]) for name, values in columns.items() if len(values)}
    return {name: int(value) if value.is_integer() else value for name, value in row.items()}
