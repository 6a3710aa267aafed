"""envs/: the games of leagues, their agents and their policies.

Rock-paper-scissors is compared with PettingZoo's own game.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pettingzoo.classic import rps_v2

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment
from tests.support.twins import assert_equals_twin, play

PREDATORS = ("adversary_0", "adversary_1", "adversary_2")


@pytest.mark.parametrize(
    ("id", "patterns", "expected"),
    [
        (
            "mpe2.simple_tag_v3",
            {},
            {"adversary": (PREDATORS, (16,), 5, False), "agent_0": (("agent_0",), (14,), 5, False)},
        ),
        (
            "mpe2.simple_tag_v3",
            {"predators": "adversary_*", "prey": "agent_*"},
            {"predators": (PREDATORS, (16,), 5, False), "prey": (("agent_0",), (14,), 5, False)},
        ),
        (
            "mpe2.simple_adversary_v3",
            {"prey": "agent_?", "spy": "adversary_*"},
            {"spy": (("adversary_0",), (8,), 5, False), "prey": (("agent_0", "agent_1"), (10,), 5, False)},
        ),
        ("mpe2.simple_spread_v3", {}, {"agent": (("agent_0", "agent_1", "agent_2"), (18,), 5, False)}),
        (
            "pettingzoo.classic.connect_four_v3",
            {},
            {"player": (("player_0", "player_1"), (6, 7, 2), 7, True)},
        ),
        ("pettingzoo.classic.tictactoe_v3", {}, {"player": (("player_1", "player_2"), (3, 3, 2), 9, True)}),
        ("pettingzoo.classic.leduc_holdem_v4", {}, {"player": (("player_0", "player_1"), (36,), 4, True)}),
        ("pettingzoo.classic.rps_v2", {}, {"player": (("player_0", "player_1"), (4,), 3, False)}),
        (
            "pettingzoo.classic.connect_four_v3",
            {"first": "player_0", "second": "player_1"},
            {"first": (("player_0",), (6, 7, 2), 7, True), "second": (("player_1",), (6, 7, 2), 7, True)},
        ),
    ],
)
def test_league_games_split_agents_into_policies(
    id: str, patterns: dict[str, str], expected: dict[str, Any]
) -> None:
    config, policies = (
        EnvConfig(id=id),
        {name: PolicyConfig(agents=(pattern,)) for name, pattern in patterns.items()},
    )
    spec = describe(config, policies)
    found = {
        policy.name: (policy.agents, policy.observation_shape, policy.action.sizes[0], policy.has_mask)
        for policy in spec.policies
    }
    assert found == expected
    rows = play(make_environment(config, policies, 2, Seeds(1)), 120)
    episodes = [episode for row in rows for episode in row["episodes"]]
    assert len(episodes) >= 2
    for policy in spec.policies:
        acted = np.array([row["frame"][policy.name]["alive"].sum() for row in rows])
        if spec.turn_based:
            assert acted.max() <= 2  # at most one agent acts in each of two slots
            assert acted.any()
        else:
            assert (acted == 2 * len(policy.agents)).all()


def test_pettingzoo_rock_paper_scissors_equals_twin() -> None:
    class Plain:
        """PettingZoo's game with its observations as one-hot vectors."""

        def __init__(self) -> None:
            self.game = rps_v2.parallel_env(max_cycles=6)
            self.action_space = self.game.action_space

        @property
        def agents(self) -> list[str]:
            return self.game.agents

        def reset(self, seed: int) -> Any:
            seen, infos = self.game.reset(seed)
            return {agent: np.eye(4)[int(view)] for agent, view in seen.items()}, infos

        def step(self, actions: Any) -> Any:
            seen, *told = self.game.step(actions)
            return {agent: np.eye(4)[int(view)] for agent, view in seen.items()}, *told

    environment = make_environment(
        EnvConfig(id="pettingzoo.classic.rps_v2", kwargs={"max_cycles": 6}), {}, 2, Seeds(4)
    )
    rows = play(environment, 20)
    assert_equals_twin(Plain, environment, rows, Seeds(4), None)
    assert all((row["outcome"]["player"]["reward"].sum(-1) == 0).all() for row in rows)
    assert any(row["outcome"]["player"]["reward"].any() for row in rows)
