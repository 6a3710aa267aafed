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

    step: NonNegative = Field(0.0, description="seconds added to every environment step of an actor")
    trajectory: NonNegative = Field(
        0.0, description="seconds added to every trajectory (an unroll or an episode)"
    )


class GroupConfig(Section):
    """One learner with its actors."""

    env: dict[str, Any] = Field(default={}, description="keys of env that differ in this group")
    delay: DelayConfig = section(DelayConfig, "delays of this group's actors, for studies")
    actors: ActorCount | None = Field(
        None, description="number of actors in this group; null: topology.actors_per_learner"
    )


class TopologyConfig(Section):
    """Roles of the ranks; `hpcmarl doctor CONFIG` prints the table."""

    groups: GroupCount | tuple[GroupConfig, ...] = Field(
        1, description="number of learners, or a list with one entry for each learner"
    )
    actors_per_learner: ActorCount | Literal["auto"] = Field(
        "auto",
        description=(
            "number of actors of each learner; auto: divide all ranks; 0: the learner steps its own "
            "environments"
        ),
    )
    server: Literal["auto", "dedicated", "shared"] = Field(
        "auto",
        description=(
            "the server has rank 0 to itself (dedicated), or shares it with the first learner (shared); "
            "auto: dedicated if there are enough ranks"
        ),
    )
    placement: Literal["colocated", "separate"] = Field(
        "colocated",
        description=(
            "each learner next to its actors (colocated), or all learners on the first ranks and all "
            "actors on the others (separate; heterogeneous jobs)"
        ),
    )
    evaluators: Natural = Field(
        0, description="number of ranks, the last ones, that only play evaluation matches of a league"
    )
    environments_per_actor: Count = Field(
        16, description="environment slots that each actor steps together, E"
    )
    threads: PositiveInt = Field(1, description="torch threads of each rank")
    heartbeat_timeout_seconds: PositiveFloat | None = Field(
        60.0,
        description=(
            "seconds without a heartbeat after which a rank is killed and treated as dead; must exceed "
            "the longest environment step; null: never"
        ),
    )
    respawn: bool = Field(
        False,
        description=(
            "start a new process in place of a dead actor (Open MPI 5 under mpiexec --with-ft ulfm)"
        ),
    )

    @property
    def group_list(self) -> tuple[GroupConfig, ...]:
        """One entry for each group, in order."""
        return (GroupConfig(),) * self.groups if isinstance(self.groups, int) else self.groups
