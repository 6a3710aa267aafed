"""The model of a simulation's configuration (`hpcmarl simulate`): a cluster in virtual time.

A file with a section `sim` is a simulation. Its sections `optimizer` and `rounds` are those of a run.
`sweep.py` expands `sim.sweep` into cases. All times share one arbitrary unit of virtual time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

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
LAWS = (
    "the mean of worker i = 1 … n: constant: scale; sqrt: scale·√i; linear: scale·i; random: lognormal "
    "around scale, drawn once"
)
BYTES_OF_A_PARAMETER = 4


class TimesConfig(Section):
    """Mean times of the workers, and their variation."""

    law: Law = Field("constant", description=LAWS)
    scale: NonNegative = 1.0
    dimension_exponent: float = Field(
        0.0, description="the means are multiplied by the number of parameters to this power"
    )
    spread: NonNegative = Field(0.5, description="law random: standard deviation of the logarithm")
    values: tuple[NonNegative, ...] | None = Field(
        None, description="the means themselves, one a worker, instead of law and scale"
    )
    noise: Literal["none", "lognormal", "exponential"] = Field(
        "none", description="distribution of each single time around its mean"
    )
    noise_spread: NonNegative = Field(0.5, description="noise lognormal: standard deviation of the logarithm")
    drift: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="the means swing by this fraction, each worker at a phase of its own"
    )
    drift_period: PositiveFloat = Field(100.0, description="virtual time of one swing")


class CommunicationConfig(TimesConfig):
    """Times of one round trip of each worker; `law` and `scale` give the latency."""

    bandwidth: PositiveFloat | None = Field(
        None,
        description=(
            "bytes a unit of time; adds what the parameters, 4 bytes each, take there and back; null: nothing"
        ),
    )


class FailureConfig(Section):
    """Workers that fail and lose unfinished work: once at a given time, or repeatedly at random times."""

    workers: tuple[Natural, ...] | None = Field(None, description="numbers from 0; null: every worker")
    at: NonNegative | None = Field(None, description="virtual time of the failure")
    every: PositiveFloat | None = Field(
        None, description="mean time between failures of a worker (exponential)"
    )
    repair: PositiveFloat | None = Field(None, description="how long it is down; null: for good")


class LimitConfig(Section):
    """Limits of a simulation; it ends at the first that it reaches."""

    time: PositiveFloat | None = Field(None, description="virtual time")
    gradients: PositiveInt | None = Field(None, description="trajectories whose gradients were used")
    rounds: PositiveInt | None = None


class TuneConfig(Section):
    """Tuning of each case on separate seeds, by the mean objective late in the simulation."""

    seeds: tuple[Natural, ...] = Field(min_length=1, description="seeds for tuning only")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="the part of sim.stop after which a trial ends"
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        min_length=1, description="key: values to try; of several keys all combinations"
    )


class SweepConfig(Section):
    """Cases of a simulation: every method in every setting, each a name with the keys that differ.

    `rounds.batch` of a method may be a list, which gives one case for each value.
    """

    settings: dict[str, dict[str, Any]] = Field({}, description="default: one, without a name of its own")
    methods: dict[str, dict[str, Any]] = Field({}, description="default: one, named after rounds.rule")
    seeds: tuple[Natural, ...] = Field((), description="each case is run once a seed; default: `seed`")
    tune: TuneConfig | None = None


class SimConfig(Section):
    """The simulated cluster, the limits and the cases of a simulation."""

    workers: Count = 10
    compute_times: PositiveFloat | tuple[PositiveFloat, ...] | Law | TimesConfig = Field(
        1.0, description="h, the time of one trajectory: for all, one a worker, or a law"
    )
    communication_times: NonNegative | tuple[NonNegative, ...] | Law | CommunicationConfig = Field(
        0.0, description="kappa, the time of one round trip: for all, one a worker, or a law"
    )
    charge: Literal["trajectory", "step"] = Field(
        "trajectory",
        description=(
            "a trajectory takes h_i whatever its length, or h_i·steps/objective.reference_steps "
            "(biased towards short ones)"
        ),
    )
    local_step_size: PositiveFloat | None = Field(
        None,
        description=(
            "rule sync: between two rounds each worker moves its own point by so much along the "
            "gradient of each of its trajectories (FedPG)"
        ),
    )
    failures: tuple[FailureConfig, ...] = ()
    stop: LimitConfig = section(LimitConfig)
    thresholds: tuple[float, ...] = Field(
        (), description="tell when the objective reached each of these (the mean of 5 successive points)"
    )
    points: Annotated[int, Field(ge=2, le=100_000)] = Field(
        200, description="at most so many points are kept, evenly over the rounds"
    )
    sweep: SweepConfig = section(SweepConfig)


class NoObjective(Section):
    """No objective: gradients are only counted, for throughput and round times."""

    name: Literal["none"] = "none"
    dimension: Count = Field(
        1, description="number of parameters, d; without an objective for communication times only"
    )


class QuadraticsConfig(Section):
    """J_i(x) = -curvature/2 |x - optimum_i|², with Gaussian noise on each gradient."""

    name: Literal["quadratics"] = "quadratics"
    dimension: Width = Field(1, description="number of parameters, d")
    optima: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        description="all coordinates of worker i's optimum; in turn where there are more workers",
    )
    curvature: PositiveFloat = 1.0
    noise: NonNegative = Field(
        0.0, description="standard deviation of a gradient, over all coordinates together"
    )
    start: float = Field(0.0, description="all coordinates of the first point")


class NonconvexConfig(Section):
    """J_i(x) = -sum_k w_k z_k²/(1 + z_k²), z = R(x - optimum_i), with Gaussian noise on each gradient.

    R is a random rotation; the w_k go from 1 to 1/condition.
    """

    name: Literal["nonconvex"] = "nonconvex"
    dimension: Width = Field(20, description="number of parameters, d")
    condition: Annotated[float, Field(ge=1)] = 100.0
    heterogeneity: NonNegative = Field(0.0, description="distance of the workers' optima from the common one")
    noise: NonNegative = Field(
        1.0, description="standard deviation of a gradient, over all coordinates together"
    )
    start: PositiveFloat = Field(3.0, description="distance of the first point from the common optimum")


class SampledWorkerConfig(Section):
    """Differences of one worker from the others."""

    env: dict[str, Any] = Field({}, description="keys of `objective.env` that differ; `kwargs` are merged")


class PolicyObjectiveConfig(Section):
    """J_i(theta) = expected return in worker i's environment; gradients come from really played episodes."""

    name: Literal["policy"] = "policy"
    env: EnvConfig
    policies: dict[str, PolicyConfig] = Field(
        {}, description="as of a run; default: agents with the same spaces share one"
    )
    algo: Annotated[ReinforceConfig | MATraceConfig, Field(discriminator="name")] = section(ReinforceConfig)
    reference_steps: Count = Field(
        100, description="with sim.charge: step, the length of a trajectory that takes h_i"
    )
    slots: Count = Field(20, description="episodes that are played side by side")
    workers: tuple[SampledWorkerConfig, ...] = Field(
        (), description="one entry a worker, in turn where there are more workers; default: all alike"
    )

    @model_validator(mode="after")
    def _environments_fit(self) -> PolicyObjectiveConfig:
        for worker in self.workers:
            self.env.changed(worker.env)
        return self


