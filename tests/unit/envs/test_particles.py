"""Batched particle tasks play the same games as the environments of the package.

The environments of the package are stepped one by one, with the same seeds and actions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    BatchedEnvironment,
    Seeds,
    batching_remark,
    episode_seed,
    has_fixed_length,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.envs.batch import SlotBatch
from hpcmarl.envs.particles import TASKS
from hpcmarl.envs.particles.batch import ParticleBatch
from hpcmarl.errors import ConfigError, EnvironmentFailure

SLOTS = 3
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "mpe2.simple_spread_v3": {
        "N": st.integers(1, 5),
        "local_ratio": st.floats(0, 1),
        "terminate_on_success": st.booleans(),
    },
    "mpe2.simple_reference_v3": {"local_ratio": st.floats(0, 1)},
    "mpe2.simple_adversary_v3": {"N": st.integers(1, 4)},
    "mpe2.simple_tag_v3": {
        "num_good": st.integers(1, 3),
        "num_adversaries": st.integers(1, 3),
        "num_obstacles": st.integers(0, 3),
        "terminate_on_success": st.booleans(),
    },
    "mpe2.simple_world_comm_v3": {
        "num_good": st.integers(1, 3),
        "num_adversaries": st.integers(1, 4),
        "num_obstacles": st.integers(0, 2),
        "num_food": st.integers(1, 3),
        "num_forests": st.integers(0, 3),
    },
}
FAMILY = "hpcmarl.envs.games.particles:parallel_env"
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "agents": st.integers(1, 4),
    "landmarks": st.integers(1, 3),
    "max_cycles": st.integers(1, 12),
    "mass": st.floats(0.5, 4),
    "thrust": st.floats(-9, 9),
    "damping": st.floats(0, 1),
    "max_speed": st.none() | st.floats(0.1, 2),
    "wind": st.lists(st.floats(-2, 2), min_size=2, max_size=2),
    "offset": st.lists(st.floats(-2, 2), min_size=2, max_size=2),
    "collisions": st.floats(-2, 2),
    "effort": st.floats(-2, 2),
}
EVERYWHERE = {
    "max_cycles": st.integers(1, 12),
    "continuous_actions": st.booleans(),
    "dynamic_rescaling": st.booleans(),
}


@st.composite
def games(draw: st.DrawFn) -> EnvConfig:
    """Draw a task with some of its arguments."""
    task = draw(st.sampled_from(sorted(TASKS)))
    kwargs = draw(
        st.fixed_dictionaries(
            {}, optional=MEMBERS if task == FAMILY else {**EVERYWHERE, **ARGUMENTS.get(task, {})}
        )
    )
    return EnvConfig(id=task, kwargs=kwargs, max_steps=draw(st.none() | st.integers(1, 12)))


def pair(config: EnvConfig, seed: int = 3, **options: Any) -> tuple[BatchedEnvironment, BatchedEnvironment]:
    """Return the batched environment and that of the package."""
    batched, single = (config.model_copy(update={"batched": value}) for value in (True, False))
    both = tuple(
        make_environment(each, {}, SLOTS, Seeds(seed, 7), with_state=True, **options)
        for each in (batched, single)
    )
    assert (type(both[0]), type(both[1])) == (ParticleBatch, SlotBatch)
    assert both[0].spec == both[1].spec
    return both[0], both[1]


class Player:
    """Play several environments with the same actions, and compare their frames and outcomes."""

    def __init__(self, environments: tuple[BatchedEnvironment, ...], seed: int) -> None:
        self.environments, self.generator = environments, np.random.default_rng(seed)
        spec = environments[0].spec
        self.frames = [new_frame(spec, SLOTS, with_state=True) for _ in environments]
        self.outcomes = [new_outcome(spec, SLOTS) for _ in environments]
        for environment, frame in zip(environments, self.frames, strict=True):
            environment.reset(frame)
        self.compare_frames()

    def step(self) -> None:
        actions = {}
        for policy in self.environments[0].spec.policies:
            shape = (SLOTS, len(policy.agents), *policy.action.shape)
            if policy.action.kind == "continuous":
                actions[policy.name] = self.generator.random(shape).astype(np.float32)
            else:
                actions[policy.name] = self.generator.integers(policy.action.sizes[0], size=shape)
        for environment, outcome, frame in zip(self.environments, self.outcomes, self.frames, strict=True):
            environment.step(actions, outcome, frame)
        self.compare_frames()
        self.compare_outcomes()

    def compare_frames(self) -> None:
        mine, theirs = self.frames
        np.testing.assert_array_equal(mine.episode_start, theirs.episode_start)
        playing = next(iter(mine.policies.values())).alive.any(1)
        np.testing.assert_allclose(mine.state[playing], theirs.state[playing], rtol=1e-6, atol=1e-9)
        for name, seen in mine.policies.items():
            np.testing.assert_allclose(seen.obs, theirs.policies[name].obs, rtol=1e-6, atol=1e-9)
            np.testing.assert_array_equal(seen.alive, theirs.policies[name].alive)

    def compare_outcomes(self) -> None:
        mine, theirs = self.outcomes
        np.testing.assert_array_equal(mine.episode_end, theirs.episode_end)
        for name, told in mine.policies.items():
            np.testing.assert_allclose(told.reward, theirs.policies[name].reward, rtol=1e-6, atol=1e-9)
            np.testing.assert_array_equal(told.terminated, theirs.policies[name].terminated)
            np.testing.assert_array_equal(told.truncated, theirs.policies[name].truncated)
        for own, other in zip(mine.episodes, theirs.episodes, strict=True):
            assert (own.slot, own.index, own.length, own.terminated) == (
                other.slot,
                other.index,
                other.length,
                other.terminated,
            )
            assert own.returns == pytest.approx(other.returns)
            assert own.return_mean == pytest.approx(other.return_mean)
        for last, other in zip(mine.finals, theirs.finals, strict=True):
            assert last.slot == other.slot
            np.testing.assert_allclose(last.state, other.state, rtol=1e-6, atol=1e-9)
            for name, seen in last.obs.items():
                np.testing.assert_allclose(seen, other.obs[name], rtol=1e-6, atol=1e-9)


@given(config=games(), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_batched_games_equal_those_of_the_package(config: EnvConfig, seed: int) -> None:
    both = pair(config, seed)
    player = Player(both, seed)
    for _ in range(14):
        player.step()  # compares frames and outcomes
    np.testing.assert_array_equal(both[0].episode_step, both[1].episode_step)


@given(config=games(), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_places_and_rewards_agree_to_nine_digits(config: EnvConfig, seed: int) -> None:
    """Compare the double-precision places and rewards behind frames and outcomes."""
    mine, theirs = both = pair(config, seed)
    assert isinstance(mine, ParticleBatch)
    assert isinstance(theirs, SlotBatch)
    player, told = Player(both, seed), np.zeros(0)
    rewards = mine._world.rewards

    def noted() -> np.ndarray:
        nonlocal told
        told = rewards()
        return told

    mine._world.rewards = noted  # type: ignore[method-assign]
    for _ in range(14):
        player.step()
        for row, adapter in enumerate(theirs._adapters):
            world = getattr(adapter.environment.unwrapped, "world", None)
            places = (
                [entity.state.p_pos for entity in world.entities]
                if config.id != FAMILY
                else world.position[0]
            )
            np.testing.assert_allclose(mine._world.position[row], places, rtol=0, atol=1e-9)
            if not player.outcomes[0].episode_end[row]:
                names = [body.name for body in mine._world.agents]
                columns = {
                    name: (policy, place)
                    for policy, own in enumerate(mine.spec.policies)
                    for place, name in enumerate(own.agents)
                }
                paid = [adapter.rewards[columns[name][0]][columns[name][1]] for name in names]
                np.testing.assert_allclose(told[row], paid, rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_whole_episodes_equal_those_of_the_package(task: str) -> None:
    player = Player(pair(EnvConfig(id=task)), 1)
    for _ in range(55):
        player.step()
    ended = 55 // (15 if task == FAMILY else 25)
    assert [environment.episode_index.tolist() for environment in player.environments] == [
        [ended] * SLOTS
    ] * 2


def test_games_that_succeed_end_early() -> None:
    player = Player(
        pair(EnvConfig(id="mpe2.simple_tag_v3", kwargs={"terminate_on_success": True, "max_cycles": 200})), 1
    )
    for _ in range(60):
        player.step()
    assert player.environments[0].episode_index.sum() > 0  # at least one catch


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_slot_may_be_restarted(task: str) -> None:
    environment = make_environment(EnvConfig(id=task, batched=True), {}, SLOTS, Seeds(0))
    frame = new_frame(environment.spec, SLOTS)
    environment.reset(frame)
    environment.restart_slots([], frame)
    assert environment.episode_index.tolist() == [0] * SLOTS


@pytest.mark.parametrize(
    "task", ["mpe2.simple_reference_v3", "mpe2.simple_world_comm_v3", "mpe2.simple_push_v3"]
)
def test_pictures_equal_those_of_the_package(task: str) -> None:
    """Compare the second episode of a slot with mpe2's own environment."""
    batch = make_environment(
        EnvConfig(id=task, kwargs={"max_cycles": 6}, batched=True), {}, SLOTS, Seeds(5, 2)
    )
    assert isinstance(batch, ParticleBatch)
    twin = import_module(task).parallel_env(max_cycles=6, render_mode="rgb_array")
    frame, outcome, generator = (
        new_frame(batch.spec, SLOTS),
        new_outcome(batch.spec, SLOTS),
        np.random.default_rng(0),
    )
    batch.reset(frame)
    for step in range(10):
        if step == 6:
            twin.reset(seed=episode_seed(5, 3, 1))
        sizes = {policy.name: (policy.action.sizes[0], policy.agents) for policy in batch.spec.policies}
        actions = {
            name: generator.integers(size, size=(SLOTS, len(agents)))
            for name, (size, agents) in sizes.items()
        }
        batch.step(actions, outcome, frame)
        if step >= 6:
            twin.step(
                {
                    agent: int(action)
                    for name, (_, agents) in sizes.items()
                    for agent, action in zip(agents, actions[name][1], strict=True)
                }
            )
    picture = batch.picture(1)
    assert picture.std() > 0
    np.testing.assert_array_equal(picture, twin.render())
    batch.close()


