"""envs/: the image games, against a PettingZoo twin that paints pixel by pixel, and their optimum."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.utils.env import ParallelEnv

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.bare import make_bare
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.errors import ConfigError
from hpcmarl.types import fields_of
from tests.support.twins import assert_equals_twin, play

MOVES = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


class GatherTwin(ParallelEnv):
    """One game, square by square and pixel by pixel."""

    metadata: ClassVar[dict[str, Any]] = {"name": "gather_twin"}

    def __init__(self, agents: int, size: int, cell: int, steps: int) -> None:
        self.possible_agents = [f"agent_{number}" for number in range(agents)]
        self.size, self.cell, self.steps = size, cell, steps

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(5)

    def seen(self) -> Any:
        shown = {}
        for own in self.possible_agents:
            edge = self.size * self.cell
            image = np.zeros((edge, edge, 3), np.uint8)
            for y in range(edge):
                for x in range(edge):
                    square = (y // self.cell, x // self.cell)
                    others = [place for agent, place in self.places.items() if agent != own]
                    lit = [square in self.fruits, square == self.places[own], square in others]
                    image[y, x] = [255 * value for value in lit]
            shown[own] = image
        return shown

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        count = self.size**2
        drawn = [float(uniform(np.array([seed]), np.array([k]))[0]) for k in range(count)]
        order = sorted(range(count), key=drawn.__getitem__)
        squares = [divmod(square, self.size) for square in order]
        number = len(self.possible_agents)
        self.agents, self.time = list(self.possible_agents), 0
        self.places = dict(zip(self.agents, squares, strict=False))
        self.fruits = set(squares[number : 2 * number])
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        for agent, action in actions.items():
            moved = zip(self.places[agent], MOVES[int(action)], strict=True)
            self.places[agent] = tuple(min(max(own + by, 0), self.size - 1) for own, by in moved)
        gathered = self.fruits & set(self.places.values())
        self.fruits -= gathered
        self.time += 1
        names, done = self.possible_agents, not self.fruits
        cut = not done and self.time == self.steps
        self.agents = [] if done or cut else list(names)
        return (
            self.seen(),
            dict.fromkeys(names, len(gathered) / len(names)),
            dict.fromkeys(names, done),
            dict.fromkeys(names, cut),
            {name: {} for name in names},
        )


@pytest.mark.parametrize(
    ("agents", "size", "cell", "steps", "most"), [(2, 3, 2, 4, None), (3, 4, 1, 9, None), (2, 2, 3, 5, 2)]
)
def test_gather_games_equal_the_pettingzoo_twin(agents, size, cell, steps, most):
    kwargs = {"agents": agents, "size": size, "cell": cell, "steps": steps}
    config = EnvConfig(id="pixels:gather", kwargs=kwargs, max_steps=most)
    environment = make_environment(config, {}, 3, Seeds(1))
    rows = play(environment, 25)
    assert_equals_twin(lambda: GatherTwin(agents, size, cell, steps), environment, rows, Seeds(1), most)
    assert {int(end) for row in rows for end in row["end"]} == {0, 1, 2}


def test_dictionaries_hold_the_same_images_with_place_and_time():
    (plain, keyed), seeds = (("pixels:gather", "pixels:gather_dict"), Seeds(4))
    games = [make_environment(EnvConfig(id=id), {}, 4, seeds, with_state=True) for id in (plain, keyed)]
    assert games[1].spec.policies[0].observation_dtype.names == ("image", "place", "time")
    for ours, theirs in zip(*(play(game, 20, True, seed=2) for game in games), strict=True):
        record = theirs["frame"]["agent"]["obs"]
        np.testing.assert_array_equal(record["image"], ours["frame"]["agent"]["obs"])
        np.testing.assert_array_equal(theirs["state"], ours["state"])
        own = record["image"][..., ::8, ::8, 1].reshape(4, 2, 25).argmax(-1)
        place = np.stack([own // 5, own % 5], -1) / np.float32(4)
        np.testing.assert_array_equal(record["place"], place.astype(np.float32))
        np.testing.assert_array_equal(record["place"].reshape(4, 4), theirs["state"][:, :4])
        assert (record["time"][theirs["start"]] == 1).all()
        for final in theirs["finals"]:
            assert final.obs["agent"]["time"].tolist() == [[0], [0]]


def nearest(place: Any, fruit: Any) -> int:
    """Return the action that brings an agent nearer to a fruit."""
    for axis, (less, more) in enumerate(((1, 2), (3, 4))):
        if place[axis] != fruit[axis]:
            return less if place[axis] > fruit[axis] else more
    return 0


def test_each_agent_at_its_own_fruit_returns_one_always():
    environment = make_environment(EnvConfig(id="pixels:gather"), {}, 32, Seeds(0))
    frame, outcome = new_frame(environment.spec, 32), new_outcome(environment.spec, 32)
    environment.reset(frame)
    returns = []
    for _ in range(40):
        image = frame.policies["agent"].obs[:, :, ::8, ::8]
        actions = np.zeros((32, 2), np.int64)
        for slot in range(32):
            places = [tuple(np.argwhere(image[slot, agent, ..., 1])[0]) for agent in (0, 1)]
            fruits = [tuple(found) for found in np.argwhere(image[slot, 0, ..., 0])]
            targets = fruits if len(fruits) == 2 else [fruits[0]] * 2
            actions[slot] = [nearest(*pair) for pair in zip(places, targets, strict=True)]
        environment.step({"agent": actions}, outcome, frame)
        returns += [episode.return_mean for episode in outcome.episodes]
    assert len(returns) > 100
    assert set(returns) == {1.0}


def test_random_actions_return_far_less_than_one():
    rows = play(make_environment(EnvConfig(id="pixels:gather"), {}, 64, Seeds(0)), 100)
    returns = [episode.return_mean for row in rows for episode in row["episodes"]]
    assert 0.2 < np.mean(returns) < 0.35


def test_unfinished_image_games_continue_after_a_restore():
    config, seeds = EnvConfig(id="pixels:gather_dict"), Seeds(3)
    one = make_environment(config, {}, 3, seeds, record=True)
    play(one, 5)
    frames = [new_frame(one.spec, 3) for _ in range(2)]
    other = make_environment(config, {}, 3, seeds, record=True)
    outcome = new_outcome(one.spec, 3)
    other.load_state_dict(one.state_dict(), frames[1])
    for step in range(6):
        actions = {"agent": np.full((3, 2), step % 5)}
        for game, frame in zip((one, other), frames, strict=True):
            game.step(actions, outcome, frame)
        for key, part in fields_of(frames[0].policies["agent"].obs).items():
            np.testing.assert_array_equal(part, fields_of(frames[1].policies["agent"].obs)[key])


def test_agents_of_image_games_may_have_separate_policies():
    policies = {"one": PolicyConfig(agents=("agent_1",)), "zero": PolicyConfig(agents=("agent_0",))}
    environment = make_environment(EnvConfig(id="pixels:gather_dict"), policies, 2, Seeds(0))
    assert environment.spec.teams == (("zero", "one"),)
    together = play(make_environment(EnvConfig(id="pixels:gather_dict"), {}, 2, Seeds(0)), 1)[0]
    apart = play(environment, 1)[0]
    image = together["frame"]["agent"]["obs"]["image"]
    np.testing.assert_array_equal(apart["frame"]["one"]["obs"]["image"][:, 0], image[:, 1])


@pytest.mark.parametrize(
    ("id", "kwargs", "text"),
    [
        ("pixels:hunt", {}, "no game hunt; allowed: pixels:gather, pixels:gather_dict"),
        ("pixels:gather", {"fruits": 2}, "env.kwargs.fruits does not fit pixels:gather; allowed: agents"),
        ("pixels:gather", {"size": 1}, "env.kwargs.size: 1; allowed .* from 2 to 64"),
        ("pixels:gather", {"agents": True}, "env.kwargs.agents: True"),
        ("pixels:gather", {"agents": 3, "size": 2}, "env.kwargs.size: 2 gives 4 squares"),
    ],
)
def test_wrong_arguments_of_image_games_are_named(id, kwargs, text):
    with pytest.raises(ConfigError, match=text):
        describe(EnvConfig(id=id, kwargs=kwargs), {})


def test_bare_image_games_take_a_step_in_each_slot():
    bare = make_bare(EnvConfig(id="pixels:gather"), 4, Seeds(0))
    bare.step()
    assert bare.steps_per_call == 4
