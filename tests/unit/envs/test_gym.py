"""envs/: Gymnasium environments of one agent and of several.

They are compared with the same environment stepped by hand. Also tested are registered ids
and mistakes in them.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import EnvConfig, ReinforceConfig
from hpcmarl.envs import Seeds, describe, episode_seed, make_environment, new_frame, new_outcome
from hpcmarl.errors import ConfigError, MissingPackageError

CARTPOLE = "gymnasium:CartPole-v1"
NO_MUJOCO = "needs mujoco: pip install 'hpcmarl[mujoco]'"


def make(**kwargs: Any) -> gymnasium.Env:
    """Return an environment, like a factory that a user writes."""
    return gymnasium.make("CartPole-v1", **kwargs)


@pytest.mark.parametrize("id", [CARTPOLE, "tests.unit.envs.test_gym:make"])
@pytest.mark.parametrize("limit", [6, 500])
def test_single_agent_environment_equals_manual_stepping(id: str, limit: int) -> None:
    seeds = Seeds(3, 10)
    environment = make_environment(EnvConfig(id=id, kwargs={"max_episode_steps": limit}), {}, 1, seeds)
    twin = gymnasium.make("CartPole-v1", max_episode_steps=limit)
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    expected, _ = twin.reset(seed=episode_seed(3, 10, 0))
    ends = []
    for step in range(60):
        np.testing.assert_array_equal(frame.policies["agent_0"].obs[0, 0], expected)
        action = step % 3 // 2
        environment.step({"agent_0": np.array([[action]])}, outcome, frame)
        expected, reward, terminated, truncated, _ = twin.step(action)
        told = outcome.policies["agent_0"]
        assert (told.reward[0, 0], told.terminated[0, 0], told.truncated[0, 0]) == (
            reward,
            terminated,
            truncated,
        )
        if terminated or truncated:
            ends.append((bool(terminated), bool(truncated)))
            if truncated:
                np.testing.assert_array_equal(outcome.finals[0].obs["agent_0"][0], expected)
            expected, _ = twin.reset(seed=episode_seed(3, 10, len(ends)))
    assert ends
    assert set(ends) == ({(False, True)} if limit == 6 else {(True, False)})
    environment.close()


def test_continuous_action_is_clipped_to_its_bounds() -> None:
    environment = make_environment(EnvConfig(id="gymnasium:Pendulum-v1"), {}, 2, Seeds(0))
    twin = gymnasium.make("Pendulum-v1")
    twin.reset(seed=episode_seed(0, 1, 0))
    frame, outcome = new_frame(environment.spec, 2), new_outcome(environment.spec, 2)
    environment.reset(frame)
    environment.step({"agent_0": np.array([[[0.5]], [[-7.0]]], np.float32)}, outcome, frame)
    expected = twin.step(np.array([-2.0], np.float32))
    np.testing.assert_array_equal(frame.policies["agent_0"].obs[1, 0], expected[0])
    assert outcome.policies["agent_0"].reward[1, 0] == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"id": "gymnasium:CratPole-v1"},
            "no environment CratPole-v1 registered; did you mean gymnasium:CartPole-v1",
        ),
        ({"id": "gymnasium"}, r"no environment \(no name\) registered; gymnasium.registry lists them"),
        ({"id": "gymnasium:os:CartPole-v1"}, "no environment os:CartPole-v1 registered"),
        (
            {"id": CARTPOLE, "kwargs": {"wheels": 4}},
            "env.kwargs {'wheels': 4} does not fit gymnasium:CartPole-v1",
        ),
        ({"id": CARTPOLE, "kind": "aec"}, "env.kind aec: gymnasium:CartPole-v1 is not turn-based"),
        ({"id": "gymnasium:Hopper-v2"}, "cannot be made: .*choose a newer version"),
    ],
)
def test_invalid_gymnasium_settings_raise_one_line_errors(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        describe(EnvConfig(**config), {})
    assert "\n" not in str(caught.value)


def test_missing_mujoco_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, **kwargs: Any) -> Any:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(
        MissingPackageError,
        match=r"env.id gymnasium:Hopper-v4 needs a package .*; pip install 'hpcmarl\[mujoco\]'$",
    ):
        describe(EnvConfig(id="gymnasium:Hopper-v4"), {})


def test_old_versions_are_made_without_a_warning() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        describe(EnvConfig(id="gymnasium:CartPole-v0"), {})
    assert not [str(warning.message) for warning in told if "out of date" in str(warning.message)]


def test_resting_gymnasium_slots_are_not_stepped() -> None:
    environment = make_environment(EnvConfig(id=CARTPOLE), {}, 3, Seeds(1))
    frame, outcome = new_frame(environment.spec, 3), new_outcome(environment.spec, 3)
    environment.reset(frame)
    environment.rest_slots([1])
    actions = {"agent_0": np.zeros((3, 1), np.int64)}
    for _ in range(30):
        environment.step(actions, outcome, frame)
        assert frame.policies["agent_0"].alive[:, 0].tolist() == [True, False, True]
        assert outcome.policies["agent_0"].reward[:, 0].tolist() == [1, 0, 1]
        assert all(episode.slot != 1 for episode in outcome.episodes)
    assert environment.episode_index.tolist()[1] == 0
    environment.restart_slots([1], frame)
    assert environment.episode_index.tolist()[1] == 1
    environment.step(actions, outcome, frame)
    assert outcome.policies["agent_0"].reward[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("name", "parameters"), [("Humanoid", 30_498), ("Hopper", 5_318)])
def test_mujoco_policy_has_the_paper_parameter_count(name: str, parameters: int) -> None:
    """The papers report d = 30,498 parameters for Humanoid."""
    pytest.importorskip("mujoco", reason=NO_MUJOCO)
    spec = describe(EnvConfig(id=f"gymnasium:{name}-v4"), {})
    assert make_algorithm(spec, ReinforceConfig(), 0).size == parameters


FORAGING = "lbforaging:Foraging-8x8-2p-3f-v3"


def test_multi_agent_environment_equals_manual_stepping() -> None:
    environment = make_environment(EnvConfig(id=FORAGING, kwargs={"max_episode_steps": 7}), {}, 1, Seeds(5))
    assert [policy.agents for policy in environment.spec.policies] == [("agent_0", "agent_1")]
    twin = gymnasium.make("Foraging-8x8-2p-3f-v3", max_episode_steps=7, disable_env_checker=True)
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    expected, _ = twin.reset(seed=episode_seed(5, 0, 0))
    generator, cut, rewarded = np.random.default_rng(0), 0, 0.0
    for _ in range(200):
        np.testing.assert_array_equal(frame.policies["agent"].obs[0], expected)
        actions = generator.integers(6, size=2)
        environment.step({"agent": actions[None]}, outcome, frame)
        expected, rewards, terminated, truncated, _ = twin.step(tuple(actions))
        told = outcome.policies["agent"]
        np.testing.assert_array_equal(told.reward[0], np.array(rewards, np.float32))
        assert (told.terminated[0].tolist(), told.truncated[0].tolist()) == (
            [terminated] * 2,
            [truncated] * 2,
        )
        rewarded += sum(rewards)
        if terminated or truncated:
            cut += truncated
            expected, _ = twin.reset(seed=episode_seed(5, 0, outcome.episodes[0].index + 1))
    assert cut > 10
    assert rewarded > 0
    environment.close()


class Uneven(gymnasium.Env):
    """Two agents with different spaces; one terminates before the other."""

    observation_space = gymnasium.spaces.Tuple(
        [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))]
    )
    action_space = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(-1, 1, (1,))])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.steps = 0
        return (0, np.zeros(2, np.float32)), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        assert action[1].shape == (1,)
        return (1, np.ones(2, np.float32)), [1.0, 2.0], [True, self.steps == 2], False, {}


def test_agents_may_differ_and_terminate_separately() -> None:
    environment = make_environment(EnvConfig(id="tests.unit.envs.test_gym:Uneven"), {}, 1, Seeds(0))
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    actions = {"agent_0": np.array([[1]]), "agent_1": np.zeros((1, 1, 1), np.float32)}
    environment.step(actions, outcome, frame)
    assert [bool(frame.policies[name].alive[0, 0]) for name in actions] == [False, True]
    environment.step(actions, outcome, frame)
    assert [episode.returns for episode in outcome.episodes] == [{"agent_0": 1.0, "agent_1": 4.0}]
    environment.close()
