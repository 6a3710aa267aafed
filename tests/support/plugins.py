"""Classes outside hpcmarl, as a user's module has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from hpcmarl.callbacks import Callback, StopTraining
from hpcmarl.config import CallbackConfig, OptimizerConfig, RuleConfig, TrackerConfig
from hpcmarl.config.league import MatchmakerConfig
from hpcmarl.league.core.matchmaking import Matchmaker, make_mixture
from hpcmarl.optim.base import Optimizer
from hpcmarl.optim.rounds.base import RoundRule, share
from hpcmarl.optim.rounds.sync import Sync
from hpcmarl.tracking.base import Tracker
from tests.support.environments import Echo

HERE = "tests.support.plugins"
# (callback, method, version) of each call, in order
CALLS: list[tuple[str, str, int]] = []


class SlackConfig(RuleConfig):
    slack: int = Field(1, ge=0, description="groups that are not waited for")


class Backup(RoundRule):
    """End a round without the slowest groups."""

    config_class = SlackConfig
    waits = True

    def quota(self, target: int | None = None) -> int:
        return share(target or self.target, self._needed)

    def complete(self) -> bool:
        return sum(self.counts[group] >= self.quota() for group in self.present) >= self._needed

    @property
    def _needed(self) -> int:
        return max(1, len(self.present) - self.config.slack)


class Incomplete(RoundRule):
    """A rule without `complete`."""


class WrongConfig(Sync):
    config_class = CallbackConfig


class SignConfig(OptimizerConfig):
    step_size: float = Field(0.01, gt=0, description="step size")


class Sign(Optimizer):
    """Steps along the signs of the direction."""

    config_class = SignConfig
    state_keys = ("drift",)

    def __init__(self, config: Any, parameters: Any, parts: Any = ()) -> None:
        super().__init__(config, parameters, parts)
        self.drift = np.zeros_like(self.parameters)

    def _move(self, direction: Any) -> None:
        self.drift = 0.5 * self.drift + 0.5 * direction
        self._advance(self.config.step_size * np.sign(self.drift))


class NewestConfig(MatchmakerConfig):
    newest: int = Field(1, ge=1, description="snapshots that are met")


class Newest(Matchmaker):
    """The newest snapshots."""

    config_class = NewestConfig

    def __init__(self, config: NewestConfig) -> None:
        self.config = config

    def mixture(self, view: Any) -> Any:
        weights = np.zeros(len(view.candidates))
        weights[-self.config.newest :] = 1.0
        return make_mixture(view, weights, self.config.self_share)


class FileConfig(TrackerConfig):
    file: str = Field("rows.txt", description="name of the file in the run directory")


class Lines(Tracker):
    """Writes versions to a file."""

    config_class = FileConfig

    def __init__(self, config: FileConfig, place: Any) -> None:
        self.lines: list[str] = []
        self.path = place.directory / config.file

    def row(self, version: int, env_steps: int, seconds: float, figures: Any) -> None:
        self.lines.append(f"row {version}")

    def config(self, values: Any) -> None:
        self.lines.append(f"config of {values['env']['id']}")

    def summary(self, values: Any) -> None:
        self.lines.append(f"summary of {values['updates']}")

    def close(self) -> None:
        self.path.write_text("\n".join(self.lines))


class Calls(Callback):
    """Records its calls, and their number over all starts of the run."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.count, self.last = 0, None

    def on_update(self, moment: Any) -> None:
        self._note("on_update", moment)

    def on_evaluation(self, moment: Any) -> None:
        assert moment.evaluation["version"] <= moment.version
        self._note("on_evaluation", moment)

    def on_checkpoint(self, moment: Any) -> None:
        assert moment.checkpoint.exists()
        self._note("on_checkpoint", moment)

    def on_end(self, moment: Any) -> None:
        self._note(f"on_end {moment.status} {moment.reason}", moment)

    def _note(self, method: str, moment: Any) -> None:
        self.count += method == "on_update"
        CALLS.append((moment.run_directory.as_posix(), method, moment.version))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        CALLS.append(("", "load_state_dict", self.count))


class AtConfig(CallbackConfig):
    version: int = Field(2, ge=1, description="version at which it acts")


class Stop(Callback):
    """Ends the run at a version."""

    config_class = AtConfig

    def on_update(self, moment: Any) -> None:
        if moment.version == self.config.version:
            raise StopTraining("that is enough")


class Broken(Callback):
    """Fails at a version."""

    config_class = AtConfig

    def on_update(self, moment: Any) -> None:
        CALLS.append(("broken", "on_update", moment.version))
        if moment.version == self.config.version:
            raise RuntimeError("no such\nthing")


class Unmade(Callback):
    """Fails before training."""

    def __init__(self, config: Any) -> None:
        raise ValueError("no account")


def a_function() -> None:
    """Not a class."""


def make_echo(**kwargs: Any) -> Any:
    """Return an environment."""
    return Echo(**kwargs)
