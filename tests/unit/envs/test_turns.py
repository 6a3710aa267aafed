"""envs/: turn-based environments, by hand and against an independent rollout."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.native import boards
from hpcmarl.errors import EnvironmentFailure
from tests.support.environments import Duel
from tests.support.twins import assert_equals_rows, assert_equals_slots, play

DUEL = "tests.support.environments:Duel"


@pytest.mark.parametrize("game", ["tictactoe_v3", "connect_four_v3", "leduc_holdem_v4"])
def test_classic_games_equal_pettingzoos_own_loop(game: str) -> None:
    seeds = Seeds(2, 7)
    environment = make_environment(EnvConfig(id=f"pettingzoo.classic.{game}"), {}, 2, seeds)
    assert environment.spec.turn_based
    (policy,) = environment.spec.policies
    assert policy.has_mask
    rows = play(environment, 90)
    for slot in range(2):
        assert_equals_rows(
            importlib.import_module(f"pettingzoo.classic.{game}").env(), policy.agents, rows, slot, seeds
        )
    assert sum(len(row["episodes"]) for row in rows) >= 4


@given(
    id=st.sampled_from([id for id in boards.VIEWS if id.startswith("pettingzoo")]),
    seed=st.integers(0, 1000),
    max_steps=st.one_of(st.none(), st.integers(1, 8)),
    apart=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_batched_boards_equal_single_games(id: str, seed: int, max_steps: int | None, apart: bool) -> None:
    """Compare every element of every frame and outcome.

    test_openspiel.py tests the boards of OpenSpiel.
    """
    policies = {"second": PolicyConfig(agents=(boards.VIEWS[id].players[1],))} if apart else {}
    assert_equals_slots(EnvConfig(id=id, max_steps=max_steps), policies, boards.BoardBatch, seed)


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_dying_agents_equal_the_pettingzoo_loop(seed: int) -> None:
    environment = make_environment(EnvConfig(id=DUEL), {}, 2, Seeds(0))
    rows = play(environment, 40, seed=seed)
    for slot in range(2):
        assert_equals_rows(CumulativeDuel(), ("p0", "p1", "p2"), rows, slot, Seeds(0))


class CumulativeDuel(Duel):
    """Duel with PettingZoo's cumulative rewards for last(), which the adapter does not use."""

    def step(self, action: int | None) -> None:
        agent = self.agent_selection
        dead = self.terminations[agent] or self.truncations[agent]
        super().step(action)
        if not dead:
            self._cumulative_rewards[agent] = 0.0
            self._accumulate_rewards()


def test_duel_rewards_flags_and_turns_match_the_script() -> None:
    """Compare each step of a duel with its script.

    p0 kills p1, and the adapter takes the turn of p1. p2 kills p0, plays alone and is truncated.
    """
    environment = make_environment(EnvConfig(id=DUEL), {}, 1, Seeds(0))
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    view, came = frame.policies["p"], outcome.policies["p"]
    assert view.alive.tolist() == [[True, False, False]]
    assert view.obs[0].tolist() == [[0, 0, 3], [1, 0, 3], [2, 0, 3]]
    expected = [
        ([1, -3, 0.5], [0, 1, 0], [0, 0, 0], [0, 0, 1], [[0, 1, 2], [0, 0, 0], [2, 1, 2]]),
        ([-3, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1], [[0, 0, 0], [0, 0, 0], [2, 2, 1]]),
        ([0, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0], [[0, 0, 3], [1, 0, 3], [2, 0, 3]]),
    ]
    for reward, terminated, truncated, alive, obs in expected:
        environment.step({"p": np.ones((1, 3), np.int64)}, outcome, frame)
        assert came.reward[0].tolist() == reward
        assert came.terminated[0].tolist() == terminated
        assert came.truncated[0].tolist() == truncated
        assert view.alive[0].tolist() == alive
        assert view.obs[0].tolist() == obs
    assert outcome.episode_end.tolist() == [2]
    assert frame.episode_start.tolist() == [True]
    (final,) = outcome.finals
    assert final.obs["p"].tolist() == [[0, 0, 0], [0, 0, 0], [2, 3, 1]]
    (episode,) = outcome.episodes
    assert (episode.length, episode.terminated) == (3, False)
    assert episode.return_mean == pytest.approx((1 - 3 + 0.5 - 3 + 1 + 1) / 3)


