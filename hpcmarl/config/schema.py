"""The model of a run's configuration and the checks between its sections.

`hpcmarl config schema` prints all keys. Properties of the environment (its state, its spaces) are checked
later, as soon as the environment is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpcmarl.config.actor_critics import MATraceConfig
from hpcmarl.config.algo_checks import algo_contradictions
from hpcmarl.config.algos import Algo
from hpcmarl.config.base import (
    Natural,
    Section,
    section,
)
from hpcmarl.config.environment import EnvConfig, PolicyConfig
from hpcmarl.config.league_checks import league_contradictions
from hpcmarl.config.members import LeagueConfig
from hpcmarl.config.networks import InferenceForm
from hpcmarl.config.presets import PresetName
from hpcmarl.config.rounds import (
    AdamConfig,
    OptimizerSection,
    RoundsConfig,
    critic_contradictions,
    round_contradictions,
)
from hpcmarl.config.run import (
    Callbacks,
    CheckpointConfig,
    EvalConfig,
    FaultsConfig,
    LoggingConfig,
    StopConfig,
    TrajectoriesConfig,
)
from hpcmarl.config.slurm import SlurmConfig
from hpcmarl.config.topology import TopologyConfig, worker_contradictions
from hpcmarl.placement import wants_cuda


class Config(Section):
    """Configuration of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        "run", description="name of the run, in its default directory and its Slurm job"
    )
    preset: PresetName | None = Field(
        None,
        # a resolved configuration holds the preset's values instead
        exclude=True,
        description=(
            "settings of an algorithm's authors, for keys that neither the file nor the command line "
            "sets (hpcmarl list presets)"
        ),
    )
    seed: Natural = Field(0, description="seed of all random numbers of the run")
    deterministic: bool = Field(
        False,
        description=(
            "make the run repeatable bit for bit: actors wait for every version; needs rounds.rule: sync "
            "and one group"
        ),
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,3})$")] = Field(
        "auto",
        description=(
            "device of the learners' networks, and of actors that infer on it (topology.inference): cpu, the "
            "CUDA devices in turn (cuda), or one of them (cuda:0); auto: cpu"
        ),
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description=(
            "arithmetic of the learners' forward passes; bf16: products in bfloat16, while parameters, "
            "gradients and the optimizer stay float32"
        ),
    )
    compile: bool = Field(
        False, description="compile the learners' networks with torch.compile, which takes up to a minute"
    )
    env: EnvConfig = Field(description="environment that the actors step")
    policies: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], PolicyConfig] = Field(
        default={},
        description=(
            "policies by name, each with its agents; default: agents with the same spaces share a policy"
        ),
    )
    algo: Algo = section(MATraceConfig, "learning algorithm")
    optimizer: OptimizerSection = section(AdamConfig, "optimizer of the summed gradients")
    rounds: RoundsConfig = section(RoundsConfig, "rule that ends a round, and the sum of its gradients")
    topology: TopologyConfig = section(TopologyConfig, "numbers and places of learners and actors")
    trajectories: TrajectoriesConfig = section(TrajectoriesConfig, "trajectory files")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "checkpoints of the run")
    eval: EvalConfig = section(EvalConfig, "evaluation episodes")
    stop: StopConfig = section(StopConfig, "limits of the run; at least one is required")
    league: LeagueConfig | None = Field(
        None, description="train several policies against snapshots of each other; null: a single run"
    )
    logging: LoggingConfig = section(LoggingConfig, "log messages, progress display and metrics")
    callbacks: Callbacks = Field(
        (),
        description=(
            "classes outside hpcmarl that the server's rank calls during the run: package.module:Class, or a "
            "section with name and the callback's own keys"
        ),
    )
    faults: FaultsConfig = section(
        FaultsConfig, "response to non-finite values, and failures injected for tests"
    )
    slurm: SlurmConfig = section(SlurmConfig, "settings of the cluster for hpcmarl submit")

    @property
    def backpressure(self) -> bool:
        """Whether actors pause while their learner has enough rollouts.

        `rounds.admission: all_begun` implies it. In deterministic runs actors wait for each version anyway.
        """
        return (self.rounds.backpressure and not self.deterministic) or self.rounds.counts_all_begun

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if self.preset is not None:
            raise ValueError(
                f"preset: {self.preset} is filled in by hpcmarl.config.file.load_config, not by Config; use "
                "load_config"
            )
        for contradiction in contradictions(self):
            raise ValueError(contradiction)
        return self


def counts_episodes(config: Config) -> bool:
    """Return whether a trajectory is a whole episode instead of an unroll."""
    return config.algo.trajectory_unit == "episode"


