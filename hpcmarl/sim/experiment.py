"""Simulations of every case of a configuration with every seed, after optional tuning."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.config.sweep import Case, candidates, cases, shortened
from hpcmarl.sim.running import Outcome, Progress, Runner, Task


@dataclass(frozen=True)
class CaseResult:
    """Results of one case.

    Attributes:
        case: Setting, method and configuration.
        tuned: Keys that tuning set, with their values; empty: nothing was tuned.
        trials: Values and mean late objective of each candidate of the tuning.
        outcomes: One outcome per seed.
    """

    case: Case
    tuned: dict[str, Any]
    trials: list[tuple[dict[str, Any], float]]
    outcomes: list[Outcome]

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the seeds."""
        return float(np.mean([outcome.figures[figure] for outcome in self.outcomes]))

    def standard_error(self, figure: str) -> float:
        """Return the standard error of the mean of a figure over the seeds; NaN with one seed."""
        values = [outcome.figures[figure] for outcome in self.outcomes]
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def times_to_thresholds(self) -> list[dict[str, Any]]:
        """Return the virtual times at which the objective reached each of sim.thresholds.

        Returns:
            One object per threshold. `threshold`: the value. `min`, `max`: least and most time over the seeds
            that reached it (None: no seed did). `median`: median time over all seeds (None: fewer than half
            reached it). `reached`: number of seeds that reached it. `seeds`: number of all seeds.
        """
        by_seed = [outcome.figures["threshold_times"] for outcome in self.outcomes]
        thresholds = self.case.config.sim.thresholds
        return [
            {"threshold": threshold} | _spread(times)
            for threshold, times in zip(thresholds, zip(*by_seed, strict=True), strict=True)
        ]


def simulate(
    config: SimulationConfig,
    fixed: Collection[str] = (),
    progress: Progress = lambda done, words: None,
    runner: Runner | None = None,
) -> list[CaseResult]:
    """Simulate all cases of a configuration.

    Args:
        config: Configuration with its sweep.
        fixed: Keys that hold in every case, whatever the sweep contains (see config.sweep.cases).
        progress: Receives the fraction that is done (0 to 1) and the name of the simulation in progress.
        runner: Runs the simulations; default: in this process, one after the other. The choice changes no
            result.

    Returns:
        One result per case, in the order of the file.

    Raises:
        ConfigError: If a case contradicts itself; raised before any simulation starts.
    """
    work = [(case, list(candidates(case.config, fixed))) for case in cases(config, fixed)]
    trials = [
        Task(shortened(candidate), seed, f"{case.setting}, {case.label}, tuning, seed {seed}")
        for case, tried in work
        for _, candidate in tried
        for seed in _tuning_seeds(case)
    ]
    total = len(trials) + sum(len(_seeds(case)) for case, _ in work)
    runner = runner or Runner()
    late = iter(
        [
            outcome.figures["objective"]
            for outcome in runner.run(trials, lambda done, words: progress(done / total, words))
        ]
    )
    chosen = []
    for case, tried in work:
        scores = [
            (changes, float(np.mean([next(late) for _ in _tuning_seeds(case)]))) for changes, _ in tried
        ]
        chosen.append((scores, *_best(case, tried, scores)))
    tasks = [
        Task(config, seed, f"{case.setting}, {case.label}, seed {seed}")
        for (case, _), (_, _, config) in zip(work, chosen, strict=True)
        for seed in _seeds(case)
    ]
    outcomes = iter(runner.run(tasks, lambda done, words: progress((len(trials) + done) / total, words)))
    return [
        CaseResult(case, best, scores, [next(outcomes) for _ in _seeds(case)])
        for (case, _), (scores, best, _) in zip(work, chosen, strict=True)
    ]


def _best(
    case: Case,
    tried: Sequence[tuple[dict[str, Any], SimulationConfig]],
    scores: Sequence[tuple[dict[str, Any], float]],
) -> tuple[dict[str, Any], SimulationConfig]:
    """Return the values with the best finite score and their configuration.

    Among equal scores the last one wins. Without a finite score, nothing is tuned.
    """
    finite = [score for _, score in scores if math.isfinite(score)]
    for (changes, candidate), (_, score) in zip(reversed(tried), reversed(scores), strict=True):
        if finite and score == max(finite):
            return changes, candidate
    return {}, case.config


def _spread(times: Sequence[float | None]) -> dict[str, Any]:
    """Summarise the times at which the seeds reached a threshold; None stands for never."""
    reached = [time for time in times if time is not None]
    median = float(np.median([math.inf if time is None else time for time in times]))
    return {
        "median": median if math.isfinite(median) else None,
        "min": min(reached, default=None),
        "max": max(reached, default=None),
        "reached": len(reached),
        "seeds": len(times),
    }


def _seeds(case: Case) -> tuple[int, ...]:
    return case.config.sim.sweep.seeds or (case.config.seed,)


def _tuning_seeds(case: Case) -> tuple[int, ...]:
    tune = case.config.sim.sweep.tune
    return tune.seeds if tune is not None else ()
