"""The section `topology`: numbers of actors and learners, and differences between groups."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpcmarl.config.base import (
    ActorCount,
    Count,
    GroupCount,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    section,
)


class DelayConfig(Section):
    """Delays, in seconds, added to the actors of a group to study ranks of unequal speed."""

    step: NonNegative = Field(0.0, description="added to every environment step of an actor")
    trajectory: NonNegative = Field(
        0.0, description="added once to every trajectory (an unroll, or an episode)"
    )


class GroupConfig(Section):
    """One learner with its actors."""

    env: dict[str, Any] = Field(default={}, description="keys of `env` that differ in this group")
    delay: DelayConfig = section(DelayConfig)
    actors: ActorCount | None = Field(
        None, description="actors of this group; default: topology.actors_per_learner"
    )


class TopologyConfig(Section):
    """Roles of the ranks; `hpcmarl doctor CONFIG` prints the table."""

    groups: GroupCount | tuple[GroupConfig, ...] = Field(
        1, description="how many learners, or a list with one entry a learner"
    )
    actors_per_learner: ActorCount | Literal["auto"] = Field(
        "auto", description="auto shares out all ranks; 0: a learner steps its own environments"
    )
    server: Literal["auto", "dedicated", "shared"] = Field(
        "auto", description="the server has rank 0 to itself, or shares it with the first learner"
    )
    placement: Literal["colocated", "separate"] = Field(
        "colocated",
        description=(
            "a learner beside its actors, or all learners on the first ranks and all actors on the "
            "others (heterogeneous jobs)"
        ),
    )
    evaluators: Natural = Field(
        0, description="ranks of a league, the last ones, that train nobody and play its evaluation matches"
    )
    environments_per_actor: Count = Field(16, description="environment slots stepped together, E")
    threads: PositiveInt = Field(1, description="torch threads of each rank")
    heartbeat_timeout_seconds: PositiveFloat | None = Field(
        60.0,
        description=(
            "a rank that was not heard for so long is killed and treated as dead; more than any "
            "environment step may take"
        ),
    )
    respawn: bool = Field(
        False,
        description=(
            "start a new process in the place of a dead actor (Open MPI 5 under mpiexec --with-ft ulfm)"
        ),
    )

    @property
    def group_list(self) -> tuple[GroupConfig, ...]:
        """One entry for each group, in order."""
        return (GroupConfig(),) * self.groups if isinstance(self.groups, int) else self.groups
