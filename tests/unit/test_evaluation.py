"""Judging checkpoints: random opponents, each agent's own returns, unbiased shares of episodes; and what is refused."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import EnvConfig, MATraceConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.roles.evaluation import evaluate_checkpoint
from hpcmarl.roles.evaluator import Match, summarise
from hpcmarl.types import Episode
from tests.worlds import run_world, summary

TICTACTOE = """
env: {id: pettingzoo.classic.tictactoe_v3}
algo: {name: ma_trace, critic: dec, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 3}
eval: {episodes: 7}
stop: {updates: 3}
logging: {progress: false}
"""


def test_a_turn_based_run_and_its_evaluation_against_a_random_opponent(tmp_path):
    run_world(2, tmp_path, text=TICTACTOE)
    assert summary(tmp_path)["evaluation"]["episodes"] == 7
    figures = evaluate_checkpoint(str(tmp_path), episodes=20, random_agents=["player_2"])
    assert figures["episodes"] == 20
    first, second = figures["agents"]["player_1"], figures["agents"]["player_2"]
    assert first["return_mean"] == pytest.approx(-second["return_mean"])  # zero-sum
    assert first["positive"] == pytest.approx(second["negative"])
    assert first["positive"] + first["zero"] + first["negative"] == pytest.approx(1)


def test_random_opponents_are_random_and_the_policies_are_not():
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


def test_groups_weigh_the_same_whatever_their_episodes():
    def played(value, count):
        return [Episode(0, index, 1, value, {"agent": value}, True) for index in range(count)]

    assert summarise([played(1.0, 10), played(3.0, 2)], [1, 1])["return_mean"] == pytest.approx(2.0)
    assert summarise([played(1.0, 10), played(3.0, 2)], [3, 1])["return_mean"] == pytest.approx(1.5)


def test_what_cannot_be_evaluated_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        evaluate_checkpoint(str(tmp_path / "none"))
    with pytest.raises(FormatError, match="no checkpoint"):
        evaluate_checkpoint(str(tmp_path))
    (tmp_path / "foreign.h5").write_bytes(b"not HDF5")
    with pytest.raises(FormatError, match="foreign"):
        evaluate_checkpoint(str(tmp_path / "foreign.h5"))
    run_world(1, tmp_path / "run", text=TICTACTOE)
    with pytest.raises(ConfigError, match="player_1, player_2"):
        evaluate_checkpoint(str(tmp_path / "run"), random_agents=["nobody"])