def test_max_steps_truncates_every_living_agent() -> None:
    environment = make_environment(
        EnvConfig(id="pettingzoo.classic.tictactoe_v3", max_steps=3), {}, 1, Seeds(0)
    )
    rows = play(environment, 6)
    for row in (rows[2], rows[5]):
        assert row["outcome"]["player"]["truncated"].all()
        assert row["end"].tolist() == [2]
        assert row["finals"][0].obs["player"][0].sum() == 3  # three marks on the board
    assert not rows[0]["outcome"]["player"]["truncated"].any()


def test_resumed_masked_game_equals_the_original() -> None:
    def make() -> Any:
        return make_environment(
            EnvConfig(id="pettingzoo.classic.connect_four_v3"), {}, 2, Seeds(3), record=True
        )

    original, resumed = make(), make()
    play(original, 23)
    frame, outcome = new_frame(original.spec, 2), new_outcome(original.spec, 2)
    resumed.load_state_dict(original.state_dict(), frame)
    again = new_frame(original.spec, 2)
    original.load_state_dict(original.state_dict(), again)
    for name in ("obs", "alive", "action_mask"):
        np.testing.assert_array_equal(
            getattr(frame.policies["player"], name), getattr(again.policies["player"], name)
        )
    assert frame.policies["player"].alive.sum(-1).tolist() == [1, 1]
    resumed.step({"player": frame.policies["player"].action_mask.argmax(-1)}, outcome, frame)
    assert resumed.counts["restarts"] == 0


@pytest.mark.filterwarnings("ignore:The base environment")
def test_env_kind_converts_between_parallel_and_turn_based() -> None:
    config = EnvConfig(id="mpe2.simple_spread_v3", kind="aec", kwargs={"max_cycles": 4})
    environment = make_environment(config, {}, 1, Seeds(0))
    assert environment.spec.turn_based
    rows = play(environment, 24)
    assert [index for index, row in enumerate(rows) if row["end"][0]] == [11, 23]
    assert rows[11]["outcome"]["agent"]["truncated"].all()
    plan = {"a": (0, 1, "terminated"), "b": (0, 3, "truncated"), "c": (0, 2, "both")}
    crowd = make_environment(
        EnvConfig(id="tests.support.environments:Crowd", kind="aec", kwargs={"plan": plan}), {}, 1, Seeds(0)
    )
    rows = play(crowd, 9)  # rounds of 3, 3, 2 and 1 turns
    assert [row["end"][0] for row in rows] == [0] * 8 + [2]
    assert [
        [row["outcome"]["policy_0"][key][0].tolist() for key in ("terminated", "truncated")]
        for row in (rows[5], rows[7], rows[8])
    ] == [
        [[True, False, False], [False, False, False]],
        [[False, False, True], [False, False, False]],
        [[False, False, False], [False, True, False]],
    ]
    assert not describe(EnvConfig(id="mpe2.simple_spread_v3:env", kind="parallel"), {}).turn_based


def test_dead_agent_keeping_its_turn_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Duel.step
    monkeypatch.setattr(Duel, "step", lambda self, action: None if action is None else original(self, action))
    environment = make_environment(EnvConfig(id=DUEL), {}, 1, Seeds(0))
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    with pytest.raises(EnvironmentFailure, match="agent p1 is dead and keeps its turn"):
        environment.step({"p": np.ones((1, 3), np.int64)}, outcome, frame)
