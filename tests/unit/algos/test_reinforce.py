"""The trajectory gradient against a brute-force double loop, and its other properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.base import Algorithm
from hpcmarl.config import NetworkConfig, ReinforceConfig
from hpcmarl.types import ActionSpace, EnvironmentSpec, Frame, PolicyFrame, PolicySpec, Rollout
from tests.reference.reinforce import literal_gradient
from tests.support.rollouts import CONTINUOUS, DISCRETE, MULTI_DISCRETE, make_spec, random_rollout

TWO_POLICIES = (
    PolicySpec("hunter", ("h0", "h1"), (4,), MULTI_DISCRETE, True),
    PolicySpec("prey", ("p0",), (2, 3), CONTINUOUS),
)


def make(spec: EnvironmentSpec, *, recurrent: bool = False, discount: float = 0.9) -> Algorithm:
    """Return an algorithm with random parameters.

    The initial policy is uniform, which would hide mistakes.
    """
    network = NetworkConfig(hidden=(5,), body="gru" if recurrent else "mlp", memory=4)
    algorithm = make_algorithm(spec, ReinforceConfig(discount=discount, network=network), 0)
    algorithm.load_parameters(
        np.random.default_rng(1).standard_normal(algorithm.size).astype(np.float32) * 0.7
    )
    return algorithm


def episodes(
    spec: EnvironmentSpec, lengths: Sequence[int], seed: int = 0, memory: int | None = None
) -> list[Rollout]:
    generator = np.random.default_rng(seed)
    return [
        random_rollout(spec, length, 1, generator, deaths=True, whole_episode=True, memory=memory)
        for length in lengths
    ]


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(),
        make_spec(action=MULTI_DISCRETE, has_mask=True),
        make_spec(*TWO_POLICIES),
        make_spec(agents=2, turn_based=True, has_mask=True),
    ],
    ids=["team", "masked", "two_policies", "turn_based"],
)
def test_equals_the_brute_force_double_loop(spec: EnvironmentSpec) -> None:
    algorithm, rollouts = make(spec), episodes(spec, [3, 8, 1, 5])
    wanted = literal_gradient(algorithm, rollouts, 0.9)
    found, statistics = algorithm.gradient(rollouts)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-4)
    assert found.dtype == np.float32
    assert statistics["gradient_norm"] == pytest.approx(np.linalg.norm(wanted), rel=1e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_gradient_ignores_padding_and_is_additive(recurrent: bool) -> None:
    spec = make_spec(*TWO_POLICIES)
    algorithm, rollouts = (
        make(spec, recurrent=recurrent),
        episodes(spec, [2, 9, 4], memory=4 if recurrent else None),
    )
    together, _ = algorithm.gradient(rollouts)
    apart = sum(algorithm.gradient([rollout])[0] for rollout in rollouts)
    assert np.abs(together).max() > 0.01
    np.testing.assert_allclose(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_policy_gradient_equals_finite_differences(recurrent: bool) -> None:
    """The gradient of the surrogate sum_t weight_t log pi_t, along random directions."""
    spec = make_spec(agents=2)
    algorithm, rollouts = (
        make(spec, recurrent=recurrent),
        episodes(spec, [6], seed=3, memory=4 if recurrent else None),
    )
    origin = algorithm.parameters.copy()
    found, _ = algorithm.gradient(rollouts)
    generator = np.random.default_rng(0)
    for _ in range(4):
        direction = generator.standard_normal(algorithm.size).astype(np.float32)
        direction /= np.linalg.norm(direction)
        values = []
        for step in (2e-2, -2e-2):
            algorithm.load_parameters(origin + np.float32(step) * direction)
            values.append(-algorithm.gradient(rollouts)[1]["policy_loss"])
        algorithm.load_parameters(origin)
        assert (values[0] - values[1]) / 4e-2 == pytest.approx(float(found @ direction), abs=2e-2, rel=2e-2)


def test_dead_rows_do_not_affect_the_gradient() -> None:
    """The content of rows in which an agent is not alive does not change the gradient."""
    spec = make_spec(has_mask=True)
    algorithm, rollouts = make(spec), episodes(spec, [7, 4])
    before, _ = algorithm.gradient(rollouts)
    assert not all(rollout.policies["agent"].alive[:-1].all() for rollout in rollouts)
    for rollout in rollouts:
        part = rollout.policies["agent"]
        dead = ~part.alive
        part.obs[dead] = 1e3
        part.action[dead[:-1]] = 4
        part.logp[dead[:-1]] = -99
        assert part.action_mask is not None
        part.action_mask[dead] = True
    np.testing.assert_array_equal(algorithm.gradient(rollouts)[0], before)


def test_never_acting_policy_has_zero_gradient() -> None:
    spec = make_spec(*TWO_POLICIES)
    algorithm, (rollout,) = make(spec), episodes(spec, [5])
    rollout.policies["prey"].alive[:] = False
    vector, statistics = algorithm.gradient([rollout])
    assert not vector[algorithm.segments["prey"]].any()
    assert vector[algorithm.segments["hunter"]].any()
    assert all(np.isfinite(value) for value in statistics.values())


def test_a_bandit_is_solved() -> None:
    """Following the gradient makes action 3 certain: one step, with reward 1 for that action.

    The test fails if the sign of the gradient is wrong.
    """
    spec = make_spec(PolicySpec("p", ("a",), (1,), ActionSpace("discrete", (5,))), state_size=None)
    algorithm = make_algorithm(spec, ReinforceConfig(network=NetworkConfig(hidden=(8,))), 0)
    generator = np.random.default_rng(0)
    rollout = random_rollout(spec, 1, 256, generator, whole_episode=True)
    part = rollout.policies["p"]
    part.obs[:] = 1.0
    frame = Frame({"p": PolicyFrame(part.obs[0], part.alive[0])}, None, rollout.episode_start[0])
    for _ in range(60):
        part.action[0] = algorithm.act(frame, {}, generator)["p"].action
        part.reward[0] = part.action[0] == 3
        vector, _ = algorithm.gradient([rollout])
        algorithm.load_parameters(algorithm.parameters + 0.1 * vector / np.linalg.norm(vector))
    assert (algorithm.act(frame, {}, generator)["p"].action == 3).mean() > 0.95
    assert (algorithm.act(frame, {}, generator, greedy=True)["p"].action == 3).all()


def test_reinforce_properties_and_empty_state_dict() -> None:
    algorithm = make(make_spec(DISCRETE_POLICY))
    assert (algorithm.unit, algorithm.on_policy, algorithm.unroll, algorithm.needs_state) == (
        "episode",
        True,
        None,
        False,
    )
    assert algorithm.state_dict() == {}
    algorithm.load_state_dict({})
    with pytest.raises(ValueError, match="unknown_entry"):
        algorithm.load_state_dict({"unknown_entry": 1})


DISCRETE_POLICY = PolicySpec("p", ("a",), (3,), DISCRETE)
