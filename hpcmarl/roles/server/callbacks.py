"""Calls of the run's callbacks on the server's rank, which no exception of a callback can end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hpcmarl import plugins
from hpcmarl.callbacks import Callback, Moment, StopTraining
from hpcmarl.config import Config
from hpcmarl.errors import ConfigError
from hpcmarl.roles.server.recorder import Recorder

logger = logging.getLogger(__name__)
SLOW_SECONDS = 1.0  # length of a call from which one warning is logged


def moment_of(recorder: Recorder, version: int, checkpoint: Path | None, status: str, reason: str) -> Moment:
    """Return the state of a run for its callbacks.

    Args:
        recorder: Counters and figures of the run.
        version: Version of the parameters.
        checkpoint: The newest checkpoint of this start; None: there is none.
        status: Status of the run at its end; empty before.
        reason: Cause of the end; empty before.
    """
    return Moment(
        version,
        int(recorder.totals["env_steps"]),
        recorder.seconds,
        float(np.mean(recorder.recent)) if recorder.recent else float("nan"),
        recorder.context.run_directory,
        MappingProxyType(recorder.fields),
        MappingProxyType(recorder.evaluation),
        checkpoint,
        status,
        reason,
    )


class CallbackRunner:
    """The callbacks of a run.

    Args:
        config: Configuration of the run.

    Attributes:
        errors: One line for each callback that has failed.

    Raises:
        ConfigError: The constructor of a callback raises.
    """

    def __init__(self, config: Config) -> None:
        self.errors: list[str] = []
        self._called: dict[str, Callback] = {}
        self._slow: set[str] = set()
        for index, settings in enumerate(config.callbacks):
            try:
                callback = plugins.need("callbacks", settings.name)(settings)
            except Exception as error:
                raise ConfigError(
                    f"callbacks.{index}: {settings.name} cannot be made: {plugins.said(error)}; correct "
                    "it, or remove it from callbacks"
                ) from error
            self._called[f"{index} {settings.name}"] = callback

    def call(self, method: str, moment: Callable[[], Moment]) -> str | None:
        """Call a method of every callback.

        Args:
            method: on_update, on_evaluation, on_checkpoint or on_end.
            moment: Returns the state of the run.

        Returns:
            Why the run is to stop, as text; None: it is not.
        """
        if not self._called:
            return None
        reason, now = None, moment()
        for key, callback in list(self._called.items()):
            began = time.monotonic()
            try:
                getattr(callback, method)(now)
            except StopTraining as stop:
                text = " ".join(str(stop).split())
                reason = reason or f"callback {_name(key)}{f': {text}' if text else ''}"
            except Exception as error:
                self._failed(key, method, now.version, error)
            if (took := time.monotonic() - began) > SLOW_SECONDS and key not in self._slow:
                self._slow.add(key)
                logger.warning(
                    "callback %s took %.1f s in %s at version %d, and the run waited for it",
                    _name(key),
                    took,
                    method,
                    now.version,
                )
        return reason

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the callbacks by place and name; empty ones are left out."""
        states = {}
        for key, callback in list(self._called.items()):
            try:
                own = callback.state_dict()
            except Exception as error:
                self._failed(key, "state_dict", None, error)
                continue
            if own:
                states[key.replace("/", ".")] = own
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Give each callback its state; one without a state in the checkpoint begins anew."""
        for key, callback in list(self._called.items()):
            if (own := states.get(key.replace("/", "."))) is None:
                continue
            try:
                callback.load_state_dict(own)
            except Exception as error:
                self._failed(key, "load_state_dict", None, error)

    def _failed(self, key: str, method: str, version: int | None, error: Exception) -> None:
        when = "" if version is None else f" at version {version}"
        line = (
            f"callback {_name(key)} failed in {method}{when} and is not called again: {plugins.said(error)}"
        )
        self.errors.append(line)
        del self._called[key]
        logger.error("%s; training continues", line)
        logger.debug("callback %s", _name(key), exc_info=error)


def _name(key: str) -> str:
    return key.partition(" ")[2]
