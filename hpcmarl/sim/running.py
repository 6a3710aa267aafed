"""Run one simulation to its end, or several: in this process or in a pool of processes.

A result depends on configuration and seed only, so neither the process nor the order changes it. A
`ResultStore` can keep finished results, so that an interrupted command can resume.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np

from hpcmarl.config.file import dump_config, load_simulation
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.maths.round_times import malenia_bound, rennala_bound
from hpcmarl.sim.cluster import Cluster
from hpcmarl.types import Array

SLICE = 20_000  # events between two progress reports
SAMPLED_SLICE = 50  # the same for sampled objectives, where each event is an episode
LATE = 0.75  # "late" figures are means over the last quarter of the time
WINDOW = 5  # number of successive points whose mean must reach a threshold
Progress = Callable[[float, str], object]


@dataclass(frozen=True)
class Outcome:
    """Result of one simulation.

    Attributes:
        seed: Seed of the simulation.
        figures: Its figures (see `figures_of`).
        course: Column -> values over the rounds.
    """

    seed: int
    figures: dict[str, Any]
    course: dict[str, Array]


@dataclass(frozen=True)
class Task:
    """A simulation to run; `words` is its name in progress reports."""

    config: SimulationConfig
    seed: int
    words: str


class ResultStore(Protocol):
    """Store of finished results, keyed by configuration (YAML) and seed."""

    def get(self, config: str, seed: int) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """Return the figures and the course stored for this simulation, or None."""

    def put(self, config: str, seed: int, figures: Mapping[str, Any], course: Mapping[str, Array]) -> None:
        """Store a result, unless it is too cheap to be worth storing."""


class Runner:
    """Runs tasks, `jobs` at a time (1: in this process).

    Args:
        jobs: Number of processes.
        shelf: Store of finished results; None: nothing is stored.
    """

    def __init__(self, jobs: int = 1, shelf: ResultStore | None = None) -> None:
        self.jobs = jobs
        self.shelf = shelf

    def run(self, tasks: Sequence[Task], progress: Progress) -> list[Outcome]:
        """Run the tasks and return their outcomes in the same order.

        Args:
            tasks: Simulations to run.
            progress: Receives the number of tasks done (with fractions) and the name of the current or last
                task.
        """
        outcomes: dict[int, Outcome] = {}
        for index, task in enumerate(tasks):
            kept = self.shelf.get(dump_config(task.config), task.seed) if self.shelf is not None else None
            if kept is not None:
                outcomes[index] = Outcome(task.seed, *kept)
        progress(len(outcomes), "")
        left = [index for index in range(len(tasks)) if index not in outcomes]
        if self.jobs > 1 and len(left) > 1:
            self._run_apart(tasks, left, outcomes, progress)
        else:
            for index in left:
                task = tasks[index]
                self._done(index, task, self._run_here(task, len(outcomes), progress), outcomes)
        progress(len(tasks), "")
        return [outcomes[index] for index in range(len(tasks))]

    def _run_here(self, task: Task, done: int, progress: Progress) -> Outcome:
        return run_one(task.config, task.seed, lambda part: progress(done + part, task.words))

    def _run_apart(
        self, tasks: Sequence[Task], left: Sequence[int], outcomes: dict[int, Outcome], progress: Progress
    ) -> None:
        # spawn instead of fork: loaded libraries may hold threads and locks
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(self.jobs, len(left)), context, initializer=_leave_with_parent) as pool:
            futures = {
                pool.submit(run_text, dump_config(tasks[index].config), tasks[index].seed): index
                for index in left
            }
            try:
                for future in as_completed(futures):
                    index = futures[future]
                    self._done(index, tasks[index], future.result(), outcomes)
                    progress(len(outcomes), tasks[index].words)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _done(self, index: int, task: Task, outcome: Outcome, outcomes: dict[int, Outcome]) -> None:
        outcomes[index] = outcome
        if self.shelf is not None:
            self.shelf.put(dump_config(task.config), task.seed, outcome.figures, outcome.course)


def run_text(text: str, seed: int) -> Outcome:
    """Call `run_one` with a configuration in YAML, which can be sent to another process."""
    return run_one(load_simulation(text), seed)


def _leave_with_parent() -> None:
    """Make this process of the pool exit as soon as its parent has ended in any way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()


