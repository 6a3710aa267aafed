"""The interface of callbacks: classes outside hpcmarl that the server's rank calls during a run.

    class Mine(Callback):
        def on_evaluation(self, moment: Moment) -> None:
            if moment.evaluation["return_mean"] > 100:
                raise StopTraining("the task is solved")

The key `callbacks` names them. Importing this module loads neither numpy nor MPI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hpcmarl.config.run import CallbackConfig


class StopTraining(Exception):
    """Raised by a callback to end the run as a limit of `stop` does, with checkpoint, evaluation and summary.

    In a league it ends the member's present assignment.
    """


@dataclass(frozen=True)
class Moment:
    """The state of a run when a callback is called.

    Attributes:
        version: Version of the parameters, the number of updates so far.
        env_steps: Environment steps of the whole run.
        seconds: Training time of the whole run, seconds.
        return_mean: Mean return of the newest 100 training episodes; nan before the first.
        row: The newest row of metrics by name; empty before the first. Rows are written at most every
            `logging.every_seconds`, so its `version` may be lower.
        evaluation: Result of the newest evaluation, with `version` and `return_mean`; empty before the first.
        run_directory: Directory of the run, or of the member of a league.
        checkpoint: The newest checkpoint that this start has written; None before the first.
        status: "finished" or "interrupted" at the end; empty before.
        reason: Cause of the end in words, as "stop.updates 100 reached"; empty before.
    """

    version: int
    env_steps: int
    seconds: float
    return_mean: float
    run_directory: Path
    row: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    status: str = ""
    reason: str = ""


class Callback:
    """Base class of callbacks. Override the methods that are needed; the others do nothing.

    The server waits for each call, and the whole run waits for the server: keep calls short. An exception is
    logged, and the callback is not called again; training continues. `StopTraining` ends the run.

    Args:
        config: An instance of `config_class`.

    Attributes:
        config_class: Keys of the callback beside `name`.
    """

    config_class: ClassVar[type[CallbackConfig]] = CallbackConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def on_update(self, moment: Moment) -> None:
        """Called after every update."""

    def on_evaluation(self, moment: Moment) -> None:
        """Called after every evaluation, also the final one."""

    def on_checkpoint(self, moment: Moment) -> None:
        """Called after a checkpoint is on disk; one call may stand for several that follow quickly."""

    def on_end(self, moment: Moment) -> None:
        """Called at the end of the run, after the last checkpoint and evaluation and before summary.json.

        It is not called if the run fails.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, texts, lists and arrays by name, which checkpoints keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`. Called before training if the run resumes."""
