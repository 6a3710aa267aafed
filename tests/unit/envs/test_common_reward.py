"""Rewards of agents that PettingZoo no longer lists (env.common_reward).

Such an agent receives no reward, or the reward of the team if all agents have a common reward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.errors import ConfigError, EnvironmentFailure
from tests.support.twins import play

FADING = "tests.support.environments:Fading"
CROWD = "tests.support.environments:Crowd"


def played(steps: int = 4, **keys: Any) -> tuple[list[Any], Any]:
    """Return the rows of the first episode of one slot, and the specification."""
    environment = make_environment(EnvConfig(**{"id": FADING, **keys}), {}, 1, Seeds(0))
    return play(environment, steps), environment.spec


def test_rewards_of_the_dead_dilute_the_mean_unless_common() -> None:
    """A team's return of 4 is reported and learned as 3 unless the reward is common.

    The episode has four steps that pay 1 each. One of two agents leaves after two steps.
    """
    alone, spec = played()
    assert [row["outcome"]["agent"]["reward"][0].tolist() for row in alone] == [
        [1, 1],
        [1, 1],
        [0, 1],
        [0, 1],
    ]
    assert alone[-1]["episodes"][0].return_mean == 3.0
    assert spec.teams == ()
    for keys in ({"common_reward": True}, {"kwargs": {"says": True}}):
        common, spec = played(**keys)
        assert [row["outcome"]["agent"]["reward"][0].tolist() for row in common] == [[1, 1]] * 4
        assert common[-1]["episodes"][0].return_mean == common[-1]["episodes"][0].returns["agent"] == 4.0
        assert spec.teams == (("agent",),)
        for mine, theirs in zip(common, alone, strict=True):
            for name in ("terminated", "truncated"):
                np.testing.assert_array_equal(
                    mine["outcome"]["agent"][name], theirs["outcome"]["agent"][name]
                )
    assert played(kwargs={"says": True}, common_reward=False)[0][-1]["episodes"][0].return_mean == 3.0


def test_a_dead_policy_gets_the_common_reward_of_others() -> None:
    policies = {name: PolicyConfig(agents=(name,)) for name in ("agent_0", "agent_1")}
    environment = make_environment(EnvConfig(id=FADING, common_reward=True), policies, 1, Seeds(0))
    rows = play(environment, 4)
    assert [row["outcome"]["agent_0"]["reward"][0].tolist() for row in rows] == [[1]] * 4
    assert rows[-1]["episodes"][0].returns == {"agent_0": 4.0, "agent_1": 4.0}


def test_unequal_rewards_are_no_common_reward() -> None:
    environment = make_environment(EnvConfig(id=CROWD, common_reward=True), {}, 1, Seeds(0))
    with pytest.raises(
        EnvironmentFailure,
        match=r"rewards walker_0 with .* and walker_1 with .*; set env\.common_reward to false",
    ) as caught:
        play(environment, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"id": "matrix:rps"},
            "env.common_reward: true, but the players of matrix:rps have different payoffs",
        ),
        (
            {"id": "tests.support.environments:Duel", "kind": "aec"},
            "env.common_reward is true, but .* is turn-based",
        ),
        (
            {"id": "pettingzoo.classic.tictactoe_v3"},
            "env.common_reward is true, but .* is turn-based",
        ),
    ],
    ids=str,
)
def test_common_reward_must_fit_the_game(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        describe(EnvConfig(**config, common_reward=True), {})
    assert "\n" not in str(caught.value)
