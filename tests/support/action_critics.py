"""Small cases of MADDPG and MASAC with random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.algos import make_algorithm
from hpcmarl.config import MADDPGConfig, MASACConfig, NetworkConfig
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec

NETWORK = NetworkConfig(hidden=(5,))
RECURRENT = NetworkConfig(hidden=(5,), body="gru", memory=4)
CONFIGS: dict[str, Any] = {"maddpg": MADDPGConfig, "masac": MASACConfig}
CONTROLLED = make_spec(
    PolicySpec("runners", ("a", "b"), (4,), CONTINUOUS), PolicySpec("carriers", ("c",), (3,), CONTINUOUS)
)
CHOOSING = make_spec(
    PolicySpec("scouts", ("a", "b"), (4,), DISCRETE, True),
    PolicySpec("carriers", ("c",), (3,), ActionSpace("discrete", (3,))),
)
MIXED = make_spec(
    PolicySpec("scouts", ("a", "b"), (4,), DISCRETE, True), PolicySpec("carriers", ("c",), (3,), CONTINUOUS)
)
COMPONENTS = make_spec(PolicySpec("scouts", ("a", "b"), (4,), MULTI_DISCRETE, True))
CASES: list[tuple[str, EnvironmentSpec, dict[str, Any]]] = [
    (name, spec, {"critic": critic, **more})
    for name, more in (("maddpg", {}), ("masac", {}))
    for spec in (CONTROLLED, CHOOSING)
    for critic in ("independent", "joint_observation", "state")
] + [
    ("maddpg", MIXED, {"twin_critics": True, "n_step": 2, "reward_scale": 0.5}),
    ("maddpg", COMPONENTS, {"agent_id": False}),
    ("maddpg", CONTROLLED, {"network": RECURRENT, "output_cost": 0.3}),
    ("masac", MIXED, {"network": RECURRENT, "target_entropy": None, "entropy_cost": 0.3}),
    ("masac", CHOOSING, {"twin_critics": False, "entropy_cost_rate": 0.3}),
    ("maddpg", make_spec(agents=2, turn_based=True, has_mask=True), {"critic": "independent"}),
    ("masac", make_spec(agents=2, turn_based=True, has_mask=True), {"critic": "independent"}),
]


def make(name: str, spec: EnvironmentSpec, *, seed: int = 1, **keys: Any) -> Any:
    """Make an algorithm with random parameters, and other ones in its target network."""
    algorithm = make_algorithm(spec, CONFIGS[name](**{"network": NETWORK, "discount": 0.9, **keys}), 0)
    generator = np.random.default_rng(seed)
    for version in range(2):
        algorithm.load_parameters(generator.standard_normal(algorithm.size).astype(np.float32) * 0.5)
        algorithm.on_version(version)
    return algorithm
