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
            "import path: a PettingZoo module (mpe2.simple_spread_v3), package.module:factory; "
            "gymnasium:ID, openspiel:GAME, smax:MAP"
        )
    )
    kwargs: dict[str, Any] = Field(default={}, description="keyword arguments of the environment's factory")
    kind: Literal["auto", "parallel", "aec"] = Field(
        "auto", description="which PettingZoo interface to use; auto: parallel where it exists"
    )
    batched: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "step all slots' games in a few array operations: where hpcmarl has such an environment "
            "(auto), always, or never"
        ),
    )
    common_reward: bool | None = Field(
        None,
        description=(
            "all agents have one reward, also those that have left the episode; default: as the "
            "environment says of itself, else false"
        ),
    )
    max_steps: PositiveInt | None = Field(
        None, description="truncate episodes after so many steps (on top of the environment's own limit)"
    )
    restarts: Natural = Field(3, description="how often an actor may restart environments that raise or hang")
    on_restart_limit: Literal["stop", "quarantine"] = Field(
        "stop",
        description=(
            "after that: stop the run with the environment's traceback, or give up the slot, until "
            "none is left"
        ),
    )
    step_seconds: PositiveFloat | None = Field(
        30.0,
        description=(
            "an environment that takes longer for a step counts as hung (ten times as long for a "
            "reset); uses SIGALRM"
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
        return EnvConfig.model_validate(
            self.model_dump() | {**own, "kwargs": self.kwargs | own.get("kwargs", {})}
        )


class PolicyConfig(Section):
    """Agents that share one policy."""

    agents: tuple[str, ...] = Field(
        min_length=1, description="agent names or patterns (agent_*, adversary_?)"
    )
