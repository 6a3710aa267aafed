"""REINFORCE's gradient in numpy against torch's, and policies at several points at once.

The episodes have every kind of action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm, make_model
from hpcmarl.algos.numpy_reinforce import NumpyReinforce
from hpcmarl.config import EnvConfig, NetworkConfig, ReinforceConfig
from hpcmarl.envs import Seeds, describe, new_frame
from hpcmarl.sim.playing import Playground
from hpcmarl.types import EnvironmentSpec, Rollout

GAMES: list[tuple[str, dict[str, Any]]] = [
    ("gymnasium:CartPole-v1", {}),
    ("gymnasium:Pendulum-v1", {"max_episode_steps": 12}),
    ("mpe2.simple_spread_v3", {"max_cycles": 6}),
    ("mpe2.simple_reference_v3", {"max_cycles": 6, "continuous_actions": True}),
    ("pettingzoo.classic.tictactoe_v3", {}),
]


def config_of(activation: str = "tanh") -> ReinforceConfig:
    return ReinforceConfig(
        name="reinforce", discount=0.9, network=NetworkConfig(hidden=(12, 9), activation=activation)
    )


def played(environment: EnvConfig, spec: EnvironmentSpec, model: Any, count: int = 3) -> list[Rollout]:
    ground = Playground(environment, {}, spec, count, Seeds(2))
    generator = np.random.default_rng(0)
    rollouts = ground.play(
        count,
        lambda frame, memory: model.act(frame, memory, generator, with_logp=False),
        model.initial_memory(count),
    )
    ground.close()
    return rollouts


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("task", "kwargs"), GAMES)
def test_numpy_gradients_equal_those_of_torch(task: str, kwargs: dict[str, Any], activation: str) -> None:
    environment = EnvConfig(id=task, kwargs=kwargs)
    spec = describe(environment, {})
    theirs, mine = (
        make_algorithm(spec, config_of(activation), 5),
        NumpyReinforce.of(spec, config_of(activation), 5),
    )
    assert mine is not None
    point = mine.initial_parameters() + np.random.default_rng(1).normal(0, 0.1, mine.size).astype(np.float32)
    for model in (theirs, mine):
        model.load_parameters(point)
    rollouts, weights = played(environment, spec, mine), [1.0, -0.5, 2.0]
    expected = sum(
        weight * theirs.gradient([rollout])[0] for weight, rollout in zip(weights, rollouts, strict=True)
    )
    found = mine.weighted_gradient(rollouts, weights)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("task", "kwargs"), GAMES)
def test_episodes_without_a_decision_add_nothing(task: str, kwargs: dict[str, Any]) -> None:
    environment = EnvConfig(id=task, kwargs=kwargs)
    spec = describe(environment, {})
    mine = NumpyReinforce.of(spec, config_of(), 5)
    assert mine is not None
    first, second, _ = played(environment, spec, mine)
    for part in second.policies.values():
        part.alive[...] = False
    np.testing.assert_allclose(
        mine.weighted_gradient([first, second], [1.0, 1.0]), mine.weighted_gradient([first], [1.0]), rtol=1e-6
    )
    assert not mine.weighted_gradient([second], [1.0]).any()


def test_other_policies_than_dense_ones_learn_with_torch() -> None:
    spec = describe(EnvConfig(id="gymnasium:CartPole-v1"), {})
    recurrent = ReinforceConfig(name="reinforce", network=NetworkConfig(hidden=(4,), body="gru"))
    assert NumpyReinforce.of(spec, recurrent, 0) is None


@pytest.mark.parametrize(("task", "kwargs"), GAMES)
def test_each_slot_acts_with_the_parameters_of_its_point(task: str, kwargs: dict[str, Any]) -> None:
    spec = describe(EnvConfig(id=task, kwargs=kwargs), {})
    mine, model = NumpyReinforce.of(spec, config_of(), 5), make_model(spec, config_of(), 5)
    assert mine is not None
    generator = np.random.default_rng(3)
    points = np.array(
        [mine.initial_parameters() + generator.normal(0, 0.5, mine.size) for _ in range(4)], np.float32
    )
    frame = new_frame(spec, 4)
    for seen in frame.policies.values():
        seen.obs[...] = generator.normal(size=seen.obs.shape)
        seen.alive[...] = True
        seen.alive[2, 0] = False
        if seen.action_mask is not None:
            seen.action_mask[..., 1::2] = False
    together = mine.stacked(points).act(frame, np.random.default_rng(7))
    for slot, point in enumerate(points):
        model.load_parameters(point)
        alone = model.act(frame, {}, np.random.default_rng(7), with_logp=False)
        for name, decision in together.items():
            assert decision.action.dtype == alone[name].action.dtype
            np.testing.assert_allclose(decision.action[slot], alone[name].action[slot], atol=1e-5)
