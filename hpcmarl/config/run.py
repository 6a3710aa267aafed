"""The sections for output, evaluation, logging, faults and the end of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hpcmarl.config.base import Count, Natural, NonNegative, PositiveFloat, PositiveInt, Section


class TrajectoriesConfig(Section):
    """Trajectory files: the steps that actors write to disk."""

    enabled: bool = True
    compression: Literal["none", "lzf", "gzip", "zstd", "blosc_lz4"] = "none"
    shard_megabytes: PositiveFloat = Field(256.0, description="a shard closes after so many megabytes")
    shard_seconds: PositiveFloat = Field(
        600.0, description="or after so many seconds, more with very many actors; rows reach the disk before"
    )
    every: PositiveInt = Field(1, description="keep one rollout in so many")
    max_gigabytes: PositiveFloat | None = Field(
        None, description="an actor stops writing after so many gigabytes"
    )
    on_error: Literal["warn", "stop"] = Field(
        "warn", description="when the disk fails: go on without and try again, or end the run"
    )


class CheckpointConfig(Section):
    """Checkpoints of the run's state."""

    every_seconds: PositiveFloat | None = 60.0
    every_updates: PositiveInt | None = None
    keep: PositiveInt = Field(3, description="newest checkpoints kept")
    on_error: Literal["warn", "stop"] = Field(
        "warn", description="when the disk fails: go on and try again with the next one, or end the run"
    )


class EvalConfig(Section):
    """Evaluation of the policies, without learning and on separate environments."""

    episodes: Natural = Field(100, description="episodes at the end of the run; 0: none")
    greedy: bool = Field(True, description="take the most probable action (or the mean) instead of sampling")
    environments: Count = Field(8, description="environment slots stepped together")
    every_updates: PositiveInt | None = Field(None, description="also during the run, after so many updates")
    every_seconds: PositiveFloat | None = Field(
        None, description="also during the run, after so many seconds"
    )
    seed: Natural = Field(1_000_003, description="seed of the evaluation episodes")


class StopConfig(Section):
    """Limits of a run; it ends at the first that it reaches."""

    updates: PositiveInt | None = None
    env_steps: PositiveInt | None = None
    seconds: PositiveFloat | None = Field(None, description="of training; over all resumptions")
    return_mean: float | None = Field(None, description="mean training return of the newest 100 episodes")
    seconds_before_limit: NonNegative | None = Field(
        60.0,
        description=(
            "stop so long before the end of the Slurm job, with a checkpoint and exit code 75, if no "
            "signal has come"
        ),
    )


class LoggingConfig(Section):
    """Log messages, progress display and rows of metrics."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    progress: bool = Field(
        True,
        description="the live display of the server rank (a plain line now and then where there is no "
        "terminal), and a second of bare stepping at the start to compare with",
    )
    every_seconds: PositiveFloat = Field(1.0, description="a row of metrics at most so often")


class FaultsConfig(Section):
    """Response to non-finite values, and failures injected for tests."""

    on_nan: Literal["stop", "skip"] = Field(
        "stop",
        description=(
            "observations, rewards or gradients that are not finite: stop and name them, or leave "
            "them out and count them"
        ),
    )
    raise_in: Literal["server", "learner", "actor", "evaluator"] | None = None
    rank: Natural | None = Field(None, description="only on this rank")
    after: Natural = Field(
        0, description="how often the role is stepped before it raises (waiting counts too)"
    )
