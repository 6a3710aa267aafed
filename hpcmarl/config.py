"""The configuration: frozen pydantic models with defaults, units and cross-field checks. `hpcmarl config schema` prints it.

`configfile.py` reads YAML into it; everything else takes the models as arguments. Knows no environment, network or rank:
what only the environment can tell (has it a state? do spaces fit?) is checked where the environment is known.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpcmarl.configbase import ActorCount, Count, Fraction, GroupCount, Natural, NonNegative, PositiveFloat, PositiveInt, Section, Width
from hpcmarl.configrun import CheckpointConfig, EvalConfig, FaultsConfig, LoggingConfig, StopConfig, TrajectoriesConfig
from hpcmarl.configslurm import SlurmConfig


class EnvConfig(Section):
    """The environment that every actor steps."""

    id: str = Field(description="import path: a PettingZoo module (mpe2.simple_spread_v3) or package.module:factory")
    kwargs: dict[str, Any] = Field(default={}, description="keyword arguments of the environment's factory")
    kind: Literal["auto", "parallel", "aec"] = Field("auto", description="which PettingZoo interface to use; auto: parallel where it exists")
    max_steps: PositiveInt | None = Field(None, description="truncate episodes after so many steps (on top of the environment's own limit)")
    restarts: Natural = Field(3, description="how often an actor may restart environments that raise or hang")
    past_restarts: Literal["stop", "quarantine"] = Field(
        "stop", description="after that: stop the run with the environment's traceback, or give up the slot, until none is left"
    )
    step_seconds: PositiveFloat | None = Field(
        30.0, description="an environment that takes longer for a step counts as hung (ten times as long for a reset); uses SIGALRM"
    )


class PolicyConfig(Section):
    """Which agents share one policy."""

    agents: tuple[str, ...] = Field(min_length=1, description="agent names or patterns (agent_*, adversary_?)")


class NetworkConfig(Section):
    """The shape of a multi-layer perceptron, and the recurrence before its head."""

    hidden: tuple[Width, ...] = Field((64, 64), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = "tanh"
    recurrent: bool = Field(False, description="put a GRU between the hidden layers and the policy head")
    memory: Width = Field(64, description="units of the GRU")


class AlgoConfig(Section):
    """What every algorithm has."""

    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    network: NetworkConfig = NetworkConfig()


class ReinforceConfig(AlgoConfig):
    """The trajectory gradient of arXiv 2509.24305: discounted rewards to go, no baseline; whole episodes."""

    name: Literal["reinforce"] = "reinforce"


class MATraceConfig(AlgoConfig):
    """MA-Trace (arXiv 2111.11229): V-trace with ratios over the team."""

    name: Literal["ma_trace"] = "ma_trace"
    unroll: Count = Field(25, description="steps of one unroll, T")
    critic: Literal["obs", "full", "dec"] = Field("obs", description="critic on all observations, on the environment's state, or one per agent")
    ratios: Literal["joint", "agent"] | None = Field(
        None, description="importance ratios of the team or of each agent; default: joint, with critic dec: agent"
    )
    rho_max: PositiveFloat = Field(1.0, description="clip of the ratio in the temporal difference and the advantage")
    c_max: PositiveFloat = Field(1.0, description="clip of the ratio in the trace")
    trace_lambda: Fraction = Field(1.0, description="lambda of the trace")
    importance_sampling: bool = Field(True, description="false sets all ratios to 1 (ablation)")
    value_cost: NonNegative = 0.25
    entropy_cost: NonNegative = Field(0.01, description="the entropy bonus; the initial one where target_entropy is set")
    target_entropy: Fraction | None = Field(None, description="learn the entropy cost towards this share of the maximum entropy (discrete actions)")
    entropy_cost_rate: PositiveFloat = Field(0.1, description="scale of the entropy cost's own gradient (Lagrange rule)")
    critic_network: NetworkConfig | None = Field(None, description="default: the shape of `network`, without recurrence")
    normalise_advantages: bool = Field(False, description="divide advantages by their standard deviation in the batch")
    reward_scale: PositiveFloat = Field(1.0, description="rewards are multiplied by this before learning (not in reports)")
    reuse: PositiveInt = Field(1, description="how many gradients each rollout takes part in (ratios correct its age)")


class NigtConfig(Section):
    """Normalised momentum with implicit gradient transport (papers: NIGT): step size alpha, momentum eta."""

    name: Literal["nigt"] = "nigt"
    step_size: PositiveFloat = 0.03
    momentum: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="eta, the weight of the new gradient")
    extrapolate: bool = Field(True, description="false samples at the parameters themselves (ablation)")
    normalise: bool = Field(True, description="false steps by the momentum itself (ablation)")


class AdamConfig(Section):
    """Adam on the aggregated gradient."""

    name: Literal["adam"] = "adam"
    step_size: PositiveFloat = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-5
    warmup_updates: Natural = Field(0, description="the step size rises linearly over so many updates")
    decay_updates: Natural = Field(0, description="the step size falls linearly to final_fraction over so many updates; 0: constant")
    final_fraction: Fraction = 0.1
    max_gradient_norm: PositiveFloat | None = None


class SgdConfig(Section):
    """Gradient ascent with heavy-ball momentum."""

    name: Literal["sgd"] = "sgd"
    step_size: PositiveFloat = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_gradient_norm: PositiveFloat | None = None


class RoundsConfig(Section):
    """When a round ends and how its sum travels."""

    rule: Literal["sync", "rennala", "malenia", "afedpg"] = "sync"
    batch: PositiveInt | None = Field(None, description="trajectories of a round, M (afedpg: of each gradient); default: one gradient of every group")
    initial_batch: PositiveInt | None = Field(None, description="trajectories of the first round, M_init; default: batch")
    late: Literal["cancel", "ignore"] = Field("cancel", description="unfinished on-policy work: abandon it at the next step, or finish and drop it")
    reduce: Literal["server", "mpi", "horovod", "gloo", "nccl"] = Field(
        "server", description="sum at the server, or one AllReduce among the learners, by MPI, Horovod or torch.distributed (nccl: on GPUs)"
    )
    max_staleness: Natural = Field(16, description="rollouts older than so many versions are dropped (off-policy algorithms)")
    queue: Count = Field(8, description="rollout messages a learner keeps; the oldest are dropped when it falls behind")
    on_loss: Literal["auto", "drop", "stop"] = Field(
        "auto", description="a group has died: go on without it, or stop after a checkpoint; auto: stop with malenia, whose objective would change"
    )

    @property
    def collective(self) -> bool:
        """Whether the learners sum among themselves, each with a replica of the optimizer, and the server only counts."""
        return self.reduce != "server"


class DelayConfig(Section):
    """Injected slowness of a group's actors, for studies of unequal ranks (seconds)."""

    step: NonNegative = Field(0.0, description="added to every environment step of an actor")
    trajectory: NonNegative = Field(0.0, description="added once to every trajectory (an unroll, or an episode)")


