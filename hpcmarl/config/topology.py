"""The section `topology`: numbers of actors and learners, and differences between groups."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpcmarl.config.base import (
    ActorCount,
    Count,
    Fraction,
    GroupCount,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    section,
)

InferenceSetting = Literal["auto", "numpy", "torch", "device"]


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


class WorkerConfig(Section):
    """A kind of workers: its environments, its exploration and its delays."""

    env: dict[str, Any] = Field(
        default={}, description="keys of env that differ for this kind, in addition to those of its group"
    )
    epsilon: Fraction | None = Field(
        None,
        description=(
            "share of random actions in this kind's environments; value-based algorithms only; null: as "
            "algo.epsilon_start to algo.epsilon_final say"
        ),
    )
    delay: DelayConfig = section(DelayConfig, "delays of this kind of workers, for studies")


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
    workers_per_actor: ActorCount | Literal["auto"] = Field(
        0,
        description=(
            "ranks that only step environments for an actor, which then infers for all of them in one batch; "
            "0: actors step their environments themselves; auto: the arrangement that is measured to be "
            "faster"
        ),
    )
    workers: tuple[WorkerConfig, ...] = Field(
        (), description="kinds of workers; the workers of an actor take them in turn; empty: all are equal"
    )
    batch: Count | None = Field(
        None,
        description=(
            "environment slots for which an actor with workers waits before it infers; null: it infers for "
            "those that are ready"
        ),
    )
    deadline_milliseconds: NonNegative | None = Field(
        None,
        description=(
            "longest time that a slot waits until topology.batch slots are ready; without topology.batch, "
            "until all are; null: no limit"
        ),
    )
    inference: InferenceSetting = Field(
        "auto",
        description=(
            "what computes the networks of actors: numpy, torch on the CPU (torch), or torch on `device` "
            "(device); auto: numpy for small batches of networks that it can compute, else torch, on "
            "`device` for actors with workers"
        ),
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

    def kind_of_worker(self, number: int) -> int:
        """Return the kind of an actor's worker: its place in `workers`, 0 if there are none.

        Args:
            number: Number of the worker among those of its actor.
        """
        return number % max(1, len(self.workers))


def worker_contradictions(config: TopologyConfig, *, explores: bool, deterministic: bool) -> list[str]:
    """Return one line for each key about workers that does not fit the others.

    Args:
        config: The section.
        explores: Whether the algorithm has a share of random actions, which `epsilon` replaces.
        deterministic: Whether the run is deterministic.
    """
    found = []
    workers, slots = config.workers_per_actor, config.environments_per_actor
    if workers != "auto" and workers > slots:
        found.append(
            f"topology.workers_per_actor: {workers} workers have only topology.environments_per_actor: "
            f"{slots} environments to step; allowed: at most one worker for each environment"
        )
    if workers == 0:
        given = [
            key for key in ("workers", "batch", "deadline_milliseconds") if key in config.model_fields_set
        ]
        if given and getattr(config, given[0]) not in (None, ()):
            found.append(
                f"topology.{given[0]} needs workers, and topology.workers_per_actor is 0; set it to a number "
                "or to auto"
            )
    if config.deadline_milliseconds == 0 and config.batch is None:
        found.append(
            "topology.deadline_milliseconds: 0 needs topology.batch: without a batch to wait for there is "
            "nothing to end; set topology.batch, or remove the deadline"
        )
    if config.batch is not None and config.batch > slots:
        found.append(
            f"topology.batch: {config.batch} exceeds topology.environments_per_actor: {slots}, so the batch "
            f"would never be complete; allowed: 1 to {slots}"
        )
    if deterministic and (config.batch is not None or config.deadline_milliseconds is not None):
        key = "batch" if config.batch is not None else "deadline_milliseconds"
        found.append(
            f"topology.{key} does not work with deterministic: true, where actors infer for all "
            f"environments at once; remove topology.{key}"
        )
    if not explores:
        named = [index for index, kind in enumerate(config.workers) if kind.epsilon is not None]
        found += [
            f"topology.workers.{index}.epsilon needs an algorithm with a share of random actions; allowed "
            "with algo.name: iql, vdn, qmix, wqmix or res"
            for index in named[:1]
        ]
    return found
