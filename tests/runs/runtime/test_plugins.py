"""Runs with classes outside hpcmarl, on virtual ranks."""

import logging

import numpy as np
import pytest

from hpcmarl.errors import ConfigError
from tests.support import plugins
from tests.support.leagues import RPS
from tests.support.plugins import CALLS, HERE
from tests.support.worlds import final_parameters, final_state, run_world, summary

CALLED = f"callbacks=['{HERE}:Calls']"


@pytest.fixture(autouse=True)
def forget_calls():
    CALLS.clear()


def test_rule_optimizer_and_tracker_of_a_module_train(tmp_path):
    run_world(
        4,
        tmp_path,
        f"rounds.rule={{name: '{HERE}:Backup', slack: 1}}",
        f"optimizer={{name: '{HERE}:Sign', step_size: 0.02}}",
        f"logging.trackers=[{{name: '{HERE}:Lines', file: lines.txt}}]",
        "logging.every_seconds=0.001",
        "topology.groups=2",
        "stop.updates=3",
    )
    assert summary(tmp_path)["updates"] == 3
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert lines[0] == "config of mpe2.simple_spread_v3"
    assert lines[-1] == "summary of 3"
    assert "row 3" in lines
    assert "drift" in final_state(tmp_path)["engine"]["optimizer"]
    text = (tmp_path / "config.yaml").read_text()
    assert f"name: {HERE}:Backup\n    slack: 1\n" in text  # every key, so that resuming changes none


def test_optimizer_of_a_module_resumes_bit_for_bit(tmp_path):
    sign = (f"optimizer.name={HERE}:Sign", "deterministic=true")
    run_world(2, tmp_path / "whole", *sign, "stop.updates=4")
    run_world(2, tmp_path / "parts", *sign, "stop.updates=2")
    run_world(2, tmp_path / "parts", *sign, "stop.updates=4", resume="auto")
    np.testing.assert_array_equal(final_parameters(tmp_path / "parts"), final_parameters(tmp_path / "whole"))


def test_callbacks_are_called_once_and_keep_their_state(tmp_path):
    changes = (CALLED, "eval={episodes: 2, every_updates: 2}", "checkpoint.every_updates=2")
    run_world(1, tmp_path, *changes, "stop.updates=3")
    own = [call[1:] for call in CALLS]
    assert [version for method, version in own if method == "on_update"] == [1, 2, 3]
    assert [version for method, version in own if method == "on_evaluation"][-1] == 3
    assert ("on_checkpoint", 3) in own
    assert own[-1] == ("on_end finished stop.updates 3 reached", 3)
    CALLS.clear()
    run_world(1, tmp_path, *changes, "stop.updates=5", resume="auto")
    own = [call[1:] for call in CALLS]
    assert own[0] == ("load_state_dict", 3)
    assert [version for method, version in own if method == "on_update"] == [4, 5]
    assert own[-1] == ("on_end finished stop.updates 5 reached", 5)


def test_callback_ends_a_run_as_a_limit_does(tmp_path):
    run_world(1, tmp_path, f"callbacks=['{HERE}:Stop', '{HERE}:Calls']", "eval.episodes=2")
    assert summary(tmp_path)["updates"] == 2
    assert summary(tmp_path)["status"] == "finished"
    assert summary(tmp_path)["eval_return_mean"] is not None
    assert int(final_state(tmp_path)["engine"]["rule"]["round"]) == 2
    assert CALLS[-1][1] == f"on_end finished callback {HERE}:Stop: that is enough"


def test_callback_that_fails_is_switched_off(tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        run_world(1, tmp_path, f"callbacks=['{HERE}:Broken']", "stop.updates=4")
    assert summary(tmp_path)["updates"] == 4
    assert CALLS == [("broken", "on_update", 1), ("broken", "on_update", 2)]
    (line,) = summary(tmp_path)["callback_errors"]
    assert line.startswith(f"callback {HERE}:Broken failed in on_update at version 2 and is not called again")
    assert f"RuntimeError: no such thing ({plugins.__file__}, line " in line
    assert line in caplog.text


def test_callback_that_cannot_be_made_ends_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks\.0: .*:Unmade cannot be made: ValueError: no account"):
        run_world(1, tmp_path, f"callbacks=['{HERE}:Unmade']")


def test_slow_callback_is_reported_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("hpcmarl.roles.server.callbacks.SLOW_SECONDS", -1.0)
    run_world(1, tmp_path, CALLED, "stop.updates=3")
    slow = [record for record in caplog.records if "and the run waited for it" in record.getMessage()]
    assert len(slow) == 1


def test_league_uses_a_matchmaker_and_calls_back_each_member(tmp_path):
    newest = f"league.matchmaking={{name: '{HERE}:Newest', newest: 2, self_share: 0.2}}"
    run_world(2, tmp_path, newest, CALLED, "stop.updates=4", text=RPS)
    updates = [(place.split("/")[-2], version) for place, method, version in CALLS if method == "on_update"]
    assert sorted(updates) == [(member, version) for member in "ab" for version in (1, 2, 3, 4)]