class GroupConfig(Section):
    """One learner with its actors."""

    env: dict[str, Any] = Field(default={}, description="keys of `env` that differ in this group")
    delay: DelayConfig = DelayConfig()
    actors: ActorCount | None = Field(None, description="actors of this group; default: topology.actors_per_learner")


class TopologyConfig(Section):
    """Which rank does what; `hpcmarl doctor` prints the table."""

    groups: GroupCount | tuple[GroupConfig, ...] = Field(1, description="how many learners, or a list with one entry a learner")
    actors_per_learner: ActorCount | Literal["auto"] = Field("auto", description="auto shares out all ranks; 0: a learner steps its own environments")
    server: Literal["auto", "dedicated", "shared"] = Field("auto", description="the server has rank 0 to itself, or shares it with the first learner")
    placement: Literal["beside", "apart"] = Field(
        "beside", description="a learner beside its actors, or all learners on the first ranks and all actors on the others (heterogeneous jobs)"
    )
    environments_per_actor: Count = Field(16, description="environment slots stepped together, E")
    threads: PositiveInt = Field(1, description="torch threads of each rank")
    silence_seconds: PositiveFloat | None = Field(
        60.0, description="a rank that was not heard for so long is killed and treated as dead; more than any environment step may take"
    )
    respawn: bool = Field(False, description="start a new process in the place of a dead actor (Open MPI 5 under mpiexec --with-ft ulfm)")

    @property
    def group_list(self) -> tuple[GroupConfig, ...]:
        """One entry a group, in order."""
        return (GroupConfig(),) * self.groups if isinstance(self.groups, int) else self.groups


