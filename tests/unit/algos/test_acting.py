"""Acting and learning use the same policy.

Rollouts made by `act` have importance ratios of one when `gradient` evaluates them.
"""

from __future__ import annotations

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.base import Algorithm
from hpcmarl.config import MATraceConfig, NetworkConfig
from hpcmarl.types import EnvironmentSpec, PolicySpec
from tests.support.rollouts import (
    CONTINUOUS,
    DISCRETE,
    MULTI_DISCRETE,
    act_out,
    frame_of,
    make_spec,
    random_rollout,
)

SPEC = make_spec(
    PolicySpec("walker", ("w0", "w1"), (5,), CONTINUOUS),
    PolicySpec("talker", ("t0", "t1", "t2"), (2, 2), MULTI_DISCRETE, True),
    PolicySpec("mover", ("m0",), (3,), DISCRETE, True),
)


def make(
    spec: EnvironmentSpec, recurrent: bool, activation: str = "tanh", *, agent_id: bool = False
) -> Algorithm:
    network = NetworkConfig(
        hidden=(16, 16), activation=activation, body="gru" if recurrent else "mlp", memory=8
    )
    # Wide clips: the reported mean ratio is not clipped.
    algorithm = make_algorithm(
        spec, MATraceConfig(network=network, rho_max=100.0, ratios="agent", agent_id=agent_id), 0
    )
    algorithm.load_parameters(
        algorithm.parameters
        + 0.3 * np.random.default_rng(5).standard_normal(algorithm.size).astype(np.float32)
    )
    return algorithm


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("agent_id", [False, True])
@pytest.mark.parametrize(("recurrent", "activation"), [(False, "tanh"), (False, "relu"), (True, "tanh")])
def test_importance_ratios_of_own_rollouts_are_one(
    recurrent: bool, activation: str, agent_id: bool, greedy: bool
) -> None:
    algorithm = make(SPEC, recurrent, activation, agent_id=agent_id)
    rollouts = [random_rollout(SPEC, 12, 4, np.random.default_rng(seed), deaths=True) for seed in range(2)]
    for seed, rollout in enumerate(rollouts):
        act_out(algorithm, rollout, seed, greedy)
    _, statistics = algorithm.gradient(rollouts)
    for policy in SPEC.policies:
        assert statistics[f"mean_rho_{policy.name}"] == pytest.approx(1.0, abs=1e-4)
    moved = algorithm.parameters + 0.2 * np.random.default_rng(9).standard_normal(algorithm.size).astype(
        np.float32
    )
    algorithm.load_parameters(moved)
    assert abs(algorithm.gradient(rollouts)[1]["mean_rho_talker"] - 1.0) > 1e-3


def test_acting_is_a_function_of_parameters_and_generator() -> None:
    first, second = make(SPEC, True), make(SPEC, True)
    rollouts = [random_rollout(SPEC, 6, 3, np.random.default_rng(0), deaths=True) for _ in range(3)]
    act_out(first, rollouts[0], 1)
    act_out(second, rollouts[1], 1)
    act_out(second, rollouts[2], 2)
    for name in first.segments:
        np.testing.assert_array_equal(rollouts[0].policies[name].action, rollouts[1].policies[name].action)
        np.testing.assert_array_equal(rollouts[0].policies[name].logp, rollouts[1].policies[name].logp)
    assert not np.array_equal(rollouts[0].policies["walker"].action, rollouts[2].policies["walker"].action)


def test_loading_parameters_changes_actions_immediately() -> None:
    algorithm = make(SPEC, False)
    rollout = random_rollout(SPEC, 1, 3, np.random.default_rng(0))
    before = algorithm.act(frame_of(rollout, 0), {}, np.random.default_rng(0))
    algorithm.load_parameters(algorithm.parameters * 2)
    after = algorithm.act(frame_of(rollout, 0), {}, np.random.default_rng(0))
    assert not np.array_equal(before["walker"].action, after["walker"].action)
    assert algorithm.initial_memory(3) == {}


def test_initial_memory_has_one_row_an_agent() -> None:
    memory = make(SPEC, True).initial_memory(4)
    assert {name: array.shape for name, array in memory.items()} == {
        "walker": (4, 2, 8),
        "talker": (4, 3, 8),
        "mover": (4, 1, 8),
    }
    assert all(array.dtype == np.float32 and not array.any() for array in memory.values())
