"""Writing of summary.json at the end of a run or league."""

from __future__ import annotations

import logging
from typing import Any

from hpcmarl.errors import StorageError
from hpcmarl.io.metrics import write_summary
from hpcmarl.roles.base import Context

logger = logging.getLogger(__name__)


def keep_summary(context: Context, summary: dict[str, Any]) -> None:
    """Write summary.json.

    Args:
        context: The run.
        summary: Contents of the file.

    Raises:
        StorageError: The file cannot be written and `checkpoint.on_error` is "stop"; otherwise the error is
            logged.
    """
    try:
        write_summary(context.run_directory, summary)
    except StorageError as problem:
        if context.config.checkpoint.on_error == "stop":
            raise
        logger.error("%s; the run has ended; its figures are in the last metrics row", problem)
