"""Specifications, rollouts and policies that the tests of several algorithms and networks share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.policy import Policy
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec, Rollout
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec, random_rollout

TEAM_AND_PREY = make_spec(PolicySpec("team", ("t0", "t1", "t2"), (4,), MULTI_DISCRETE, True), PolicySpec("prey", ("p0",), (2, 3), CONTINUOUS))
TWO_TEAMS = make_spec(PolicySpec("team", ("t0", "t1", "t2"), (4,), DISCRETE, True), PolicySpec("prey", ("p0",), (2, 3), DISCRETE))
TURNS = make_spec(agents=2, turn_based=True, has_mask=True)


def rollouts_of(spec: EnvironmentSpec, *, steps: int = 9, slots: int = 3, seed: int = 0, count: int = 2, memory: int | None = None) -> list[Rollout]:
    generator = np.random.default_rng(seed)
    return [random_rollout(spec, steps, slots, generator, deaths=True, memory=memory) for _ in range(count)]


def outlived_rows(rollouts: Sequence[Rollout]) -> int:
    """Count the rows in which all agents of one policy are dead or absent, of each policy."""
    return sum(int((~part.alive[:-1].any(-1)).sum()) for rollout in rollouts for part in rollout.policies.values())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- policies


def make_policy(space: ActionSpace, recurrent: bool, hidden: tuple[int, ...] = (8, 8)) -> Policy:
    spec = PolicySpec("p", ("a", "b"), (2, 3), space, bool(space.mask_size))
    return Policy(spec, NetworkConfig(hidden=hidden, recurrent=recurrent, memory=5), seeded())