def _leave_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def run_one(
    config: SimulationConfig,
    seed: int,
    progress: Callable[[float], object] = lambda part: None,
    kind: type[Cluster] = Cluster,
) -> Outcome:
    """Run one simulation to its end.

    If a step makes a parameter non-finite, the simulation ends. Its figure `ended` then holds the reason, and
    its late figures are NaN.

    Args:
        config: Simulation with one method and one setting.
        seed: Seed of all random numbers.
        progress: Receives the fraction that is done, 0 to 1.
        kind: Class of the cluster.
    """
    cluster = kind(config, seed)
    began = time.perf_counter()
    # overflow needs no warning: the engine checks for non-finite values
    with (
        contextlib.closing(cluster),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        try:
            while cluster.ended is None:
                cluster.run(SAMPLED_SLICE if config.objective.name == "policy" else SLICE)
                progress(cluster.progress)
        except FloatingPointError as error:
            cluster.ended = f"diverged: {error}"
    course = {name: values for name, values in cluster.trace.arrays().items() if not np.isnan(values).all()}
    return Outcome(seed, figures_of(cluster, course, time.perf_counter() - began), course)


def round_time_bound(cluster: Cluster) -> float:
    """Return the upper bound of the paper (arXiv 2509.24305) for the time of a round, plus max kappa.

    NaN if the bound does not apply. It needs rennala or malenia, constant times, no failures, `rounds.late:
    cancel` and no `admission: all_begun`.
    """
    compute, exchange, rounds = cluster.compute.fixed, cluster.exchange.fixed, cluster.config.rounds
    bound = {"rennala": rennala_bound, "malenia": malenia_bound}.get(str(rounds.rule))
    if bound is None or compute is None or exchange is None or cluster.config.sim.failures:
        return math.nan
    if rounds.late != "cancel" or rounds.counts_all_begun:
        return math.nan
    rule = cluster.engine.rule
    return bound(compute, max(rule.batch, rule.initial_batch)) + max(exchange)


def figures_of(cluster: Cluster, course: dict[str, Array], seconds: float) -> dict[str, Any]:
    """Return the figures of a finished simulation.

    Args:
        cluster: Finished simulation.
        course: Columns of its trace.
        seconds: Real time that the simulation took.

    Returns:
        Figures by name. All times are virtual, except `seconds`.
    """
    engine, time_passed = cluster.engine, cluster.published
    rounds = max(1, engine.version)
    late = course["time"] >= LATE * time_passed
    finite = not str(cluster.ended).startswith("diverged")
    figures: dict[str, Any] = {
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
    if cluster.objective is None:
        return figures
    for name in ("objective", "gradient_norm", "parameter_mean"):
        if name in course:
            figures[name] = (
                float(np.nanmean(course[name][late]))
                if finite and not np.isnan(course[name][late]).all()
                else math.nan
            )
    figures.setdefault("objective", math.nan)
    figures["threshold_times"] = [time_to(threshold, course) for threshold in cluster.config.sim.thresholds]
    return figures


def time_to(threshold: float, course: dict[str, Array]) -> float | None:
    """Return the virtual time at which the objective first reaches a threshold; None: never.

    The mean of WINDOW successive points must reach it, or the mean of all points if there are fewer.
    """
    values = course.get("objective", np.array([]))
    known = ~np.isnan(values)
    values, times = values[known], course["time"][known]
    window = min(WINDOW, len(values))
    if not window:
        return None
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    reached = np.flatnonzero(means >= threshold)
    return float(times[window - 1 :][reached[0]]) if len(reached) else None