def test_the_family_has_no_pictures() -> None:
    batch = make_environment(EnvConfig(id=FAMILY, batched=True), {}, SLOTS, Seeds(0))
    with pytest.raises(ConfigError, match="has no pictures"):
        batch.picture(0)


def test_lengths_are_fixed_unless_success_ends_a_game() -> None:
    assert has_fixed_length(EnvConfig(id="mpe2.simple_tag_v3", kwargs={"terminate_on_success": False}))
    assert not has_fixed_length(EnvConfig(id="mpe2.simple_tag_v3", kwargs={"terminate_on_success": True}))
    assert not has_fixed_length(EnvConfig(id="lbforaging:Foraging-8x8-2p-3f-v3"))


def test_resting_slots_show_nothing_and_begin_again() -> None:
    both = pair(EnvConfig(id="mpe2.simple_speaker_listener_v4", kwargs={"max_cycles": 4}))
    player = Player(both, 2)
    for environment in both:
        environment.rests_next[1] = True
    for _ in range(6):
        player.step()
    for environment, frame in zip(both, player.frames, strict=True):
        assert not any(policy.alive[1].any() for policy in frame.policies.values())
        environment.rests_next[1] = False
        environment.restart_slots([1], frame)
        assert frame.episode_start[1]
    for _ in range(6):
        player.step()


