"""The sections `optimizer` and `rounds`, which runs and simulations share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import Count, Fraction, Natural, PositiveFloat, PositiveInt, Section
from hpcmarl.config.choice import Choice


class OptimizerConfig(Section):
    """Keys of all optimizers; those outside hpcmarl derive their configuration from it."""

    name: str = ""
    step_size: PositiveFloat = Field(description="step size")
    critic_step_size: PositiveFloat | None = Field(None, description="step size of critics; null: step_size")

    @property
    def step_size_of_critics(self) -> float:
        """Step size of critics, before any schedule."""
        return self.step_size if self.critic_step_size is None else self.critic_step_size


class ClippingConfig(OptimizerConfig):
    """Keys of the optimizers that can clip gradients."""

    max_gradient_norm: PositiveFloat | None = Field(
        None, description="norm to which the gradient of each policy is clipped; null: no clipping"
    )
    critic_max_gradient_norm: PositiveFloat | None = Field(
        None,
        description=(
            "norm to which the gradient of each critic is clipped separately; null: max_gradient_norm"
        ),
    )

    @property
    def max_gradient_norm_of_critics(self) -> float | None:
        """Norm to which the gradient of each critic is clipped; None: no clipping."""
        return (
            self.max_gradient_norm if self.critic_max_gradient_norm is None else self.critic_max_gradient_norm
        )


class NigtConfig(OptimizerConfig):
    """NIGT, normalised momentum with implicit gradient transport: step size alpha, momentum eta."""

    name: Literal["nigt"] = "nigt"
    step_size: PositiveFloat = Field(0.03, description="alpha, length of a normalised step")
    momentum: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="eta, weight of the new gradient")
    extrapolate: bool = Field(
        True,
        description=("sample at the extrapolated parameters; false: at the parameters themselves (ablation)"),
    )
    normalise: Literal["all", "policy", "none"] = Field(
        "all",
        description=(
            "normalise steps to length step_size for all policies together (all: one objective), for "
            "each policy (policy: separate objectives), or not (none: ablation); critics always "
            "separately"
        ),
    )


class AdamConfig(ClippingConfig):
    """Adam on the aggregated gradient."""

    name: Literal["adam"] = "adam"
    step_size: PositiveFloat = Field(1e-3, description="step size")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="decay of the running mean of gradients"
    )
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="decay of the running mean of squared gradients"
    )
    epsilon: PositiveFloat = Field(
        1e-5, description="constant added to the root of the mean squared gradient"
    )
    warmup_updates: Natural = Field(0, description="updates over which step sizes rise linearly; 0: none")
    decay_updates: Natural = Field(
        0, description="updates over which step sizes then fall linearly to final_fraction; 0: constant"
    )
    final_fraction: Fraction = Field(0.1, description="final share of the step sizes, with decay_updates")


class SgdConfig(ClippingConfig):
    """Gradient ascent with heavy-ball momentum."""

    name: Literal["sgd"] = "sgd"
    step_size: PositiveFloat = Field(0.01, description="step size")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="heavy-ball momentum; 0: none")


class RmspropConfig(ClippingConfig):
    """RMSprop on the aggregated gradient; the defaults are those of QMIX."""

    name: Literal["rmsprop"] = "rmsprop"
    step_size: PositiveFloat = Field(5e-4, description="step size")
    decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="decay of the running mean of squared gradients"
    )
    epsilon: PositiveFloat = Field(
        1e-5, description="constant added to the root of the mean squared gradient"
    )
    max_gradient_norm: PositiveFloat | None = Field(
        10.0, description="norm to which the gradient of each policy is clipped; null: no clipping"
    )


class RuleConfig(Section):
    """Base of the configuration of round rules outside hpcmarl, whose keys are beside `name`."""

    name: str = ""

    def __str__(self) -> str:
        return self.name


RuleName = Literal["sync", "rennala", "malenia", "afedpg"]


class RoundsConfig(Section):
    """Rule that ends a round, and the way in which its gradients are summed."""

    rule: Annotated[RuleName | RuleConfig, Choice("rules", RuleName, short=True)] = Field(
        "sync", description="rule that decides when a round ends and which work counts (hpcmarl list rules)"
    )
    batch: PositiveInt | None = Field(
        None,
        description=(
            "trajectories of a round, M (afedpg: of a gradient); null: one gradient of every group, with "
            "reinforce one episode of every slot"
        ),
    )
    initial_batch: PositiveInt | None = Field(
        None, description="trajectories of the first round, M_init; null: batch"
    )
    admission: Literal["first_finished", "all_begun"] = Field(
        "first_finished",
        description=(
            "episodes that count in a round of rennala: the first M to finish, which favours short ones "
            "(first_finished), or all that had begun when M had finished (all_begun)"
        ),
    )
    late: Literal["cancel", "ignore"] = Field(
        "cancel",
        description=(
            "unfinished on-policy trajectories at a new version: abandon them (cancel), or finish and "
            "then drop them (ignore)"
        ),
    )
    reduce: Literal["server", "mpi", "horovod", "gloo", "nccl"] = Field(
        "server",
        description=(
            "sum of the gradients: at the server, or by one AllReduce of the learners with MPI, Horovod "
            "or torch.distributed (gloo; nccl on GPUs)"
        ),
    )
    max_staleness: Natural = Field(
        16,
        description=(
            "largest staleness of rollouts in versions; older ones are dropped (off-policy algorithms)"
        ),
    )
    queue: Count = Field(
        8,
        description=(
            "number of rollout messages that a learner keeps; when it is exceeded, the oldest are dropped"
        ),
    )
    backpressure: bool = Field(
        False,
        description=(
            "pause actors while their learner has enough unprocessed rollouts; false: surplus rollouts "
            "are dropped, or replayed less often"
        ),
    )
    on_loss: Literal["auto", "drop", "stop"] = Field(
        "auto",
        description=(
            "after the loss of a group: continue without it (drop), or stop with a checkpoint (stop); "
            "auto: stop with malenia, whose objective would change"
        ),
    )

    @property
    def collective(self) -> bool:
        """Whether the learners sum gradients by AllReduce; each then steps a replica of the optimizer."""
        return self.reduce != "server"

    @property
    def counts_all_begun(self) -> bool:
        """Whether a round counts every episode that has begun by the time it has enough trajectories."""
        return self.admission == "all_begun"


_Own = NigtConfig | AdamConfig | SgdConfig | RmspropConfig
OptimizerSection = Annotated[_Own, Choice("optimizers", Annotated[_Own, Field(discriminator="name")])]


def critic_contradictions(optimizer: OptimizerConfig, learner: str) -> list[str]:
    """Return one line for each key of critics in the configuration of an algorithm without critics.

    Args:
        optimizer: Section `optimizer`.
        learner: Key and name of the algorithm (or objective) without critics, for the message.
    """
    return [
        (
            f"optimizer.{key}: {value} is for critics, which {learner} does not have; use "
            f"optimizer.{key.removeprefix('critic_')}, or remove the key"
        )
        for key in ("critic_step_size", "critic_max_gradient_norm")
        if (value := getattr(optimizer, key, None)) is not None
    ]


def round_contradictions(rounds: RoundsConfig, groups: int, word: str) -> list[str]:
    """Return one line for each pair of choices in `rounds` that exclude each other.

    Args:
        rounds: Section `rounds`.
        groups: Number of groups, or of workers in a simulation.
        word: Name for groups in the message: "groups" or "workers".
    """
    found = []
    if rounds.rule == "malenia" and rounds.batch is not None and rounds.batch < groups:
        found.append(
            f"rounds.batch: {rounds.batch} is less than the {groups} {word}; rounds.rule: malenia needs at "
            "least one trajectory from each; raise rounds.batch"
        )
    if rounds.rule == "afedpg" and rounds.collective:
        found.append(
            f"rounds.reduce: {rounds.reduce} does not work with rounds.rule: afedpg, in which every gradient "
            "is a separate step and nothing is summed; use rounds.reduce: server"
        )
    if rounds.admission == "all_begun" and rounds.rule != "rennala":
        found.append(
            f"rounds.admission: all_begun does not work with rounds.rule: {rounds.rule}, which counts "
            "episodes in the order of their starts; remove rounds.admission, or set rounds.rule: rennala"
        )
    return found
