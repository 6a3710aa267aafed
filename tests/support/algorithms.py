"""Specifications, rollouts and policies shared by the tests of algorithms and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.build import build
from hpcmarl.nets.choosers import Chooser, make_chooser
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.layer_shapes import Shape
from hpcmarl.nets.numpy_policy import NumpyPolicy
from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.nets.policy import Policy
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import ActionSpace, EnvironmentSpec, FloatArray, PolicySpec, Rollout
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec, random_rollout

TEAM_AND_PREY = make_spec(
    PolicySpec("team", ("t0", "t1", "t2"), (4,), MULTI_DISCRETE, True),
    PolicySpec("prey", ("p0",), (2, 3), CONTINUOUS),
)
TWO_TEAMS = make_spec(
    PolicySpec("team", ("t0", "t1", "t2"), (4,), DISCRETE, True),
    PolicySpec("prey", ("p0",), (2, 3), DISCRETE),
)
TURNS = make_spec(agents=2, turn_based=True, has_mask=True)


def rollouts_of(
    spec: EnvironmentSpec,
    *,
    steps: int = 9,
    slots: int = 3,
    seed: int = 0,
    count: int = 2,
    memory: int | None = None,
) -> list[Rollout]:
    """Return `count` random rollouts with deaths."""
    generator = np.random.default_rng(seed)
    return [random_rollout(spec, steps, slots, generator, deaths=True, memory=memory) for _ in range(count)]


def outlived_rows(rollouts: Sequence[Rollout]) -> int:
    """Count the rows in which all agents of a policy are dead or absent, over all policies."""
    return sum(
        int((~part.alive[:-1].any(-1)).sum()) for rollout in rollouts for part in rollout.policies.values()
    )


def seeded(seed: int = 0) -> torch.Generator:
    """Return a torch generator with this seed."""
    return torch.Generator().manual_seed(seed)


def bind(modules: Mapping[str, Shape], seed: int = 0) -> tuple[dict[str, Any], FlatParameters]:
    """Build torch modules from shapes, with initial values drawn from a seed."""
    layout, built = ParameterLayout(modules), {name: build(shape) for name, shape in modules.items()}
    vector = aligned_zeros(layout.size)
    layout.draw(vector, seed)
    return built, FlatParameters(layout, built, vector)


def make(shape: Shape, seed: int = 0) -> Any:
    """Build one torch module from a shape."""
    return bind({"network": shape}, seed)[0]["network"]


def arrays_of(module: torch.nn.Module) -> dict[str, FloatArray]:
    """Return the parameters and buffers of a module by name, as its numpy version reads them."""
    return {
        name: part.detach().numpy() for name, part in (*module.named_parameters(), *module.named_buffers())
    }


def acting(policy: Policy, chooser: Chooser | None = None) -> NumpyPolicy:
    """Return the numpy version of a policy."""
    return NumpyPolicy(policy.shape, chooser or make_chooser(policy.shape.action), arrays_of(policy))


# --- policies


def make_policy(space: ActionSpace, recurrent: bool, hidden: tuple[int, ...] = (8, 8)) -> Policy:
    """Make a torch policy of two agents with random weights."""
    spec = PolicySpec("p", ("a", "b"), (2, 3), space, bool(space.mask_size))
    network = NetworkConfig(hidden=hidden, body="gru" if recurrent else "mlp", memory=5)
    policy: Policy = make(PolicyShape(spec, network, make_chooser(space).raw_size))
    return policy
