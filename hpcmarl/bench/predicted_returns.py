"""Predict with the simulator when the training return of a run reaches a value.

The simulator plays the same game with the same algorithm, optimizer and rule. The seconds of a group's
episodes and of its messages come from one measured run. No other value is fitted to real runs. Episodes that
an actor plays in parallel are one simulated worker each, and they finish together. With afedpg they are one
worker, because each gradient uses all of them.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.config import Config
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.plan import Measured
from hpcmarl.types import Array

POINTS = 100_000  # points of the recorded course; enough to keep every round
EVENTS = 200  # simulated events between two checks of the return


class Seconds(NamedTuple):
    """Measured times of each group.

    Attributes:
        wave: Seconds of a wave of episodes.
        exchange: Seconds of a round trip of messages.
    """

    wave: list[float]
    exchange: list[float]

    @classmethod
    def of(cls, measured: Measured) -> Seconds:
        """Return the times that a run has measured."""
        return cls(
            [group.seconds * group.slots for group in measured.groups],
            [group.exchange_seconds for group in measured.groups],
        )


def predicted_seconds(config: Config, seconds: Seconds, episodes: int) -> float | None:
    """Simulate a run until its training return reaches the target.

    Args:
        config: Configuration of the run; it ends at stop.return_mean or after stop.seconds.
        seconds: Measured times of the groups.
        episodes: Number of newest episodes whose mean return must reach the target.

    Returns:
        Seconds of training until then; None if that takes longer than stop.seconds, or if the run diverges.
    """
    target = config.stop.return_mean
    assert target is not None
    with (
        contextlib.closing(Cluster(simulation(config, seconds), config.seed)) as cluster,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        while cluster.ended is None:
            try:
                cluster.run(EVENTS)
            except FloatingPointError:  # the run has diverged
                return None
            if (time := first_time(cluster.trace.arrays(), target, episodes)) is not None:
                return time
    return None


def simulation(config: Config, seconds: Seconds) -> SimulationConfig:
    """Return the configuration that simulates the run in virtual time."""
    wave = config.topology.environments_per_actor
    # episodes that one simulated worker plays in sequence
    together = wave if config.rounds.rule == "afedpg" else 1
    times = np.repeat(seconds.wave, wave // together) / together
    exchanges = np.repeat(seconds.exchange, wave // together)
    algo = config.algo.model_dump()
    tree: dict[str, Any] = {
        "objective": {"name": "policy", "env": config.env.model_dump(), "algo": algo, "slots": len(times)},
        "optimizer": config.optimizer.model_dump(),
        "rounds": {"rule": config.rounds.rule, "batch": config.rounds.batch},
        "sim": {
            "workers": len(times),
            "compute_times": {"values": times.tolist()},
            "communication_times": {"values": exchanges.tolist()},
            "stop": {"time": config.stop.seconds},
            "points": POINTS,
        },
    }
    return SimulationConfig.model_validate(tree)


def first_time(course: dict[str, Array], target: float, episodes: int) -> float | None:
    """Return the time at which the mean return of the newest `episodes` first reached the target.

    Only the mean return of each round is known; all episodes of a round count with that mean.

    Args:
        course: Recorded columns `time`, `used` (episodes so far) and `objective`, shape [rounds] each.
        target: Mean return.
        episodes: Number of newest episodes.

    Returns:
        Seconds; None if the target was not reached.
    """
    counts = np.diff(course["used"], prepend=0.0).astype(int)
    returns = np.repeat(course["objective"], counts)
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    for time, end in zip(course["time"], course["used"].astype(int), strict=True):
        if end >= episodes and sums[end] - sums[end - episodes] >= target * episodes:
            return float(time)
    return None
