"""Trajectories that each actor delivers for a version in a deterministic run."""

from __future__ import annotations

import math

from hpcmarl.roles.base import Context

USUAL_EPISODE = 25  # steps of an episode if the environment has no known limit


def actor_quota(context: Context, group: int, version: int) -> int:
    """Return how many trajectories each actor of a group delivers for a version in a deterministic run.

    With a replay buffer, a version needs only as many new episodes as keep samples_per_insert. If steps are
    drawn, episodes are assumed to have env.max_steps steps, or USUAL_EPISODE. The first version needs at
    least learning_starts episodes.

    Args:
        context: The run.
        group: Number of the group.
        version: Version of the parameters.
    """
    rule = context.rule()
    quota = rule.quota(rule.initial_batch if version == 0 else rule.batch)
    assert quota is not None  # deterministic runs use rules with a quota
    if (replay := context.config.algo.replay_section) is not None:
        config = context.config
        each = (config.env.max_steps or USUAL_EPISODE) if config.algo.draws_steps else 1
        quota = max(
            1,
            math.ceil(quota / (replay.samples_per_insert * each)),
            replay.learning_starts if version == 0 else 0,
        )
    return -(-quota // len(context.topology.groups[group].actors))
