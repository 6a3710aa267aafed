"""Local steps between two rounds (FedPG): each worker moves a point of its own along its trajectories'
gradients. Called by the cluster.

    x_i <- point;   for each trajectory of worker i in the round:  u = g_i(x_i) / |g_i(x_i)|,   x_i <- x_i +
        beta u

symbol -> variable: beta -> step_size, x_i -> points[i], u -> units. What a worker delivers is the sum of its
    units, so that the mean over all
trajectories of a round, times beta and the trajectories of a worker, is the mean of the workers' movements:
the step of federated averaging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hpcmarl.sim.objectives import Objective
from hpcmarl.types import Array


def sum_of_local_steps(
    objective: Objective,
    workers: Sequence[int],
    point: Array,
    step_size: float,
    generator: np.random.Generator,
) -> Array:
    """Play the trajectories of a round one after the other for each worker, and those of different workers
    side by side.

    Args:
        objective: Whose gradients are followed.
        workers: Of each trajectory.
        point: Where all of them begin, [P].
        step_size: Length of a local step.
        generator: For actions and noise.

    Returns:
        The sum of all units, [P].
    """
    points, left, total = dict.fromkeys(workers, point), Counter(workers), np.zeros_like(point)
    while left:
        moving = sorted(left)
        for worker, gradient in zip(
            moving, objective.apart(moving, [points[worker] for worker in moving], generator), strict=True
        ):
            norm = float(np.linalg.norm(gradient))
            if norm > 0:
                total += gradient / norm
                points[worker] = points[worker] + gradient * (step_size / norm)
        left -= Counter(moving)
    return total
