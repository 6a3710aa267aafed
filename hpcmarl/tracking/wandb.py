"""Weights & Biases: one run for all starts of a run of hpcmarl.

wandb starts a process, wandb-core, and speaks to it through a Unix socket. Python starts it with vfork. That
copies no memory of the rank, so it is safe after MPI_Init. wandb-core ends with the rank, even if the rank is
killed.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from hpcmarl.config.run import WandbConfig
from hpcmarl.tracking.base import Place, Tracker

logger = logging.getLogger(__name__)
PROJECT = "hpcmarl"
FOLDER = "wandb"
INIT_SECONDS = 10.0  # for a connection at the start; then the run continues offline
FINISH_SECONDS = 10.0  # for uploads at the end; data that is not uploaded stays in RUN/wandb
FLUSH_SECONDS = 5.0  # between writes to the file of the run
# Neither output, code, packages nor facts about the machine are recorded.
SETTINGS = {
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "init_timeout": INIT_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": FLUSH_SECONDS,
}


def set_environment(place: Place) -> None:
    """Keep the files of wandb and wandb-core in the run directory, and send no error reports.

    Call it before the first import of wandb, in the main thread.
    """
    directory = place.directory.absolute()
    os.environ["WANDB_DIR"] = str(directory)
    os.environ.setdefault("WANDB_CACHE_DIR", str(directory / FOLDER / "cache"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


class Wandb(Tracker):
    """Writes rows to a run of wandb. Its step is the version, and the x axis the environment steps.

    Args:
        options: Mode and names.
        place: The run. Its identifier is that of wandb's run, so resumed runs continue it.
    """

    def __init__(self, options: WandbConfig, place: Place) -> None:
        self._run = self._begin(options, place)
        self._run.define_metric("*", step_metric="env_steps")
        self._complete = False
        # wandb drops rows below the last step that its server has.
        self._first = int(getattr(self._run, "starting_step", 0) or 0)
        if place.version is not None and self._first > place.version + 1:
            logger.info(
                "wandb has rows up to version %d; rows of this start up to it are left out", self._first - 1
            )

    def _begin(self, options: WandbConfig, place: Place) -> Any:
        """Start the run of wandb, offline if it cannot be online."""
        if options.mode == "online":
            try:
                run = self._init("online", options, place)
            except Exception as error:
                logger.warning(
                    "wandb continues offline: %s; upload later: wandb sync %s",
                    " ".join(str(error).split())[:300] or type(error).__name__,
                    place.directory / FOLDER / "offline-run-*",
                )
                importlib.import_module("wandb").teardown()  # else the identifier is still in use
            else:
                logger.info("wandb: %s", run.url)
                return run
        return self._init("offline", options, place)

    def _init(self, mode: str, options: WandbConfig, place: Place) -> Any:
        wandb = importlib.import_module("wandb")
        return wandb.init(
            mode=mode,
            project=options.project or PROJECT,
            entity=options.entity,
            name=place.name,
            id=place.run or None,
            resume="allow",
            tags=list(options.tags) or None,
            dir=str(place.directory.absolute()),
            settings=wandb.Settings(**SETTINGS),
        )

    def row(self, version: int, env_steps: int, seconds: float, figures: Mapping[str, float]) -> None:
        if version >= self._first:
            self._run.log({"env_steps": env_steps, "seconds": seconds, **figures}, step=version)

    def config(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))
        self._complete = True

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._complete else 1)