def batch_of(config: Config, slots: Sequence[int]) -> int:
    """Return the number of trajectories in a round, M.

    Args:
        config: Configuration of the run.
        slots: Number of environment slots of each group.

    Returns:
        `rounds.batch` if it is set. Otherwise the trajectories of one gradient of every group (afedpg: of one
        group). A gradient has one episode of every slot for on-policy episodes, so that no slot idles. It has
        `gradient_draws` replayed episodes or steps, or as many unrolls as an actor sends in one message.
    """
    if config.rounds.batch is not None:
        return config.rounds.batch
    if not counts_episodes(config):
        each = [config.topology.environments_per_actor] * len(slots)
    else:
        each = list(slots) if config.algo.is_on_policy else [config.algo.gradient_draws] * len(slots)
    return max(each) if config.rounds.rule == "afedpg" else sum(each)


def inference_form(config: Config, *, repeatable: bool = False) -> InferenceForm:
    """Return the form in which actors and evaluators multiply by the weights of sparse policies.

    Args:
        config: Configuration of the run.
        repeatable: Whether the results must not depend on time measurements. Then "auto" becomes "dense", as
            in deterministic runs.

    Returns:
        "dense" without sparse training, else `algo.sparse.inference`.
    """
    sparse = config.algo.sparse_training
    if sparse is None or (sparse.inference == "auto" and (repeatable or config.deterministic)):
        return "dense"
    return sparse.inference


def contradictions(config: Config) -> list[str]:
    """Return one line for each pair of choices that exclude each other: keys, reason and remedy."""
    found = []
    groups = len(config.topology.group_list)
    if groups == 0:
        found.append("topology.groups is []; allowed: a list of at least one group")
    if config.stop == StopConfig(seconds_before_limit=config.stop.seconds_before_limit):
        found.append(
            "stop is empty, so the run would never end; set stop.updates, stop.env_steps, stop.seconds or "
            "stop.return_mean"
        )
    if config.deterministic and (config.rounds.rule != "sync" or groups > 1):
        found.append(
            f"deterministic: true does not work with rounds.rule: {config.rounds.rule} and topology.groups: "
            f"{groups}, because ranks do not report in a repeatable order; set rounds.rule: sync and "
            "topology.groups: 1"
        )
    if config.deterministic and config.topology.respawn:
        found.append(
            "topology.respawn: true does not work with deterministic: true, because a new actor does not "
            "repeat the work of the dead one; set one of the two keys to false"
        )
    if config.deterministic and config.algo.minibatch_passes is not None:
        found.append(
            f"deterministic: true does not work with algo.name: {config.algo.name}, whose actors continue "
            "during the passes over a batch; use algo.name: ma_trace"
        )
    found += device_contradictions(config)
    found += worker_contradictions(
        config.topology, explores=config.algo.has_random_share, deterministic=config.deterministic
    )
    found += round_contradictions(config.rounds, groups, "groups")
    evaluated = config.eval.every_updates or config.eval.every_seconds or config.eval.video_every
    if config.eval.episodes == 0 and evaluated:
        found.append(
            "eval.episodes: 0 does not work with eval.every_updates, eval.every_seconds and "
            "eval.video_every, which need episodes; raise eval.episodes, or remove these keys"
        )
    found += algo_contradictions(config.algo)
    if not config.algo.has_critics:
        found += critic_contradictions(config.optimizer, f"algo.name: {config.algo.name}")
    if config.league is not None and isinstance(config.algo, MATraceConfig) and config.algo.teams != "auto":
        found.append(
            "algo.teams does not work with a league, in which the policies of a side are a team "
            "(league.sides); remove algo.teams"
        )
    found += league_contradictions(config)
    if config.rounds.admission == "all_begun" and not (counts_episodes(config) and config.algo.is_on_policy):
        found.append(
            f"rounds.admission: all_begun does not work with algo.name: {config.algo.name}, which drops no "
            "episode at the end of a round; set rounds.admission: first_finished"
        )
    return found


def device_contradictions(config: Config) -> list[str]:
    """Return one line for each choice that excludes the device or the arithmetic of the learners."""
    found = []
    if config.deterministic and wants_cuda(config.device):
        found.append(
            f"device: {config.device} does not work with deterministic: true, because sums on a GPU have not "
            "been shown to repeat bit for bit; set device: cpu"
        )
    if config.algo.sparse_training is not None:
        others = {
            f"device: {config.device}": wants_cuda(config.device),
            f"topology.inference: {config.topology.inference}": config.topology.inference
            in ("torch", "device"),
            "precision: bf16": config.precision == "bf16",
            "compile: true": config.compile,
        }
        found += [
            f"{choice} does not work with algo.sparse, whose products are float32 on the CPU, for actors in "
            "numpy; remove algo.sparse, or use the default of this key"
            for choice, chosen in others.items()
            if chosen
        ]
    return found