def test_slots_that_never_began_disturb_no_arithmetic() -> None:
    """Unused slots of the simulator cause no division by zero.

    Their bodies lie on top of each other and would push with infinite force.
    """
    batch = make_environment(EnvConfig(id=FAMILY, batched=True), {}, 3, Seeds(0))
    frame, outcome = new_frame(batch.spec, 3), new_outcome(batch.spec, 3)
    batch.rest_slots([1, 2])
    batch.restart_slots([0], frame)
    actions = {policy.name: np.zeros((3, len(policy.agents)), np.int64) for policy in batch.spec.policies}
    with np.errstate(divide="raise", invalid="raise"):
        for _ in range(5):
            batch.step(actions, outcome, frame)
    assert all(np.isfinite(seen.obs[0]).all() for seen in frame.policies.values())


def test_recorded_games_resume_where_they_stood() -> None:
    config = EnvConfig(id="mpe2.simple_push_v3", batched=True)
    first, second = (
        make_environment(config, {}, SLOTS, Seeds(1), record=True, with_state=True) for _ in range(2)
    )
    frames = [new_frame(first.spec, SLOTS, with_state=True) for _ in range(2)]
    outcomes = [new_outcome(first.spec, SLOTS) for _ in range(2)]
    generator = np.random.default_rng(0)
    drawn = [
        {policy.name: generator.integers(5, size=(SLOTS, 1)) for policy in first.spec.policies}
        for _ in range(40)
    ]
    first.reset(frames[0])
    for actions in drawn[:17]:
        first.step(actions, outcomes[0], frames[0])
    second.load_state_dict(first.state_dict(), frames[1])
    for actions in drawn[17:]:
        first.step(actions, outcomes[0], frames[0])
        second.step(actions, outcomes[1], frames[1])
        np.testing.assert_array_equal(frames[0].state, frames[1].state)
        assert outcomes[0].episodes == outcomes[1].episodes


def test_policies_have_the_agents_that_they_are_given() -> None:
    policies = {"chasers": PolicyConfig(agents=("adversary_*",)), "prey": PolicyConfig(agents=("agent_*",))}
    config = EnvConfig(id="mpe2.simple_tag_v3", kwargs={"num_good": 2})
    mine, theirs = (
        make_environment(config.model_copy(update={"batched": value}), policies, SLOTS, Seeds(4))
        for value in (True, False)
    )
    frames = [new_frame(mine.spec, SLOTS) for _ in range(2)]
    mine.reset(frames[0])
    theirs.reset(frames[1])
    for name in policies:
        np.testing.assert_array_equal(frames[0].policies[name].obs, frames[1].policies[name].obs)


