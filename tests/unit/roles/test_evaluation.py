"""Evaluation: random opponents, returns of each agent, and unbiased shares of episodes."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import EnvConfig, EvalConfig, MATraceConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.roles.evaluator import Match, evaluation_environment, summarise, summarise_agents
from hpcmarl.types import Episode


def test_greedy_policies_repeat_and_random_opponents_vary():
    environment = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
    algorithm = make_algorithm(describe(environment, {}), MATraceConfig(critic="independent"), 0)

    def returns(names, seed):
        match = Match(
            algorithm, make_environment(environment, {}, 4, Seeds(seed)), 12, True, seed, names, by_agent=True
        )
        while not match.done:
            match.step()
        match.close()
        return match.agent_returns["player_1"]

    # The policies are greedy, and the game is deterministic.
    assert returns([], 1) == returns([], 2)
    assert len(set(map(tuple, (returns(["player_1", "player_2"], seed) for seed in range(4))))) > 1


def test_every_slot_plays_its_share():
    environment = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
    algorithm = make_algorithm(describe(environment, {}), MATraceConfig(critic="independent"), 0)
    match = Match(algorithm, make_environment(environment, {}, 4, Seeds(0)), 10, False, 0)
    while not match.done:
        match.step()
    match.close()
    assert np.bincount([episode.slot for episode in match.episodes]).tolist() == [3, 3, 2, 2]


def test_environments_of_one_evaluation_have_unlike_episodes():
    """Each environment of an evaluation has its own seed.

    Equal seeds correlate the returns (0.97 in two lengths of simple_spread). The error of the mean assumes
    independent returns.
    """
    spread = EnvConfig(id="mpe2.simple_spread_v3", kwargs={"max_cycles": 3})
    algorithm = make_algorithm(describe(spread, {}), MATraceConfig(critic="independent"), 0)

    def returns(index, seed=0):
        settings = EvalConfig(episodes=6, environments=2, seed=seed)
        match = Match(
            algorithm, evaluation_environment(spread, {}, settings, False, index), 6, True, seed, index=index
        )
        while not match.done:
            match.step()
        match.close()
        return {episode.return_mean for episode in match.episodes}

    assert returns(0) == returns(0) != returns(1)
    assert not returns(0) & returns(1)
    assert not returns(1) & returns(2)


def played(returns, length=1, wins=()):
    outcomes = [{"win": float(win)} for win in wins] or [{} for _ in returns]
    pairs = enumerate(zip(returns, outcomes, strict=True))
    return [
        Episode(0, index, length, value, {"agent": value}, True, outcome) for index, (value, outcome) in pairs
    ]


def test_groups_are_weighted_independently_of_episode_count():
    assert summarise([played([1.0] * 10), played([3.0] * 2)], [1, 1])["return_mean"] == pytest.approx(2.0)
    assert summarise([played([1.0] * 10), played([3.0] * 2)], [3, 1])["return_mean"] == pytest.approx(1.5)


def test_all_evaluation_figures_weigh_groups_alike():
    """All figures weigh groups equally, whatever the number of episodes.

    Three groups train in the first environment and one in the second. Evaluation played two episodes of the
    first environment and four of the second.
    """
    found = summarise(
        [played([0.0, 2.0], 15, [1, 0]), played([3.0, 5.0, 3.0, 5.0], 100, [1, 1, 1, 0])], [3, 1]
    )
    assert found["return_mean"] == found["returns"]["agent"] == pytest.approx(0.75 * 1 + 0.25 * 4)
    assert found["return_std"] == pytest.approx(
        np.sqrt(1.0 + 0.75 * (1 - 1.75) ** 2 + 0.25 * (4 - 1.75) ** 2)
    )
    assert found["return_sem"] == pytest.approx(np.sqrt(0.75**2 * 1.0 / 2 + 0.25**2 * 1.0 / 4))
    assert found["win_rate"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.75)
    assert found["length_mean"] == pytest.approx(0.75 * 15 + 0.25 * 100)
    assert (found["episodes"], found["return_by_environment"]) == (6, [1.0, 4.0])


def test_one_environment_keeps_the_plain_mean_and_error():
    found = summarise([played([1.0, 2.0, 6.0], 4)], [5])
    assert found["return_mean"] == pytest.approx(3.0)
    assert found["return_std"] == pytest.approx(np.std([1.0, 2.0, 6.0]))
    assert found["return_sem"] == pytest.approx(np.std([1.0, 2.0, 6.0]) / np.sqrt(3))
    assert found["win_rate"] is None


def test_win_rate_is_of_the_environments_that_tell_it():
    results = [played([0.0] * 4, wins=[1, 1, 1, 0]), played([9.0]), played([1.0] * 2, wins=[0, 0])]
    assert summarise(results, [1, 5, 2])["win_rate"] == pytest.approx((1 * 0.75 + 2 * 0.0) / 3)


def test_standard_error_is_the_spread_of_repeated_evaluations():
    """The standard error excludes the difference between environments, here of means 0 and 10.

    Each evaluation has the same share of each environment, so that the difference adds no error to the mean.
    """
    generator = np.random.default_rng(0)
    repeats = [
        summarise([played(generator.normal(0, 1, 40)), played(generator.normal(10, 3, 10))], [1, 1])
        for _ in range(400)
    ]
    spread = np.std([found["return_mean"] for found in repeats])
    assert np.mean([found["return_sem"] for found in repeats]) == pytest.approx(spread, rel=0.1)
    assert np.mean([found["return_std"] for found in repeats]) > 5.0


def test_agents_figures_weigh_groups_alike():
    found = summarise_agents(
        [{"a": [1.0, -1.0], "b": [0.0, 0.0]}, {"a": [3.0, 3.0, 3.0, 3.0], "b": [-1.0, 0.0, 0.0, 1.0]}], [1, 3]
    )
    assert found["a"] == pytest.approx(
        {"return_mean": 0.75 * 3.0, "positive": 0.25 * 0.5 + 0.75, "zero": 0.0, "negative": 0.25 * 0.5}
    )
    assert found["b"] == pytest.approx(
        {"return_mean": 0.0, "positive": 0.75 * 0.25, "zero": 0.25 + 0.75 * 0.5, "negative": 0.75 * 0.25}
    )