Objective = Annotated[
    NoObjective | QuadraticsConfig | NonconvexConfig | PolicyObjectiveConfig, Field(discriminator="name")
]


class SimulationConfig(Section):
    """Configuration of a simulation."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "simulation"
    seed: Natural = 0
    objective: Objective = section(NoObjective)
    optimizer: OptimizerSection = section(NigtConfig)
    rounds: RoundsConfig = section(RoundsConfig)
    sim: SimConfig

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
            "sim.stop is empty, the simulation would never end; set sim.stop.time, sim.stop.gradients or "
            "sim.stop.rounds"
        )
    for key in ("compute_times", "communication_times"):
        times = config.times(key)
        if times.values is not None and len(times.values) != sim.workers:
            found.append(
                f"sim.{key} has {len(times.values)} values for {sim.workers} workers (sim.workers); give one "
                "a worker, or a law"
            )
    compute = config.times("compute_times")
    if compute.scale == 0 or (compute.values is not None and 0 in compute.values):
        found.append("sim.compute_times is 0 for a worker; a trajectory takes some time: give a number > 0")
    for index, failure in enumerate(sim.failures):
        if (failure.at is None) == (failure.every is None):
            found.append(f"sim.failures.{index} needs either `at` (once) or `every` (again and again)")
        if failure.every is not None and failure.repair is None and failure.workers is None:
            found.append(f"sim.failures.{index} stops every worker for good; set repair, or workers")
        unknown = [worker for worker in failure.workers or () if worker >= sim.workers]
        if unknown:
            found.append(
                f"sim.failures.{index}.workers names {unknown[0]}; allowed: numbers from 0 to "
                f"{sim.workers - 1} (sim.workers)"
            )
    if sim.charge == "step" and config.objective.name != "policy":
        found.append(
            "sim.charge: step needs trajectories that have steps; set objective.name to policy, or "
            "sim.charge to trajectory"
        )
    if sim.charge == "step" and sim.failures:
        found.append("sim.charge: step does not go with sim.failures; remove one of them")
    if sim.local_step_size is not None:
        found += _local_contradictions(config)
    if tune is not None and config.objective.name == "none":
        found.append(
            "sim.sweep.tune needs an objective to judge by; set objective.name to quadratics, nonconvex or "
            "policy"
        )
    if sim.thresholds and config.objective.name == "none":
        found.append(
            "sim.thresholds need an objective that may reach them; set objective.name, or remove the key"
        )
    shared = set(tune.seeds if tune else ()) & set(sim.sweep.seeds or (config.seed,))
    if shared:
        found.append(
            f"sim.sweep.tune.seeds has {min(shared)}, which is a seed of the results, too; tune on other "
            "seeds"
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
    if algo.critic == "state":
        found.append(
            "objective.algo.critic: state needs the environment's state, which the simulator does not keep; "
            "use joint_observation or independent"
        )
    if algo.critic_network is not None and algo.critic_network.recurrent:
        found.append(
            "objective.algo.critic_network.recurrent: true needs what critics remember, which the simulator "
            "does not keep; remove the key"
        )
    return found


def _local_contradictions(config: SimulationConfig) -> list[str]:
    """Return one line for each choice that `sim.local_step_size` excludes."""
    found = []
    if config.rounds.rule != "sync":
        found.append(
            "sim.local_step_size goes with rounds.rule: sync, where workers meet after equal shares, not "
            f"with {config.rounds.rule}"
        )
    if config.objective.name == "none":
        found.append(
            "sim.local_step_size needs an objective to move along; set objective.name, or remove the key"
        )
    if config.sim.charge == "step":
        found.append(
            "sim.local_step_size does not go with sim.charge: step, which plays a share's trajectories at "
            "one point; remove one of them"
        )
    return found
