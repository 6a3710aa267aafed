"""The sections `env` and `policies`: the environment, and the agents of each policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from hpcmarl.config.base import (
    Natural,
    PositiveFloat,
    PositiveInt,
    Section,
)


class EnvConfig(Section):
    """Environment that every actor steps."""

    id: str = Field(
        description=(
            "import path of a PettingZoo module (mpe2.simple_spread_v3) or package.module:factory; or "
            "gymnasium:ID, openspiel:GAME, matrix:GAME, pixels:GAME or smax:MAP"
        )
    )
    kwargs: dict[str, Any] = Field(default={}, description="keyword arguments of the environment's factory")
    kind: Literal["auto", "parallel", "aec"] = Field(
        "auto", description="PettingZoo interface to use; auto: parallel if the environment has it"
    )
    batched: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "step the games of all slots in a few array operations; auto: if hpcmarl has such an "
            "environment; true: always, else an error; false: never"
        ),
    )
    common_reward: bool | None = Field(
        None,
        description=(
            "whether all agents have the same reward, which agents that have left the episode also get; "
            "null: as the environment declares, else false"
        ),
    )
    max_steps: PositiveInt | None = Field(
        None,
        description=(
            "steps after which episodes are truncated, in addition to the environment's own limit; null: "
            "only that limit"
        ),
    )
    restarts: Natural = Field(
        3, description="number of times that each actor may restart environments that raise or hang"
    )
    on_restart_limit: Literal["stop", "quarantine"] = Field(
        "stop",
        description=(
            "response after env.restarts restarts: stop the run with the environment's traceback, or "
            "quarantine the slot until the actor has none left"
        ),
    )
    step_seconds: PositiveFloat | None = Field(
        30.0,
        description=(
            "seconds after which a step counts as hung, for a reset ten times as many; uses SIGALRM; "
            "null: no limit"
        ),
    )

    def changed(self, own: Mapping[str, Any]) -> EnvConfig:
        """Return this environment with other values for some keys.

        Args:
            own: New values; its `kwargs` are merged into the present ones key by key.

        Raises:
            ValidationError: If a key or value is not valid (pydantic).
        """
        if not own:
            return self
        kwargs = own.get("kwargs", {})
        # anything but a dictionary is left for the validation to refuse
        merged = self.kwargs | kwargs if isinstance(kwargs, dict) else kwargs
        return EnvConfig.model_validate(self.model_dump() | {**own, "kwargs": merged})


class PolicyConfig(Section):
    """Agents that share one policy."""

    agents: tuple[str, ...] = Field(
        min_length=1, description="names or patterns of the agents (agent_*, adversary_?)"
    )
