"""The file of a sweep: which configurations are tried, how they are judged, and when a trial is cut short."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hpcmarl.config.base import Count, Fraction, Line, Natural, PositiveInt, Section

MOST_TRIALS = 100_000


class RangeConfig(Section):
    """An interval from which values are drawn. With integers as ends, the values are integers."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="draw evenly in the logarithm")
    step: int | float | None = Field(None, description="distance between allowed values; null: any value")

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    def problem(self) -> str:
        """Return what is wrong with the range, with what is allowed; empty if nothing is."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            return f"low: {self.low} is not below high: {self.high}; allowed: finite low < high"
        if self.log and self.low <= 0:
            return f"low: {self.low} with log: true; allowed: a low above 0"
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            return f"step: {self.step}; allowed: above 0 and at most high - low"
        if self.step is not None and self.log:
            return "step and log: true exclude each other; remove one of them"
        return ""


class PruneConfig(Section):
    """When a trial is cut short: if it is worse than the median of the others at the same progress."""

    metric: Line = Field("return_mean", description="column of metrics.csv that is compared")
    after: Fraction = Field(0.2, description="progress towards the limit of stop before the first comparison")
    checks: Count = Field(10, description="number of comparisons, evenly over the whole run")
    least_trials: PositiveInt = Field(
        4, description="other trials that must have come as far before a trial is cut short"
    )


class SearchConfig(Section):
    """Trials of one configuration with other values for some keys."""

    search: Literal["grid", "random", "optuna"] = Field(
        "grid",
        description=(
            "grid: all combinations of lists; random: independent draws; optuna: draws that depend on the "
            "results of earlier trials (tree-structured Parzen estimator)"
        ),
    )
    parameters: dict[str, tuple[Any, ...] | RangeConfig] = Field(
        description="dotted key of the configuration -> list of values, or a range of random and optuna"
    )
    trials: PositiveInt | None = Field(None, description="number of draws of random and optuna")
    seeds: PositiveInt = Field(
        1, description="runs of each combination, with seeds counted from the configuration's seed"
    )
    metric: Line = Field(
        "eval_return_mean", description="column of metrics.csv whose last value judges a trial"
    )
    goal: Literal["maximise", "minimise"] = Field("maximise", description="whether large or small is good")
    parallel: PositiveInt = Field(1, description="trials at the same time, here or as tasks of a job array")
    seed: Natural = Field(0, description="seed of the draws")
    prune: PruneConfig | None = Field(None, description="when a trial is cut short; null: never")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.parameters:
            raise ValueError("parameters: empty; write at least one key, as in optimizer.step_size: [0.001]")
        for key, values in self.parameters.items():
            if key == "seed":
                raise ValueError("parameters.seed: use seeds: N, the number of runs of each combination")
            if isinstance(values, tuple) and not values:
                raise ValueError(f"parameters.{key}: an empty list; allowed: at least one value")
            if isinstance(values, RangeConfig) and self.search == "grid":
                raise ValueError(f"parameters.{key}: a range, and search: grid needs a list of values")
            if isinstance(values, RangeConfig) and (problem := values.problem()):
                raise ValueError(f"parameters.{key}: {problem}")
        if self.search == "grid" and self.trials is not None:
            raise ValueError("trials: search: grid tries all combinations; remove trials")
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"trials: search: {self.search} needs the number of draws")
        if self.search == "optuna" and self.seeds > 1:
            raise ValueError(f"seeds: {self.seeds} with search: optuna; allowed: 1, or search: random")
        if self.count > MOST_TRIALS:
            raise ValueError(f"{self.count:,} trials; allowed: at most {MOST_TRIALS:,}")
        return self

    @property
    def points(self) -> int:
        """Number of combinations of values."""
        if self.trials is not None:
            return self.trials
        return math.prod(len(values) for values in self.parameters.values() if isinstance(values, tuple))

    @property
    def count(self) -> int:
        """Number of trials: combinations times seeds."""
        return self.points * self.seeds
