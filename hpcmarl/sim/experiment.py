"""Simulates every case of a configuration with every seed, after tuning where that is asked for. Called by cli_simulate.py; writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.config.sweep import Case, candidates, cases
from hpcmarl.maths.round_times import malenia_bound, rennala_bound
from hpcmarl.sim.cluster import Cluster
from hpcmarl.types import Array

SLICE = 20_000  # events between two looks at the progress
LATE = 0.75  # "late" figures are means over the last quarter of the time
Progress = Callable[[float, str], object]


@dataclass(frozen=True)
class Outcome:
    """One simulation: its figures, and its course (column -> values)."""

    seed: int
    figures: dict[str, Any]
    course: dict[str, Array]


@dataclass(frozen=True)
class CaseResult:
    """A case with what was tuned for it (empty: nothing) and one outcome a seed. `trials`: (values, mean late objective) of each candidate."""

    case: Case
    tuned: dict[str, Any]
    trials: list[tuple[dict[str, Any], float]]
    outcomes: list[Outcome]

    def mean(self, figure: str) -> float:
        """Mean of a figure over the seeds."""
        return float(np.mean([outcome.figures[figure] for outcome in self.outcomes]))

    def standard_error(self, figure: str) -> float:
        """Standard error of that mean; NaN with one seed."""
        values = [outcome.figures[figure] for outcome in self.outcomes]
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def simulate(config: SimulationConfig, fixed: Collection[str] = (), progress: Progress = lambda done, words: None) -> list[CaseResult]:
    """The results of all cases, in the order of the file. `fixed` as in config.sweep.cases; `progress` is told the part that is done (0 to 1) and
    what is under way. Raises ConfigError for a case that contradicts itself, before anything is simulated."""
    work = [(case, list(candidates(case.config, fixed))) for case in cases(config, fixed)]
    total = sum(len(_tuning_seeds(case)) * len(tried) + len(_seeds(case)) for case, tried in work)
    done = 0

    def one(case: Case, chosen: SimulationConfig, seed: int, words: str) -> Outcome:
        nonlocal done
        outcome = run_one(chosen, seed, lambda part: progress((done + part) / total, f"{case.setting}, {case.label}, {words}{seed}"))
        done += 1
        return outcome

    results = []
    for case, tried in work:
        trials, best, chosen = [], {}, case.config
        for changes, candidate in tried:
            late = [one(case, candidate, seed, "tuning, seed ").figures["objective"] for seed in _tuning_seeds(case)]
            trials.append((changes, float(np.mean(late))))
            if math.isfinite(trials[-1][1]) and trials[-1][1] >= max((score for _, score in trials if math.isfinite(score)), default=-math.inf):
                best, chosen = changes, candidate
        outcomes = [one(case, chosen, seed, "seed ") for seed in _seeds(case)]
        results.append(CaseResult(case, best, trials, outcomes))
    return results


def _seeds(case: Case) -> tuple[int, ...]:
    return case.config.sim.sweep.seeds or (case.config.seed,)


def _tuning_seeds(case: Case) -> tuple[int, ...]:
    tune = case.config.sim.sweep.tune
    return tune.seeds if tune is not None else ()


def run_one(config: SimulationConfig, seed: int, progress: Callable[[float], object] = lambda part: None, kind: type[Cluster] = Cluster) -> Outcome:
    """One simulation to its end. A step that leaves the finite numbers ends it: `ended` then says so, and its late figures are NaN."""
    cluster = kind(config, seed)
    began = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):  # the engine looks for what is not finite
        try:
            while cluster.ended is None:
                cluster.run(SLICE)
                progress(cluster.progress)
        except FloatingPointError as error:
            cluster.ended = f"diverged: {error}"
    course = {name: values for name, values in cluster.trace.arrays().items() if not np.isnan(values).all()}
    return Outcome(seed, figures_of(cluster, course, time.perf_counter() - began), course)


def round_time_bound(cluster: Cluster) -> float:
    """What no round takes longer than, where the paper has a bound: times that never vary, no failures, rennala or malenia; else NaN."""
    compute, exchange, rounds = cluster.compute.fixed, cluster.exchange.fixed, cluster.config.rounds
    bound = {"rennala": rennala_bound, "malenia": malenia_bound}.get(rounds.rule)
    if bound is None or compute is None or exchange is None or rounds.late != "cancel" or cluster.config.sim.failures:
        return math.nan
    rule = cluster.engine.rule
    return bound(compute, max(rule.batch, rule.initial_batch)) + max(exchange)


def figures_of(cluster: Cluster, course: dict[str, Array], seconds: float) -> dict[str, Any]:
    """What a finished simulation came to; times are virtual but for `seconds`, of real time."""
    engine, time_passed = cluster.engine, cluster.published
    rounds = max(1, engine.version)
    late = course["time"] >= LATE * time_passed
    finite = not str(cluster.ended).startswith("diverged")
    figures = {
        "gradients_per_time": cluster.used / time_passed if time_passed else 0.0,
        "time": time_passed,
        "rounds": engine.version,
        "used_gradients": cluster.used,
        "wasted_gradients": engine.wasted,
        "abandoned_trajectories": cluster.abandoned,
        "lost_workers": len(engine.rule.lost),
        "round_time_mean": cluster.round_time_sum / rounds,
        "round_time_min": cluster.round_time_min,
        "round_time_max": cluster.round_time_max,
        "round_time_bound": round_time_bound(cluster),
        "events": cluster.events,
        "seconds": seconds,
        "ended": cluster.ended,
    }
    for name in ("objective", "gradient_norm", "parameter_mean"):
        if name in course and cluster.objective is not None:
            figures[name] = float(course[name][late].mean()) if finite and late.any() else math.nan
    return figures
