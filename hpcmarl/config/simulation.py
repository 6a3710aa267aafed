"""The model of a simulation's configuration (`hpcmarl simulate`): a cluster in virtual time.

A file with a section `sim` is a simulation. Its sections `optimizer` and `rounds` are those of a run.
`sweep.py` expands `sim.sweep` into cases. All times share one arbitrary unit of virtual time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from hpcmarl.config import (
    EnvConfig,
    MATraceConfig,
    NigtConfig,
    OptimizerSection,
    PolicyConfig,
    ReinforceConfig,
    RoundsConfig,
    critic_contradictions,
    round_contradictions,
)
from hpcmarl.config.base import (
    Count,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    Width,
    section,
)

Law = Literal["constant", "sqrt", "linear", "random"]
BYTES_OF_A_PARAMETER = 4


class TimesConfig(Section):
    """Mean times of the workers, and their variation."""

    law: Law = Field(
        "constant",
        description=(
            "mean of worker i = 1 … n: scale (constant), scale·√i (sqrt), scale·i (linear), or lognormal "
            "around scale, drawn once (random)"
        ),
    )
    scale: NonNegative = Field(1.0, description="scale of the means, in virtual time")
    dimension_exponent: float = Field(
        0.0, description="power of the number of parameters by which the means are multiplied"
    )
    spread: NonNegative = Field(0.5, description="standard deviation of the logarithm, for law: random")
    values: tuple[NonNegative, ...] | None = Field(
        None, description="means of the workers, one for each, instead of law and scale"
    )
    noise: Literal["none", "lognormal", "exponential"] = Field(
        "none", description="distribution of each single time around its mean"
    )
    noise_spread: NonNegative = Field(
        0.5, description="standard deviation of the logarithm, for noise: lognormal"
    )
    drift: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="fraction by which the means swing; each worker has its own phase"
    )
    drift_period: PositiveFloat = Field(100.0, description="virtual time of one swing")


class CommunicationConfig(TimesConfig):
    """Times of one round trip of each worker; `law` and `scale` give the latency."""

    bandwidth: PositiveFloat | None = Field(
        None,
        description=(
            "bytes in a unit of virtual time; adds the time of the parameters, 4 bytes each, in both "
            "directions; null: no such time"
        ),
    )


class FailureConfig(Section):
    """Workers that fail and lose unfinished work: once at a given time, or repeatedly at random times."""

    workers: tuple[Natural, ...] | None = Field(
        None, description="numbers of the workers, from 0; null: all workers"
    )
    at: NonNegative | None = Field(None, description="virtual time of a single failure")
    every: PositiveFloat | None = Field(
        None, description="mean time between failures of a worker (exponential)"
    )
    repair: PositiveFloat | None = Field(
        None, description="virtual time until the worker continues; null: it never does"
    )


class LimitConfig(Section):
    """Limits of a simulation; it ends at the first that it reaches."""

    time: PositiveFloat | None = Field(
        None, description="virtual time after which the simulation ends; null: no limit"
    )
    gradients: PositiveInt | None = Field(
        None,
        description=(
            "number of used gradients (one for each trajectory) after which the simulation ends; null: "
            "no limit"
        ),
    )
    rounds: PositiveInt | None = Field(
        None, description="number of rounds after which the simulation ends; null: no limit"
    )


class TuneConfig(Section):
    """Tuning of each case on separate seeds, by the mean objective late in the simulation."""

    seeds: tuple[Natural, ...] = Field(min_length=1, description="seeds used for tuning only")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of sim.stop after which a trial ends"
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        min_length=1, description="values to try for each key; with several keys all combinations"
    )


class SweepConfig(Section):
    """Cases of a simulation: every method in every setting, each a name with the keys that differ.

    `rounds.batch` of a method may be a list, which gives one case for each value.
    """

    settings: dict[str, dict[str, Any]] = Field(
        {}, description="keys that differ, for each named setting; default: one setting without changes"
    )
    methods: dict[str, dict[str, Any]] = Field(
        {},
        description=("keys that differ, for each named method; default: one method, named after rounds.rule"),
    )
    seeds: tuple[Natural, ...] = Field((), description="seeds with which each case is run; default: seed")
    tune: TuneConfig | None = Field(None, description="tuning of each case before it is run; null: none")


class SimConfig(Section):
    """The simulated cluster, the limits and the cases of a simulation."""

    workers: Count = Field(10, description="number of workers, n; each is one group")
    compute_times: PositiveFloat | tuple[PositiveFloat, ...] | Law | TimesConfig = Field(
        1.0,
        description=(
            "h, virtual time of one trajectory: a number for all workers, a list with one for each, or a law"
        ),
    )
    communication_times: NonNegative | tuple[NonNegative, ...] | Law | CommunicationConfig = Field(
        0.0,
        description=(
            "kappa, virtual time of one round trip: a number for all workers, a list with one for each, "
            "or a law"
        ),
    )
    charge: Literal["trajectory", "step"] = Field(
        "trajectory",
        description=(
            "time of a trajectory: h_i for any length (trajectory), or "
            "h_i·steps/objective.reference_steps, which is biased towards short ones (step)"
        ),
    )
    local_step_size: PositiveFloat | None = Field(
        None,
        description=(
            "length of the local steps with rounds.rule: sync (FedPG): between rounds each worker moves "
            "its own point along the gradient of each trajectory; null: none"
        ),
    )
    failures: tuple[FailureConfig, ...] = Field((), description="failures of workers")
    stop: LimitConfig = section(LimitConfig, "limits of the simulation; at least one is required")
    thresholds: tuple[float, ...] = Field(
        (),
        description=(
            "objective values for which the time of reaching them is reported (mean of 5 successive points)"
        ),
    )
    points: Annotated[int, Field(ge=2, le=100_000)] = Field(
        200, description="largest number of points that are kept, evenly over the rounds"
    )
    sweep: SweepConfig = section(SweepConfig, "cases: settings, methods, seeds and tuning")


class NoObjective(Section):
    """No objective: gradients are only counted, for throughput and round times."""

    name: Literal["none"] = "none"
    dimension: Count = Field(1, description="number of parameters, d; it affects times only")


class QuadraticsConfig(Section):
    """J_i(x) = -curvature/2 |x - optimum_i|², with Gaussian noise on each gradient."""

    name: Literal["quadratics"] = "quadratics"
    dimension: Width = Field(1, description="number of parameters, d")
    optima: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        description=("value of all coordinates of each worker's optimum; repeated in turn for more workers"),
    )
    curvature: PositiveFloat = Field(1.0, description="curvature of the quadratics")
    noise: NonNegative = Field(
        0.0, description="standard deviation of a gradient, over all coordinates together"
    )
    start: float = Field(0.0, description="value of all coordinates of the first point")


class NonconvexConfig(Section):
    """J_i(x) = -sum_k w_k z_k²/(1 + z_k²), z = R(x - optimum_i), with Gaussian noise on each gradient.

    R is a random rotation; the w_k go from 1 to 1/condition.
    """

    name: Literal["nonconvex"] = "nonconvex"
    dimension: Width = Field(20, description="number of parameters, d")
    condition: Annotated[float, Field(ge=1)] = Field(
        100.0, description="ratio of the largest weight w_k to the smallest"
    )
    heterogeneity: NonNegative = Field(
        0.0, description="distance of the workers' optima from the common optimum"
    )
    noise: NonNegative = Field(
        1.0, description="standard deviation of a gradient, over all coordinates together"
    )
    start: PositiveFloat = Field(3.0, description="distance of the first point from the common optimum")


class SampledWorkerConfig(Section):
    """Differences of one worker from the others."""

    env: dict[str, Any] = Field(
        {}, description="keys of objective.env that differ for this worker; kwargs are merged"
    )


class SimulatedMATraceConfig(MATraceConfig):
    """MA-Trace without a critic of the state, which the simulator does not record."""

    critic: Literal["joint_observation", "independent"] = Field(
        "joint_observation",
        description="critic of all observations (joint_observation), or of each agent's own (independent)",
    )


class PolicyObjectiveConfig(Section):
    """J_i(theta) = expected return in worker i's environment; gradients come from really played episodes."""

    name: Literal["policy"] = "policy"
    env: EnvConfig = Field(description="environment of the workers, as in a run")
    policies: dict[str, PolicyConfig] = Field(
        {}, description="policies by name, as in a run; default: agents with the same spaces share a policy"
    )
    algo: Annotated[ReinforceConfig | SimulatedMATraceConfig, Field(discriminator="name")] = section(
        ReinforceConfig, "algorithm that computes the gradients"
    )
    reference_steps: Count = Field(
        100, description="length of a trajectory that takes h_i, with sim.charge: step"
    )
    slots: Count = Field(20, description="number of episodes that are played in parallel")
    workers: tuple[SampledWorkerConfig, ...] = Field(
        (),
        description=(
            "differences of the workers, one entry for each, repeated in turn for more workers; default: none"
        ),
    )

    @model_validator(mode="after")
    def _environments_fit(self) -> PolicyObjectiveConfig:
        for index, worker in enumerate(self.workers):
            try:
                self.env.changed(worker.env)
            except ValidationError as error:
                raise _at(("workers", index, "env"), error) from None
        return self