Algo = Annotated[ReinforceConfig | MATraceConfig, Field(discriminator="name")]
OptimizerSection = Annotated[NigtConfig | AdamConfig | SgdConfig, Field(discriminator="name")]


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "run"
    seed: Natural = 0
    deterministic: bool = Field(False, description="actors wait for every version, so that a run can be repeated bit for bit (sync, one group)")
    env: EnvConfig
    policies: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], PolicyConfig] = Field(
        default={}, description="agents by policy; default: agents with the same spaces share one"
    )
    algo: Algo = MATraceConfig()
    optimizer: OptimizerSection = AdamConfig()
    rounds: RoundsConfig = RoundsConfig()
    topology: TopologyConfig = TopologyConfig()
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    stop: StopConfig = StopConfig()
    logging: LoggingConfig = LoggingConfig()
    faults: FaultsConfig = FaultsConfig()
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _agree(self) -> Config:
        for contradiction in contradictions(self):
            raise ValueError(contradiction)
        return self


def counts_episodes(config: Config) -> bool:
    """Whether a trajectory is a whole episode instead of an unroll."""
    return not hasattr(config.algo, "unroll")


def batch_of(config: Config) -> int:
    """Trajectories of a round (M): as configured, else one gradient's worth of every group (afedpg: of one)."""
    if config.rounds.batch is not None:
        return config.rounds.batch
    each = 1 if counts_episodes(config) else config.topology.environments_per_actor
    return each if config.rounds.rule == "afedpg" else len(config.topology.group_list) * each


def contradictions(config: Config) -> list[str]:
    """Choices that exclude each other, each as one line that names the keys, why, and what to change."""
    found = []
    groups = len(config.topology.group_list)
    if groups == 0:
        found.append("topology.groups is an empty list; allowed: at least one group")
    if config.stop == StopConfig(seconds_before_limit=config.stop.seconds_before_limit):
        found.append("stop is empty, the run would never end; set stop.updates, stop.env_steps, stop.seconds or stop.return_mean")
    if config.deterministic and (config.rounds.rule != "sync" or groups > 1):
        found.append(
            f"deterministic: true needs rounds.rule: sync and one group, not {config.rounds.rule} with {groups}: "
            "the order in which ranks report is not repeatable"
        )
    if config.deterministic and config.topology.respawn:
        found.append("topology.respawn: true starts anew what deterministic: true would have to repeat; set one of them to false")
    found += round_contradictions(config.rounds, groups, "groups")
    if config.eval.episodes == 0 and (config.eval.every_updates or config.eval.every_seconds):
        found.append("eval.episodes: 0 leaves nothing to play every so often; raise it, or remove eval.every_updates and eval.every_seconds")
    if isinstance(config.algo, MATraceConfig):
        if config.algo.critic == "dec" and config.algo.ratios == "joint":
            found.append("algo.critic: dec has one value per agent and cannot use algo.ratios: joint; use ratios: agent, or critic: obs or full")
        if config.algo.critic_network is not None and config.algo.critic_network.recurrent:
            found.append("algo.critic_network.recurrent: true is not supported, critics are feed-forward; remove the key")
    if config.algo.name == "reinforce" and config.rounds.rule in ("rennala", "malenia") and config.rounds.batch is None:
        found.append(f"rounds.batch is needed with {config.rounds.rule} and reinforce: how many episodes make a round")
    return found


def round_contradictions(rounds: RoundsConfig, groups: int, word: str) -> list[str]:
    """What excludes each other in `rounds`, with so many groups (`word`: what they are called where the rule is to run)."""
    found = []
    if rounds.rule == "malenia" and rounds.batch is not None and rounds.batch < groups:
        found.append(f"rounds.batch {rounds.batch} is less than the {groups} {word}; malenia needs at least one trajectory of every one of them")
    if rounds.rule == "afedpg" and rounds.collective:
        found.append(
            f"rounds.reduce: {rounds.reduce} does not work with rounds.rule: afedpg, where every gradient is a step "
            "of its own and there is nothing to sum; use rounds.reduce: server"
        )
    return found
