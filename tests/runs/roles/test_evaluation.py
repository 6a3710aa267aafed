"""Evaluation of checkpoints of whole runs."""

import pytest

from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.evaluation import evaluate_checkpoint
from tests.support.worlds import run_world, summary

TICTACTOE = """
env: {id: pettingzoo.classic.tictactoe_v3}
algo: {name: ma_trace, critic: independent, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 3}
eval: {episodes: 7}
stop: {updates: 3}
logging: {progress: false}
"""


def test_evaluation_against_random_opponent_is_zero_sum(tmp_path):
    run_world(2, tmp_path, text=TICTACTOE)
    assert summary(tmp_path)["evaluation"]["episodes"] == 7
    figures = evaluate_checkpoint(str(tmp_path), episodes=20, random_agents=["player_2"])
    assert figures["episodes"] == 20
    first, second = figures["agents"]["player_1"], figures["agents"]["player_2"]
    assert first["return_mean"] == pytest.approx(-second["return_mean"])  # zero-sum
    assert first["positive"] == pytest.approx(second["negative"])
    assert first["positive"] + first["zero"] + first["negative"] == pytest.approx(1)


def test_invalid_evaluation_inputs_are_rejected(tmp_path):
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