def _at(place: tuple[str | int, ...], error: ValidationError) -> ValidationError:
    """Return the same errors with locations below `place`."""
    details = [
        InitErrorDetails(
            type=each["type"], loc=(*place, *each["loc"]), input=each["input"], ctx=each.get("ctx", {})
        )
        for each in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, details)


Objective = Annotated[
    NoObjective | QuadraticsConfig | NonconvexConfig | PolicyObjectiveConfig, Field(discriminator="name")
]


class SimulationConfig(Section):
    """Configuration of a simulation."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        "simulation", description="name of the simulation, in its default directory"
    )
    seed: Natural = Field(0, description="seed of the simulation's random numbers")
    objective: Objective = section(NoObjective, "objective that the workers maximise")
    optimizer: OptimizerSection = section(NigtConfig, "optimizer of the summed gradients")
    rounds: RoundsConfig = section(RoundsConfig, "rule that ends a round")
    sim: SimConfig = Field(description="simulated cluster, limits and cases")

    @model_validator(mode="after")
    def _agree(self) -> SimulationConfig:
        for contradiction in simulation_contradictions(self):
            raise ValueError(contradiction)
        return self

    @property
    def batch(self) -> int:
        """Number of trajectories in a round, M: `rounds.batch`, or by default one of every worker.

        With afedpg it is the number in one gradient, by default one.
        """
        return self.rounds.batch or (1 if self.rounds.rule == "afedpg" else self.sim.workers)

    def times(self, key: Literal["compute_times", "communication_times"]) -> CommunicationConfig:
        """Return `sim.compute_times` or `sim.communication_times` in the long form."""
        given = getattr(self.sim, key)
        if isinstance(given, TimesConfig):
            return CommunicationConfig(**given.model_dump())
        if isinstance(given, str):
            return CommunicationConfig.model_validate({"law": given})
        return (
            CommunicationConfig(values=given)
            if isinstance(given, tuple)
            else CommunicationConfig(scale=given)
        )


def simulation_contradictions(config: SimulationConfig) -> list[str]:
    """Return one line for each pair of choices that exclude each other: keys, reason and remedy."""
    sim, tune = config.sim, config.sim.sweep.tune
    found = round_contradictions(config.rounds, sim.workers, "workers (sim.workers)")
    found += _critic_contradictions(config)
    if sim.stop == LimitConfig():
        found.append(
            "sim.stop is empty, so the simulation would never end; set sim.stop.time, sim.stop.gradients or "
            "sim.stop.rounds"
        )
    for key in ("compute_times", "communication_times"):
        times = config.times(key)
        if times.values is not None and len(times.values) != sim.workers:
            found.append(
                f"sim.{key} has {len(times.values)} values for {sim.workers} workers (sim.workers); use one "
                "value for each worker, or a law"
            )
    compute = config.times("compute_times")
    if compute.scale == 0 or (compute.values is not None and 0 in compute.values):
        found.append("sim.compute_times is 0 for a worker; allowed: times > 0")
    found += _failure_contradictions(sim)
    if sim.charge == "step" and config.objective.name != "policy":
        found.append(
            f"sim.charge: step needs trajectories with steps, which objective.name: {config.objective.name} "
            "does not have; set objective.name: policy, or sim.charge: trajectory"
        )
    if sim.charge == "step" and sim.failures:
        found.append("sim.charge: step does not work with sim.failures; remove one of the two keys")
    if sim.local_step_size is not None:
        found += _local_contradictions(config, sim.local_step_size)
    if tune is not None and config.objective.name == "none":
        found.append(
            "sim.sweep.tune compares values of the objective, and objective.name is none; set "
            "objective.name: quadratics, nonconvex or policy, or remove sim.sweep.tune"
        )
    if sim.thresholds and config.objective.name == "none":
        found.append(
            "sim.thresholds are values of the objective, and objective.name is none; set objective.name: "
            "quadratics, nonconvex or policy, or remove sim.thresholds"
        )
    shared = set(tune.seeds if tune else ()) & set(sim.sweep.seeds or (config.seed,))
    if shared:
        found.append(
            f"sim.sweep.tune.seeds has {min(shared)}, which is also a seed of the results; use other seeds "
            "for tuning"
        )
    return found


def _failure_contradictions(sim: SimConfig) -> list[str]:
    """Return one line for each mistake in `sim.failures`."""
    found = []
    for index, failure in enumerate(sim.failures):
        if (failure.at is None) == (failure.every is None):
            found.append(
                f"sim.failures.{index} has "
                f"{'neither at nor every' if failure.at is None else 'at and every'}; set at for a single "
                "failure, or every for repeated ones"
            )
        if failure.every is not None and failure.repair is None and failure.workers is None:
            found.append(
                f"sim.failures.{index} would stop every worker forever; set sim.failures.{index}.repair or "
                f"sim.failures.{index}.workers"
            )
        unknown = [worker for worker in failure.workers or () if worker >= sim.workers]
        if unknown:
            found.append(
                f"sim.failures.{index}.workers names {unknown[0]}; allowed: numbers from 0 to "
                f"{sim.workers - 1} (sim.workers)"
            )
    return found


def _critic_contradictions(config: SimulationConfig) -> list[str]:
    """Return one line for each key of critics that the algorithm or the simulator does not support."""
    algo = config.objective.algo if isinstance(config.objective, PolicyObjectiveConfig) else None
    if not isinstance(algo, MATraceConfig):
        return critic_contradictions(
            config.optimizer,
            f"objective.{'name' if algo is None else 'algo.name'}: {(algo or config.objective).name}",
        )
    found = []
    if algo.critic_network is not None and algo.critic_network.recurrent:
        found.append(
            f"objective.algo.critic_network.body: {algo.critic_network.body} needs the critics' memory, "
            "which the simulator does not record; remove the key"
        )
    return found


def _local_contradictions(config: SimulationConfig, step_size: float) -> list[str]:
    """Return one line for each choice that `sim.local_step_size` excludes."""
    found = []
    key = f"sim.local_step_size: {step_size:g}"
    if config.rounds.rule != "sync":
        found.append(
            f"{key} does not work with rounds.rule: {config.rounds.rule}, in which workers do not meet after "
            "equal shares; set rounds.rule: sync, or remove sim.local_step_size"
        )
    if config.objective.name == "none":
        found.append(
            f"{key} needs the gradient of an objective, and objective.name is none; set objective.name: "
            "quadratics, nonconvex or policy, or remove sim.local_step_size"
        )
    if config.sim.charge == "step":
        found.append(
            f"{key} does not work with sim.charge: step, which plays all trajectories of a share at one "
            "point; remove one of the two keys"
        )
    return found
