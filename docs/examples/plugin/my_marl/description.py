"""RLOO for hpcmarl: the parts that every rank imports, and a callback. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from hpcmarl.algos.design import Design, reinforce_design
from hpcmarl.algos.external import ExternalAlgorithm
from hpcmarl.callbacks import Callback, Moment, StopTraining
from hpcmarl.config import AlgoConfig, CallbackConfig
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec


class RLOOConfig(AlgoConfig):
    """REINFORCE with a leave-one-out baseline (arXiv 2402.14740); whole episodes."""

    is_on_policy: ClassVar[bool] = True
    entropy_cost: float = Field(0.0, ge=0, description="weight of the policies' entropy in the objective")

    @property
    def common_reward(self) -> str:
        return "policy"


class RLOO(ExternalAlgorithm):
    """REINFORCE with a leave-one-out baseline."""

    config_class = RLOOConfig
    learner = "my_marl.learner:RLOOLearner"

    @staticmethod
    def design(spec: EnvironmentSpec, config: RLOOConfig) -> Design:
        """Describe policies without critics."""
        if spec.turn_based:
            raise ConfigError(
                f"algo.name: {config.name} needs agents that act at once, and {spec.id} is turn-based; use "
                "reinforce"
            )
        return reinforce_design(spec, config)


class PatienceConfig(CallbackConfig):
    """Keys of Patience."""

    evaluations: int = Field(3, ge=1, description="evaluations without a better return before the run ends")


class Patience(Callback):
    """Stop if the evaluated return has not improved for some evaluations."""

    config_class = PatienceConfig

    def __init__(self, config: PatienceConfig) -> None:
        super().__init__(config)
        self.best, self.waited = float("-inf"), 0

    def on_evaluation(self, moment: Moment) -> None:
        result = moment.evaluation["return_mean"]
        self.waited = 0 if result > self.best else self.waited + 1
        self.best = max(self.best, result)
        if self.waited >= self.config.evaluations:
            raise StopTraining(f"no better return than {self.best:.3g} in {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
