"""The sections for output, evaluation, logging, faults and the end of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hpcmarl.config.base import Count, Line, Natural, NonNegative, PositiveFloat, PositiveInt, Section
from hpcmarl.config.choice import Choice


class TrajectoriesConfig(Section):
    """Trajectory files: the steps that actors write to disk."""

    enabled: bool = Field(True, description="write the actors' steps to trajectory files")
    compression: Literal["none", "lzf", "gzip", "zstd", "blosc_lz4"] = Field(
        "none", description="compression of trajectory files"
    )
    shard_megabytes: PositiveFloat = Field(256.0, description="size in megabytes at which a shard is closed")
    shard_seconds: PositiveFloat = Field(
        600.0,
        description=(
            "age in seconds at which a shard is closed, longer with very many actors; rows reach the "
            "disk earlier"
        ),
    )
    every: PositiveInt = Field(1, description="write one of this many rollouts")
    max_gigabytes: PositiveFloat | None = Field(
        None, description="gigabytes after which an actor stops writing; null: no limit"
    )
    on_error: Literal["warn", "stop"] = Field(
        "warn",
        description=(
            "if the disk fails: continue without trajectories and try again (warn), or end the run (stop)"
        ),
    )


class CheckpointConfig(Section):
    """Checkpoints of the run's state."""

    every_seconds: PositiveFloat | None = Field(
        60.0, description="seconds between checkpoints; null: none by time"
    )
    every_updates: PositiveInt | None = Field(
        None, description="updates between checkpoints; null: none by updates"
    )
    keep: PositiveInt = Field(3, description="number of newest checkpoints that are kept")
    on_error: Literal["warn", "stop"] = Field(
        "warn",
        description=(
            "if the disk fails: continue and try again with the next checkpoint (warn), or end the run (stop)"
        ),
    )


class EvalConfig(Section):
    """Evaluation of the policies, without learning and on separate environments."""

    episodes: Natural = Field(
        100,
        description=(
            "number of episodes of each evaluation, at the end of the run and during it; 0: no evaluation"
        ),
    )
    greedy: bool = Field(True, description="take the most probable action (or the mean) instead of sampling")
    environments: Count = Field(8, description="environment slots that are stepped together")
    every_updates: PositiveInt | None = Field(
        None, description="updates between evaluations during the run; null: none by updates"
    )
    every_seconds: PositiveFloat | None = Field(
        None, description="seconds between evaluations during the run; null: none by time"
    )
    seed: Natural = Field(1_000_003, description="seed of the evaluation episodes")
    video_every: Natural = Field(
        0,
        description=(
            "write a page that plays one episode, RUN/videos/version-NNNNNN.html, with the first evaluation "
            "of each start and then with one of this many evaluations; 0: never"
        ),
    )


class StopConfig(Section):
    """Limits of a run; it ends at the first that it reaches."""

    updates: PositiveInt | None = Field(
        None, description="number of updates after which the run ends; null: no limit"
    )
    env_steps: PositiveInt | None = Field(
        None, description="number of environment steps after which the run ends; null: no limit"
    )
    seconds: PositiveFloat | None = Field(
        None, description="seconds of training after which the run ends, over all its starts; null: no limit"
    )
    return_mean: float | None = Field(
        None,
        description=("mean training return of the newest 100 episodes at which the run ends; null: no limit"),
    )
    seconds_before_limit: NonNegative | None = Field(
        60.0,
        description=(
            "seconds before the end of the Slurm job at which the run stops with a checkpoint and exit "
            "code 75, unless a signal came earlier; null: never"
        ),
    )


def _with_short_form(schema: dict[str, Any]) -> None:
    """Add the short form of `logging.wandb` to its JSON schema, for editors."""
    schema["anyOf"] = [{"enum": ["offline", "online"]}, *schema["anyOf"]]


class WandbConfig(Section):
    """Metrics in Weights & Biases."""

    mode: Literal["offline", "online"] = Field(
        "offline",
        description="write to RUN/wandb only, without a connection (offline), or also upload (online)",
    )
    project: Line | None = Field(None, description="project of the run in wandb; null: hpcmarl")
    entity: Line | None = Field(
        None, description="user or team that owns the project; null: the default of the account"
    )
    tags: tuple[Line, ...] = Field((), description="tags of the run in wandb")


class TrackerConfig(Section):
    """Base of the configuration of trackers outside hpcmarl."""

    name: str = ""


class CallbackConfig(Section):
    """Base of the configuration of callbacks (hpcmarl/callbacks.py)."""

    name: str = ""


Callbacks = tuple[Annotated[CallbackConfig, Choice("callbacks", short=True)], ...]


class LoggingConfig(Section):
    """Log messages, progress display and rows of metrics."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level of log messages"
    )
    progress: bool = Field(
        True,
        description=(
            "show a live display on the server's rank (without a terminal a line from time to time), and "
            "measure bare environment steps for a second at the start"
        ),
    )
    every_seconds: PositiveFloat = Field(1.0, description="shortest time between rows of metrics, in seconds")
    tensorboard: bool = Field(
        False, description="also write the rows of metrics to event files of TensorBoard, in RUN/tensorboard"
    )
    wandb: WandbConfig | None = Field(
        None,
        description=(
            "also write the rows of metrics to Weights & Biases; a text is short for the key mode, as in "
            "logging.wandb=offline; null: no"
        ),
        json_schema_extra=_with_short_form,
    )
    trackers: tuple[Annotated[TrackerConfig, Choice("trackers", short=True)], ...] = Field(
        (),
        description=(
            "trackers outside hpcmarl that also get the rows of metrics: package.module:Class, or a section "
            "with name and the tracker's own keys"
        ),
    )
    trace: bool = Field(
        False, description="record what each rank does over time, for the timeline of hpcmarl trace"
    )
    trace_megabytes: PositiveInt = Field(
        64,
        description=(
            "largest size of the trace of one rank, in MB; beyond it the newest spans replace the oldest"
        ),
    )

    @field_validator("wandb", mode="before")
    @classmethod
    def _mode_alone(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value


class FaultsConfig(Section):
    """Response to non-finite values, and failures injected for tests."""

    on_nan: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "response to non-finite observations, rewards or gradients: stop and name them, or skip and "
            "count them"
        ),
    )
    raise_in: Literal["server", "learner", "actor", "evaluator"] | None = Field(
        None, description="role that raises an error on purpose, for tests; null: none"
    )
    rank: Natural | None = Field(None, description="rank on which that role raises; null: every rank")
    after: Natural = Field(
        0, description="number of steps of that role before it raises; idle steps count, too"
    )
