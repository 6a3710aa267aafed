"""Small value-based algorithms with random parameters, and episodes for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcmarl.algos import make_algorithm
from hpcmarl.config import AgentNetworkConfig, IQLConfig, QMIXConfig, RESConfig, VDNConfig, WQMIXConfig
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec, Rollout
from tests.support.rollouts import DISCRETE, make_spec, random_rollout

CONFIGS: dict[str, Any] = {
    "iql": IQLConfig,
    "vdn": VDNConfig,
    "qmix": QMIXConfig,
    "wqmix": WQMIXConfig,
    "res": RESConfig,
}
NETWORK = AgentNetworkConfig(hidden=(5,), body="gru", memory=4)
DUELING = AgentNetworkConfig(hidden=(5,), body="gru", memory=4, dueling=True)
TWO = (
    PolicySpec("scouts", ("a", "b"), (4,), DISCRETE, True),
    PolicySpec("carriers", ("c",), (3,), ActionSpace("discrete", (3,))),
)
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("iql", {}),
    ("iql", {"trace_lambda": 0.7, "double_q": False, "agent_id": False}),
    ("iql", {"operator": "mellowmax", "network": AgentNetworkConfig(hidden=(5,), body="mlp")}),
    ("vdn", {"reward_scale": 0.5}),
    ("vdn", {"trace_lambda": 0.6, "operator": "mellowmax"}),
    ("qmix", {}),
    (
        "qmix",
        {
            "mixer_state": "joint_observation",
            "trace_lambda": 1.0,
            "double_q": False,
            "network": AgentNetworkConfig(hidden=(5,), body="mlp"),
        },
    ),
    ("qmix", {"operator": "mellowmax", "mellowmax_omega": 2.0, "mellowmax_alpha": 0.5}),
    ("wqmix", {"central_width": 5, "weighting": "optimistic", "weight": 0.3}),
    ("wqmix", {"central_width": 5, "weighting": "central", "trace_lambda": 0.4}),
    ("wqmix", {"central_width": 5, "weighting": "central", "operator": "mellowmax"}),
    ("res", {"softmax_beta": 0.7, "regularisation": 0.5}),
    ("res", {"softmax_beta": 5.0, "trace_lambda": 0.5, "mixer_state": "joint_observation"}),
    ("res", {"softmax_beta": 5.0, "double_q": False}),
    ("res", {}),
    ("iql", {"network": DUELING}),
    ("vdn", {"network": AgentNetworkConfig(hidden=(5,), body="mlp", dueling=True)}),
    ("qmix", {"network": DUELING, "obs_last_action": True, "n_step": 2}),
    ("wqmix", {"network": DUELING, "central_width": 5}),
    ("res", {"network": DUELING, "softmax_beta": 0.7}),
    ("iql", {"n_step": 3}),
    ("vdn", {"n_step": 2, "operator": "mellowmax"}),
    ("qmix", {"n_step": 50, "reward_scale": 0.5}),
    ("wqmix", {"n_step": 3, "central_width": 5, "weighting": "central"}),
    ("res", {"n_step": 2, "softmax_beta": 0.7, "regularisation": 0.5}),
    ("iql", {"obs_last_action": True, "agent_id": False}),
    ("vdn", {"obs_last_action": True, "network": AgentNetworkConfig(hidden=(5,), body="mlp")}),
    ("qmix", {"obs_last_action": True, "mixer_state": "joint_observation"}),
    ("wqmix", {"obs_last_action": True, "central_width": 5}),
]


def make(name: str, spec: EnvironmentSpec | None = None, *, seed: int = 1, **keys: Any) -> Any:
    """Make an algorithm with random parameters.

    The target network has other random parameters, so that choices and values differ.
    """
    small = {} if name in ("iql", "vdn") else {"mixing_width": 4, "hypernetwork_width": 6}
    config = CONFIGS[name](**{"network": NETWORK, "discount": 0.9, **small, **keys})
    algorithm = make_algorithm(spec or make_spec(*TWO), config, 0)
    generator = np.random.default_rng(seed)
    for version in range(2):
        algorithm.load_parameters(generator.standard_normal(algorithm.size).astype(np.float32) * 0.5)
        algorithm.on_version(version)
    return algorithm


def episodes(
    spec: EnvironmentSpec,
    memory: int = 4,
    lengths: Sequence[int] = (3, 6, 1, 5, 4),
    slots: int = 1,
    seed: int = 0,
) -> list[Rollout]:
    """Draw whole episodes of these lengths, with terminations, truncations and deaths."""
    generators = (np.random.default_rng(length + 100 * seed) for length in lengths)
    pairs = zip(lengths, generators, strict=True)
    return [
        random_rollout(spec, length, slots, own, deaths=True, whole_episode=True, memory=memory)
        for length, own in pairs
    ]
