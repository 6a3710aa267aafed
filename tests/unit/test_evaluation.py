"""Evaluation: random opponents, returns of each agent, unbiased shares of episodes."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import EnvConfig, MATraceConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.roles.evaluator import Match, summarise
from hpcmarl.types import Episode


def test_greedy_policies_repeat_and_random_opponents_vary():
    environment = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
    algorithm = make_algorithm(describe(environment, {}), MATraceConfig(critic="dec"), 0)

    def returns(names, seed):
        match = Match(algorithm, make_environment(environment, {}, 4, Seeds(seed)), 12, True, seed, names)
        while not match.done:
            match.step()
        match.close()
        return match.agent_returns["player_1"]

    assert returns([], 1) == returns([], 2)  # greedy policies in a game without chance
    assert len(set(map(tuple, (returns(["player_1", "player_2"], seed) for seed in range(4))))) > 1


def test_every_slot_plays_its_share():
    environment = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
    algorithm = make_algorithm(describe(environment, {}), MATraceConfig(critic="dec"), 0)
    match = Match(algorithm, make_environment(environment, {}, 4, Seeds(0)), 10, False, 0)
    while not match.done:
        match.step()
    match.close()
    assert np.bincount([episode.slot for episode in match.episodes]).tolist() == [3, 3, 2, 2]


def test_groups_are_weighted_independently_of_episode_count():
    def played(value, count):
        return [Episode(0, index, 1, value, {"agent": value}, True) for index in range(count)]

    assert summarise([played(1.0, 10), played(3.0, 2)], [1, 1])["return_mean"] == pytest.approx(2.0)
    assert summarise([played(1.0, 10), played(3.0, 2)], [3, 1])["return_mean"] == pytest.approx(1.5)
