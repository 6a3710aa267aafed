"""Measure simulations with sampled gradients against bare stepping of the same environment.

The gradients of such a simulation come from episodes that are really played. Both run on one core in one
process. They take turns in short windows, which spreads machine noise over both.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from hpcmarl.bench.paired_throughput import paired_throughput
from hpcmarl.config.file import vary
from hpcmarl.config.simulation import PolicyObjectiveConfig, SimulationConfig
from hpcmarl.errors import UsageError
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.sampled import Sampled

WINDOWS = 4
METHODS: dict[str, dict[str, Any]] = {
    "sync": {"rounds.rule": "sync"},
    "afedpg": {"rounds.rule": "afedpg"},
    "rennala": {"rounds.rule": "rennala", "rounds.batch": 20},
}


def run(config: SimulationConfig, seconds: float) -> list[dict[str, Any]]:
    """Measure each method.

    Args:
        config: Configuration of the simulation; METHODS replaces its rounds.
        seconds: Time to measure all methods together.

    Returns:
        One row for each method: environment steps per second of the simulation and of bare stepping, their
        ratio, and simulated events per second.

    Raises:
        UsageError: The objective is not a policy.
    """
    if not isinstance(config.objective, PolicyObjectiveConfig):
        raise UsageError(
            "bench sampling needs a configuration with objective.name: policy; this one has "
            f"{config.objective.name}"
        )
    endless = {"sim.stop": {"rounds": 1_000_000_000}}
    return [
        _measure(name, vary(config, endless | changes, "bench sampling"), seconds / len(METHODS))
        for name, changes in METHODS.items()
    ]


class Playing:
    """A simulation that runs without end.

    Attributes:
        cluster: The simulated cluster.
        events: Events so far.
        seconds: Wall-clock time so far.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.cluster = Cluster(config, config.seed)
        assert isinstance(self.cluster.objective, Sampled)
        self._objective, self._slice = self.cluster.objective, config.sim.workers
        self.events, self.seconds = 0, 0.0

    def run(self, seconds: float) -> tuple[int, float]:
        """Simulate for about `seconds`.

        Returns:
            Environment steps, and seconds that they took.
        """
        steps, events, began = self._objective.steps_played, self.cluster.events, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.cluster.run(self._slice)
        took = time.perf_counter() - began
        self.events += self.cluster.events - events
        self.seconds += took
        return self._objective.steps_played - steps, took


def _measure(name: str, config: SimulationConfig, seconds: float) -> dict[str, Any]:
    assert isinstance(config.objective, PolicyObjectiveConfig)
    playing, window = Playing(config), seconds / (2 * WINDOWS)
    with contextlib.closing(playing.cluster):
        playing.run(0.2 * window)
        playing.events, playing.seconds = 0, 0.0
        figures = paired_throughput(
            "played",
            playing.run,
            config.objective.env,
            config.seed,
            config.objective.slots,
            0.5 * seconds,
            window,
        )
    return {
        "method": name,
        "environment": figures["environment"],
        "played_steps_per_second": figures["played_env_steps_per_second"],
        "bare_steps_per_second": figures["bare_env_steps_per_second"],
        "ratio": figures["ratio"],
        "events_per_second": playing.events / playing.seconds,
    }
