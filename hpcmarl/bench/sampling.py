"""Simulations whose gradients are those of episodes that are really played, beside bare stepping of the same environment on the same core.

Called by cli_bench.py; one process. The two take turns in short windows, so that a machine's moods fall on both alike.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from hpcmarl.config.file import vary
from hpcmarl.config.simulation import PolicyObjectiveConfig, SimulationConfig
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.errors import UsageError
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.sampled import Sampled

SEED = 1_000_000  # of the bare environment
WINDOWS = 4
METHODS: dict[str, dict[str, Any]] = {
    "sync": {"rounds.rule": "sync"},
    "afedpg": {"rounds.rule": "afedpg"},
    "rennala": {"rounds.rule": "rennala", "rounds.batch": 20},
}


def run(config: SimulationConfig, seconds: float) -> list[dict[str, Any]]:
    """Measure each method.

    Args:
        config: Of the simulation; its rounds are those of METHODS.
        seconds: Of measuring, in all.

    Returns:
        Rows with method, environment steps a second that were played and that bare stepping makes, their ratio, and events a second.

    Raises:
        UsageError: The objective is not a policy.
    """
    if not isinstance(config.objective, PolicyObjectiveConfig):
        raise UsageError(f"bench sampling needs a configuration with objective.name: policy; this one has {config.objective.name}")
    endless = {"sim.stop": {"rounds": 1_000_000_000}}
    return [_measure(name, vary(config, endless | changes, "bench sampling"), seconds / len(METHODS)) for name, changes in METHODS.items()]


def _measure(name: str, config: SimulationConfig, seconds: float) -> dict[str, Any]:
    window = seconds / (2 * WINDOWS)
    cluster = Cluster(config, config.seed)
    objective = cluster.objective
    assert isinstance(objective, Sampled)
    assert isinstance(config.objective, PolicyObjectiveConfig)
    bare = make_bare(config.objective.env, config.objective.slots, Seeds(SEED))
    with contextlib.closing(cluster), contextlib.closing(bare):
        step_bare(bare, 0.1 * window)
        cluster.run(config.sim.workers)
        steps = stepped = events = 0
        took = bare_took = 0.0
        for _ in range(WINDOWS):
            before, before_events, began = objective.steps_played, cluster.events, time.perf_counter()
            while time.perf_counter() - began < window and cluster.ended is None:
                cluster.run(config.sim.workers)
            steps, events, took = steps + objective.steps_played - before, events + cluster.events - before_events, took + time.perf_counter() - began
            count, lasted = step_bare(bare, window)
            stepped, bare_took = stepped + count, bare_took + lasted
    played, alone = steps / took, stepped / bare_took
    return {
        "method": name,
        "environment": config.objective.env.id,
        "played_steps_per_second": played,
        "bare_steps_per_second": alone,
        "ratio": played / alone,
        "events_per_second": events / took,
    }
