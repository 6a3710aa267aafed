"""Local steps between two rounds (FedPG).

Each worker moves its own point along the gradients of its trajectories:

    x_i <- point
    for each trajectory of worker i in the round:   u = g_i(x_i) / |g_i(x_i)|,   x_i <- x_i + beta u

Symbol -> variable: beta -> step_size, x_i -> points[i], sum of all u -> total.

A worker delivers the sum of its unit vectors u. The mean over all trajectories of a round, times beta and the
number of trajectories per worker, is the mean movement of the workers: the step of federated averaging.
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
    """Take the local steps of a round and return the sum of all unit vectors.

    The trajectories of one worker follow one another; those of different workers are played side by side.

    Args:
        objective: Objective whose gradients are followed.
        workers: Worker of each trajectory.
        point: Point at which all workers begin, [P].
        step_size: Length of a local step, beta.
        generator: For actions and noise.

    Returns:
        Sum of all unit vectors, [P].
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
