"""What the simulator says of a comparison of rules on real ranks: when the training return reaches a value.
Called by returns.py.

The simulator plays the same game with the same algorithm, optimizer and rule. What groups take for their
episodes and for a round trip is what one of the real runs has measured; nothing is fitted to the others.
Episodes that an actor plays side by side are as many simulated workers, which finish together; with afedpg,
where a gradient is made of all of them, they are one worker.
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

POINTS = 100_000  # of a course: every round is kept
EVENTS = 200  # between two looks at the return


class Seconds(NamedTuple):
    """Of each group: how long it takes for a wave of episodes, and for a round trip."""

    wave: list[float]
    exchange: list[float]

    @classmethod
    def of(cls, measured: Measured) -> Seconds:
        """What a run has measured."""
        return cls(
            [group.seconds * group.slots for group in measured.groups],
            [group.exchange_seconds for group in measured.groups],
        )


def predicted_seconds(config: Config, seconds: Seconds, episodes: int) -> float | None:
    """Simulate a run that ends when its training return is there.

    Args:
        config: Of the run; stop.return_mean and stop.seconds say when it ends.
        seconds: What its groups take.
        episodes: How many of the newest have to have that return in the mean.

    Returns:
        Seconds of training until then; None where that is not within stop.seconds.
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
            except FloatingPointError:  # it has diverged
                return None
            if (time := first_time(cluster.trace.arrays(), target, episodes)) is not None:
                return time
    return None


def simulation(config: Config, seconds: Seconds) -> SimulationConfig:
    """The run in virtual time."""
    wave = config.topology.environments_per_actor
    # episodes that a simulated worker plays one after the other
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
    """When the mean return of the newest `episodes` first reached the target; of a round the mean alone is
    known. None: never."""
    counts = np.diff(course["used"], prepend=0.0).astype(int)
    returns = np.repeat(course["objective"], counts)
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    for time, end in zip(course["time"], course["used"].astype(int), strict=True):
        if end >= episodes and sums[end] - sums[end - episodes] >= target * episodes:
            return float(time)
    return None
