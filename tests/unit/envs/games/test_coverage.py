"""envs/games: the family of particle games.

The games are compared with mpe2's own simple_spread, and with physics and rewards that are written out
here. Also tested: the modules that a configuration may import.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpe2 import simple_spread_v3
from pettingzoo.test import parallel_api_test

from hpcmarl.bench.heterogeneous import CONFIG
from hpcmarl.config import EnvConfig
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.envs.games.particles import parallel_env
from hpcmarl.envs.particles.world import DIRECTIONS
from hpcmarl.errors import ConfigError

GAME = "hpcmarl.envs.games.particles:parallel_env"
NUMBER = st.floats(-2, 2)


def test_particle_game_passes_the_parallel_api_test():
    game = parallel_env(agents=3, landmarks=2, collisions=1.0)
    parallel_api_test(game, 100)  # raises AssertionError if the interface is violated
    assert game.possible_agents == ["agent_0", "agent_1", "agent_2"]


def test_particle_game_is_determined_by_its_seed():
    one, two = parallel_env(), parallel_env()
    same = one.reset(seed=3)[0]["agent_0"], two.reset(seed=3)[0]["agent_0"]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], two.reset(seed=4)[0]["agent_0"])
    assert not np.array_equal(two.reset()[0]["agent_0"], two.reset()[0]["agent_0"])


def test_default_particle_dynamics_equal_simple_spread():
    ours, theirs = (
        parallel_env(agents=3, landmarks=3, max_cycles=20),
        simple_spread_v3.parallel_env(N=3, max_cycles=20),
    )
    theirs.reset(seed=1)
    ours.reset(seed=2)
    ours.world.position[0] = [entity.state.p_pos for entity in theirs.unwrapped.world.entities]
    generator = np.random.default_rng(0)
    for _ in range(20):
        actions = {agent: int(generator.integers(5)) for agent in ours.agents}
        seen, _, _, truncated, _ = ours.step(actions)
        expected, _, _, also_truncated, _ = theirs.step(actions)
        assert truncated == also_truncated
        for agent, observation in seen.items():
            assert np.allclose(observation, expected[agent], atol=1e-6)
    assert ours.agents == []


@settings(max_examples=40, deadline=None)
@given(
    NUMBER,
    NUMBER,
    st.floats(0.5, 4),
    st.floats(0, 0.9),
    st.floats(0, 9),
    st.floats(0.1, 1.5),
    st.integers(0, 4),
)
def test_dynamics_of_one_agent_are_those_of_the_docstring(
    east, north, mass, damping, thrust, max_speed, action
):
    game = parallel_env(
        agents=1, mass=mass, damping=damping, thrust=thrust, max_speed=max_speed, wind=[east, north]
    )
    place = game.reset(seed=0)[0]["agent_0"][2:4].astype(float)
    velocity = np.zeros(2)
    for _ in range(5):
        place = place + 0.1 * velocity
        velocity = (1 - damping) * velocity + 0.1 * (thrust * DIRECTIONS[action] + [east, north]) / mass
        speed = math.hypot(*velocity)
        velocity *= min(1.0, max_speed / speed) if speed else 1.0
        seen = game.step({"agent_0": action})[0]["agent_0"]
        assert np.allclose(seen[:4], [*velocity, *place], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10),
    st.integers(1, 3),
    st.integers(1, 3),
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
)
def test_rewards_are_those_of_the_docstring(
    seed, agents, landmarks, coverage, preferred, east, north, collisions, effort, bonus
):
    game = parallel_env(
        agents,
        landmarks,
        coverage=coverage,
        preferred_distance=preferred,
        offset=[east, north],
        collisions=collisions,
        effort=effort,
        bonus=bonus,
    )
    game.reset(seed=seed)
    actions = {agent: seed % 5 if agent == "agent_0" else 0 for agent in game.agents}
    rewards = game.step(actions)[1]
    where = game.world.places[0].tolist()
    team = bonus
    for x, y in game.world.marks[0].tolist():
        nearest = min(math.hypot(px - x - east, py - y - north) for px, py in where)
        team -= coverage * (nearest - preferred) ** 2 / landmarks
    for number, (name, reward) in enumerate(rewards.items()):
        touching = sum(
            math.dist(where[number], other) < 0.3 for index, other in enumerate(where) if index != number
        )
        own = -collisions * touching - (effort if actions[name] else 0.0)
        assert reward == pytest.approx(team + own, abs=1e-9)


def walk(target, kwargs, episodes=20):
    """Return the mean return of a policy that brings agent 0 to the landmark + target."""
    game, total = parallel_env(**kwargs), 0.0
    for seed in range(episodes):
        seen = game.reset(seed=seed)[0]
        while game.agents:
            goal = seen["agent_0"][4:6] + target - 0.3 * seen["agent_0"][:2]
            axis = int(np.argmax(np.abs(goal)))
            action = 1 + 2 * axis + int(goal[axis] > 0)
            seen, rewards = game.step({"agent_0": action, "agent_1": 0})[:2]
            total += float(np.mean(list(rewards.values())))
    return total / episodes


def test_benchmark_groups_have_conflicting_objectives():
    groups = load_config(CONFIG).topology.group_list
    members = [{"agents": 2, "landmarks": 1, "max_cycles": 15, **group.env["kwargs"]} for group in groups]
    specs = [describe(EnvConfig(id=GAME, kwargs=member), {}) for member in members]
    assert all(spec.policies == specs[0].policies for spec in specs)
    right, between, left = (
        [walk(np.array([x, 0.0]), member) for member in members] for x in (1.0, 0.0, -1.0)
    )
    for number, ours in enumerate((right, right, left, left)):
        theirs = left if ours is right else right
        assert ours[number] > between[number] > theirs[number]
    # The best policy for half of the groups is not the best for the mean of all groups.
    assert np.mean(between) > max(np.mean(right), np.mean(left)) + 1


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"agents": 0}, "env.kwargs.agents is 0; allowed: a whole number from 1"),
        ({"landmarks": True}, "env.kwargs.landmarks is True"),
        ({"mass": 0.0}, "env.kwargs.mass is 0.0; allowed: a number from 1e-06"),
        ({"damping": 1.5}, "env.kwargs.damping is 1.5; allowed: a number from 0 to 1"),
        ({"effort": float("nan")}, "env.kwargs.effort is nan"),
        ({"wind": 3}, "env.kwargs.wind is 3; allowed: two numbers"),
        ({"offset": [1, "x"]}, "env.kwargs.offset is"),
        ({"colour": 1}, "does not fit"),
    ],
)
def test_invalid_game_arguments_are_rejected_by_name(kwargs, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        describe(EnvConfig(id=GAME, kwargs=kwargs), {})


@pytest.mark.parametrize(
    "id",
    [
        "hpcmarl.bench.runs:Stage",
        "hpcmarl.envs.resolve:resolve",
        "hpcmarl.envs.games:x",
        "hpcmarl.envs.gamesome:x",
    ],
)
def test_other_package_modules_are_no_environments(id):
    with pytest.raises(ConfigError, match="is not an environment"):
        describe(EnvConfig(id=id), {})


def test_unknown_game_module_suggests_the_nearest_name():
    with pytest.raises(
        ConfigError,
        match=r"hpcmarl\.envs\.games has no module particle; did you mean hpcmarl\.envs\.games\.particles",
    ):
        describe(EnvConfig(id="hpcmarl.envs.games.particle:parallel_env"), {})
