"""envs/: parallel environments, against an independent rollout of the same environment (the slow twin)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    BatchedEnvironment,
    Seeds,
    describe,
    episode_seed,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.types import flat_observations
from tests.support.environments import Boxed, Crowd
from tests.support.twins import assert_equals_twin, play

SPREAD = "mpe2.simple_spread_v3"
CROWD = "tests.support.environments:Crowd"
HOWS = ("terminated", "truncated", "both", "vanish", "stay")


@pytest.mark.parametrize("max_steps", [None, 7])
@pytest.mark.parametrize(
    ("module", "kwargs"),
    [
        ("simple_spread_v3", {}),
        ("simple_speaker_listener_v4", {}),
        ("simple_spread_v3", {"continuous_actions": True}),
        ("simple_tag_v3", {"max_cycles": 9}),
        ("simple_adversary_v3", {"max_cycles": 8}),
    ],
)
def test_mpe_equals_twin(module: str, kwargs: dict[str, Any], max_steps: int | None) -> None:
    seeds = Seeds(5, 40)
    environment = make_environment(
        EnvConfig(id=f"mpe2.{module}", kwargs=kwargs, max_steps=max_steps), {}, 3, seeds
    )
    rows = play(environment, 30)
    assert_equals_twin(
        lambda: importlib.import_module(f"mpe2.{module}").parallel_env(**kwargs),
        environment,
        rows,
        seeds,
        max_steps,
    )
    assert sum(len(row["episodes"]) for row in rows) >= 3
    environment.close()


def plans() -> st.SearchStrategy[dict[str, tuple[int, int, str]]]:
    stay = st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(HOWS)).map(
        lambda plan: (plan[0], plan[0] + plan[1], plan[2])
    )
    return st.lists(stay, min_size=1, max_size=4).map(
        lambda found: {
            f"walker_{number}": (0 if number == 0 else plan[0], plan[1], plan[2])
            for number, plan in enumerate(found)
        }
    )


@given(plan=plans(), max_steps=st.one_of(st.none(), st.integers(1, 6)))
@settings(max_examples=60, deadline=None)
def test_death_and_joining_equal_twin(plan: dict[str, Any], max_steps: int | None) -> None:
    seeds = Seeds(1)
    environment = make_environment(
        EnvConfig(id=CROWD, kwargs={"plan": plan}, max_steps=max_steps), {}, 2, seeds
    )
    assert_equals_twin(lambda: Crowd(plan), environment, play(environment, 14), seeds, max_steps)


def test_crowd_flags_and_final_observations_match_plan() -> None:
    """Each agent of the default plan leaves in a different way.

    walker_0 is terminated at step 3. walker_2 (steps 2 to 4) has both flags. walker_1 is truncated, and
    walker_3 vanishes, at step 5.
    """
    environment = make_environment(EnvConfig(id=CROWD), {}, 1, Seeds(0), with_state=True)
    rows = play(environment, 7, with_state=True)
    flags = np.array(
        [[row["outcome"]["walker"][key][0] for key in ("terminated", "truncated")] for row in rows]
    )
    expected = np.zeros((7, 2, 4), bool)
    expected[3, 0, 0] = expected[4, 0, 2] = expected[5, 1, 1] = expected[5, 0, 3] = True
    np.testing.assert_array_equal(flags, expected)
    alive = [row["frame"]["walker"]["alive"][0].tolist() for row in rows[:6]]
    assert alive == [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1]]
    assert [int(row["end"][0]) for row in rows] == [0, 0, 0, 0, 0, 2, 0]
    assert [row["state"][0].tolist() for row in rows[:3]] == [[0, 2], [1, 3], [2, 4]]
    (final,) = rows[5]["finals"]
    assert final.obs["walker"][:, 1].tolist() == [0, 6, 0, 0]
    assert final.state is not None
    assert final.state.tolist() == [6, 0]


@pytest.mark.parametrize("won", [True, False, None])
def test_win_comes_from_the_last_infos(won: bool | None) -> None:
    environment = make_environment(EnvConfig(id=CROWD, kwargs={"win": won}), {}, 1, Seeds(0))
    (episode,) = play(environment, 6)[-1]["episodes"]
    assert episode.outcome == ({} if won is None else {"win": float(won)})


def test_same_seeds_same_data_and_slots_differ() -> None:
    def run(first_slot: int, slots: int) -> Any:
        environment = make_environment(EnvConfig(id=SPREAD), {}, slots, Seeds(9, first_slot))
        frame = new_frame(environment.spec, slots)
        environment.reset(frame)
        return frame.policies["agent"].obs

    whole = run(0, 4)
    np.testing.assert_array_equal(whole, run(0, 4))
    # The observations of a slot do not depend on the rank that hosts it.
    np.testing.assert_array_equal(whole[2:], run(2, 2))
    assert len(np.unique(whole.round(6).reshape(4, -1), axis=0)) == 4


def test_episode_seeds_are_distinct_31_bit_numbers() -> None:
    seeds = [
        episode_seed(seed, slot, index)
        for seed in (0, 1, 2**40)
        for slot in range(20)
        for index in range(130)
    ]
    assert len(set(seeds)) > len(seeds) - 5
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(3, 4, 5) == episode_seed(3, 4, 5)


@given(step=st.integers(0, 40), max_steps=st.sampled_from([None, 4]))
@settings(max_examples=12, deadline=None)
def test_resume_by_action_replay_continues_identically(step: int, max_steps: int | None) -> None:
    def make() -> BatchedEnvironment:
        return make_environment(
            EnvConfig(id=SPREAD, max_steps=max_steps, kwargs={"max_cycles": 11}), {}, 2, Seeds(4), record=True
        )

    original, resumed = make(), make()
    frames = [new_frame(original.spec, 2) for _ in range(2)]
    outcomes = [new_outcome(original.spec, 2) for _ in range(2)]
    generator = np.random.default_rng(step)
    original.reset(frames[0])
    for _ in range(step):
        original.step({"agent": generator.integers(0, 5, (2, 3))}, outcomes[0], frames[0])
    resumed.load_state_dict(original.state_dict(), frames[1])
    for _ in range(12):
        for name in ("obs", "alive"):
            np.testing.assert_array_equal(
                getattr(frames[0].policies["agent"], name), getattr(frames[1].policies["agent"], name)
            )
        np.testing.assert_array_equal(frames[0].episode_start, frames[1].episode_start)
        np.testing.assert_array_equal(original.episode_step, resumed.episode_step)
        actions = {"agent": generator.integers(0, 5, (2, 3))}
        original.step(actions, outcomes[0], frames[0])
        resumed.step(actions, outcomes[1], frames[1])
        np.testing.assert_array_equal(
            outcomes[0].policies["agent"].reward, outcomes[1].policies["agent"].reward
        )
        assert outcomes[0].episodes == outcomes[1].episodes


def test_resume_without_a_record_begins_the_next_episodes() -> None:
    environment = make_environment(EnvConfig(id=CROWD), {}, 2, Seeds(0))
    play(environment, 8)
    assert environment.episode_index.tolist() == [1, 1]
    state = environment.state_dict()
    frame = new_frame(environment.spec, 2)
    environment.load_state_dict(state, frame)
    assert environment.episode_index.tolist() == [2, 2]
    assert environment.episode_step.tolist() == [0, 0]
    assert frame.episode_start.all()
    wider = make_environment(EnvConfig(id=CROWD), {}, 3, Seeds(0), record=True)
    wider.load_state_dict(state, new_frame(wider.spec, 3))
    assert wider.episode_index.tolist() == [2, 2, 2]


def test_replay_of_a_nondeterministic_environment_raises() -> None:
    environment = make_environment(EnvConfig(id=CROWD), {}, 1, Seeds(0), record=True)
    play(environment, 5)
    state = environment.state_dict()
    plan = {f"walker_{k}": (0, 1, "terminated") for k in range(4)}
    shorter = make_environment(EnvConfig(id=CROWD, kwargs={"plan": plan}), {}, 1, Seeds(0), record=True)
    with pytest.raises(EnvironmentFailure, match="ended in the replay"):
        shorter.load_state_dict(state, new_frame(shorter.spec, 1))


def test_restart_slots_touches_only_their_rows() -> None:
    environment = make_environment(EnvConfig(id=SPREAD), {}, 3, Seeds(0))
    frame, outcome = new_frame(environment.spec, 3), new_outcome(environment.spec, 3)
    environment.reset(frame)
    environment.step({"agent": np.ones((3, 3), np.int64)}, outcome, frame)
    before = frame.policies["agent"].obs.copy()
    environment.restart_slots([1], frame)
    assert environment.episode_index.tolist() == [0, 1, 0]
    assert environment.episode_step.tolist() == [1, 0, 1]
    assert frame.episode_start.tolist() == [False, True, False]
    np.testing.assert_array_equal(frame.policies["agent"].obs[[0, 2]], before[[0, 2]])
    assert not np.array_equal(frame.policies["agent"].obs[1], before[1])


def test_non_contiguous_arrays_are_written_in_place() -> None:
    environment = make_environment(EnvConfig(id=SPREAD), {}, 2, Seeds(0))
    plain, strided = new_frame(environment.spec, 2), new_frame(environment.spec, 2)
    arena = np.full((2, 6, 18), 9, np.float32)
    strided.policies["agent"].obs = arena[:, ::2]
    outcome = new_outcome(environment.spec, 2)
    environment.reset(plain)
    environment.step({"agent": np.ones((2, 3), np.int64)}, outcome, plain)
    again = make_environment(EnvConfig(id=SPREAD), {}, 2, Seeds(0))
    again.reset(strided)
    again.step({"agent": np.ones((2, 3), np.int64)}, outcome, strided)
    np.testing.assert_array_equal(arena[:, ::2], plain.policies["agent"].obs)
    assert (arena[:, 1::2] == 9).all()


def test_multi_discrete_masks_are_read_from_infos() -> None:
    environment = make_environment(EnvConfig(id="tests.support.environments:Masked"), {}, 2, Seeds(0))
    (policy,) = environment.spec.policies
    assert (policy.name, policy.has_mask, policy.action.sizes) == ("policy_0", True, (2, 3))
    assert policy.observation_dtype.names == ("bits", "kind", "time")
    rows = play(environment, 20)
    for step, row in enumerate(rows):
        time = step % 7
        expected = [True, True, *(component != time % 3 for component in range(3))]
        assert row["frame"]["policy_0"]["action_mask"].tolist() == [[expected] * 2] * 2
        seen = flat_observations(row["frame"]["policy_0"]["obs"][0], 1)
        assert seen.tolist() == [[1, 0, 1, 0, time, 9], [1, 0, 0, 1, time, 9]]
    assert environment.counts["restarts"] == 0


def test_fully_masked_agent_raises_with_its_name() -> None:
    environment = make_environment(
        EnvConfig(id="tests.support.environments:Masked", kwargs={"forbid": 2}), {}, 1, Seeds(0)
    )
    with pytest.raises(EnvironmentFailure, match=r"agent b every action"):
        play(environment, 4)


@pytest.mark.parametrize(
    ("factory", "action", "given_action"),
    [
        ("boxed_matrix", [[[-5.0, 0.5, 0.25, 9.0]]], [[-1.0, 0.5], [0.25, 2.0]]),
        ("boxed_shifted", [[2]], 1),
        ("boxed_whole", [[[3.6]]], [4]),
    ],
)
def test_actions_are_converted_to_the_action_space(factory: str, action: Any, given_action: Any) -> None:
    environment = make_environment(EnvConfig(id=f"tests.support.environments:{factory}"), {}, 1, Seeds(0))
    (policy,) = environment.spec.policies
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    environment.step({"lone_0": np.asarray(action, policy.action.dtype)}, outcome, frame)
    assert np.asarray(Boxed.given[-1]).tolist() == given_action
    assert outcome.policies["lone_0"].reward.tolist() == [[0.5]]


def test_tuple_observations_are_records_of_their_places() -> None:
    spec = describe(EnvConfig(id="tests.support.environments:boxed_observing_tuple"), {})
    assert [(part.key, part.shape) for part in spec.policies[0].observation_parts] == [
        ("0", (3,)),
        ("1", (1,)),
        ("2", (4,)),
    ]
    environment = make_environment(
        EnvConfig(id="tests.support.environments:boxed_observing_tuple"),
        {"one": PolicyConfig(agents=("lone_*",))},
        1,
        Seeds(0),
    )
    rows = play(environment, 5)
    for row in rows:
        seen = flat_observations(row["frame"]["one"]["obs"][0, 0], 0)
        assert seen[:3].sum() == seen[4:6].sum() == seen[6:].sum() == 1
