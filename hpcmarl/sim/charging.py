"""Compute times proportional to the length of a trajectory: h_i · steps / reference (`sim.charge: step`).

A trajectory is played when its worker begins it, at the point where that worker stands. If it is abandoned
later, it was played in vain. This charging is biased: with rennala, the first M trajectories to finish tend
to be short, so short trajectories count too often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcmarl.sim.sampled import Sampled
from hpcmarl.sim.times import Times
from hpcmarl.types import Array


class TimesByStep:
    """Replacement for `Times` that plays each trajectory when it begins and charges its steps.

    The objective keeps the played trajectory until its gradient is requested.

    Args:
        times: Time h_i of a trajectory with `objective.reference_steps` steps.
        objective: Objective that plays the trajectories.
        point_of: Worker -> the point at which it stands now, [P].
        generator: For actions and noise.

    Attributes:
        fixed: None: lengths, and therefore times, vary.
    """

    fixed: list[float] | None = None

    def __init__(
        self,
        times: Times,
        objective: Sampled,
        point_of: Callable[[int], Array],
        generator: np.random.Generator,
    ) -> None:
        self.times, self.objective, self.point_of, self.generator = times, objective, point_of, generator

    def draw(self, worker: int, now: float) -> float:
        """Play a trajectory of `worker` that begins at time `now`; return its duration."""
        steps = self.objective.begin([worker], self.point_of(worker), self.generator)[0]
        return self.times.draw(worker, now) * steps / self.objective.reference_steps

    def draw_all(self, now: float) -> list[float]:
        """Play a trajectory of every worker at one point, beginning at time `now`; return the durations."""
        times = self.times.draw_all(now)
        steps = self.objective.begin(range(len(times)), self.point_of(0), self.generator)
        return [time * own / self.objective.reference_steps for time, own in zip(times, steps, strict=True)]