def test_unequal_rewards_are_refused_where_they_are_to_be_common() -> None:
    for batched in (True, False):
        config = EnvConfig(
            id="mpe2.simple_spread_v3", common_reward=True, batched=batched, kwargs={"max_cycles": 400}
        )
        environment = make_environment(config, {}, SLOTS, Seeds(0))
        frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
        environment.reset(frame)
        actions = np.random.default_rng(0).integers(5, size=(300, SLOTS, 3))

        def play(environment=environment, outcome=outcome, frame=frame, actions=actions) -> None:
            for chosen in actions:
                environment.step({"agent": chosen}, outcome, frame)

        with pytest.raises(
            EnvironmentFailure, match=r"in slot \d+.*rewards agent_\d with .*set env\.common_reward to false"
        ):
            play()


def test_actions_that_are_no_numbers_are_an_error() -> None:
    environment = make_environment(
        EnvConfig(id="mpe2.simple_v3", kwargs={"continuous_actions": True}), {}, SLOTS, Seeds(0, 7)
    )
    frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
    environment.reset(frame)
    (policy,) = environment.spec.policies
    actions = {policy.name: np.zeros((SLOTS, 1, 5), np.float32)}
    actions[policy.name][1] = np.nan
    environment.step(actions, outcome, frame)  # the push moves the agent one step later
    with pytest.raises(EnvironmentFailure, match="in slot 8: agent agent_0 is rewarded with nan"):
        environment.step(actions, outcome, frame)


@pytest.mark.parametrize(
    "kwargs", [{"curriculum": True}, {"num_agent_neighbors": 1}, {"render_mode": "rgb_array"}]
)
def test_what_only_the_package_has_is_left_to_it(kwargs: dict[str, Any]) -> None:
    config = EnvConfig(id="mpe2.simple_spread_v3", kwargs=kwargs)
    with pytest.raises(
        ConfigError,
        match=(
            r"env\.batched is true, but mpe2\.simple_spread_v3 has no batched form with "
            r"env\.kwargs"
        ),
    ):
        make_environment(config.model_copy(update={"batched": True}), {}, SLOTS, Seeds(0))
    assert isinstance(make_environment(config, {}, SLOTS, Seeds(0)), SlotBatch)


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("mpe2.simple_spread_v3", {"N": True}),
        ("mpe2.simple_spread_v3", {"max_cycles": 2.5}),
        ("mpe2.simple_tag_v3", {"num_good": 0}),
        ("mpe2.simple_world_comm_v3", {"num_adversaries": 0}),
    ],
)
def test_numbers_that_make_odd_games_are_left_to_the_package(task: str, kwargs: dict[str, Any]) -> None:
    assert isinstance(make_environment(EnvConfig(id=task, kwargs=kwargs), {}, SLOTS, Seeds(0)), SlotBatch)
    with pytest.raises(ConfigError, match=r"env\.batched is true, but .* has no batched form"):
        make_environment(EnvConfig(id=task, kwargs=kwargs, batched=True), {}, SLOTS, Seeds(0))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ": all slots of an actor are stepped together (env.batched)"),
        (
            {"batched": False},
            ": the slots of an actor are stepped one after the other, because env.batched is false",
        ),
        (
            {"kwargs": {"curriculum": True}},
            ", because it has no batched form with env.kwargs {'curriculum': True}",
        ),
        ({"kind": "aec"}, ", because it has no batched form with env.kwargs {} and env.kind aec"),
        ({"id": "pettingzoo.classic.rps_v2"}, ""),
    ],
)
def test_runs_say_how_their_slots_are_stepped(config: dict[str, Any], words: str) -> None:
    remark = batching_remark(EnvConfig(**{"id": "mpe2.simple_spread_v3"} | config))
    assert remark.endswith(words)
    assert bool(remark) == bool(words)


@pytest.mark.parametrize("kwargs", [{"local_ratio": 2.0}, {"N": "x"}, {"N": 0}, {"no_such": 1}, {"slots": 3}])
def test_arguments_are_refused_in_the_words_of_the_package(kwargs: dict[str, Any]) -> None:
    told = []
    for batched in (True, "auto", False):
        with pytest.raises((ConfigError, EnvironmentFailure)) as caught:
            make_environment(
                EnvConfig(id="mpe2.simple_spread_v3", kwargs=kwargs, batched=batched), {}, SLOTS, Seeds(0)
            )
        told.append(str(caught.value))
    assert told[0] == told[1] == told[2]


def test_environments_without_another_form_refuse_batched_false() -> None:
    with pytest.raises(
        ConfigError, match=r"env\.batched is false, but matrix:climbing has only a batched form"
    ):
        make_environment(EnvConfig(id="matrix:climbing", batched=False), {}, 1, Seeds(0))
