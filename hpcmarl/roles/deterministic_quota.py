"""How much each actor delivers for a version in a deterministic run. Asked by the actors and by the feeds of
their learner.
"""

from __future__ import annotations

import math

from hpcmarl.config import QLearningConfig
from hpcmarl.roles.base import Context


def actor_quota(context: Context, group: int, version: int) -> int:
    """Trajectories that each actor of a group delivers for a version in a deterministic run.

    With replay a version needs so many new episodes only that the ratio is kept, and the first one what the
    replay starts with.
    """
    rule = context.rule()
    quota = rule.quota(rule.initial_batch if version == 0 else rule.batch)
    assert quota is not None  # deterministic runs are synchronous
    algo = context.config.algo
    if isinstance(algo, QLearningConfig):
        quota = max(
            1,
            math.ceil(quota / algo.replay.samples_per_insert),
            algo.replay.learning_starts if version == 0 else 0,
        )
    return -(-quota // len(context.topology.groups[group].actors))
