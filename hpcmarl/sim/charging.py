"""Compute times of trajectories that are charged by their length: h_i · steps / reference. Called by the
cluster with `sim.charge: step`.

A trajectory then has to be played when its worker begins it, at the point where that worker stands; what is
abandoned was played in vain. Mind the bias: with rennala "the first M to finish" are short ones more often
than not, and so are the gradients that count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcmarl.sim.sampled import Sampled
from hpcmarl.sim.times import Times
from hpcmarl.types import Array


class TimesByStep:
    """In the place of `Times`: plays a trajectory each time one is begun, and keeps it in the objective until
    its gradient is asked for."""

    fixed: list[float] | None = None  # lengths vary

    def __init__(
        self,
        times: Times,
        objective: Sampled,
        point_of: Callable[[int], Array],
        generator: np.random.Generator,
    ) -> None:
        """point_of: worker -> where it stands now."""
        self.times, self.objective, self.point_of, self.generator = times, objective, point_of, generator

    def draw(self, worker: int, now: float) -> float:
        """The time of what `worker` begins at `now`."""
        steps = self.objective.begin([worker], self.point_of(worker), self.generator)[0]
        return self.times.draw(worker, now) * steps / self.objective.reference_steps

    def draw_all(self, now: float) -> list[float]:
        """The times of what all workers begin at `now`, at one point."""
        times = self.times.draw_all(now)
        steps = self.objective.begin(range(len(times)), self.point_of(0), self.generator)
        return [time * own / self.objective.reference_steps for time, own in zip(times, steps, strict=True)]
