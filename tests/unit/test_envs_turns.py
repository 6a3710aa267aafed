"""envs/: turn-based environments, by hand and against an independent rollout."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, boards, describe, episode_seed, make_environment, new_frame, new_outcome
from hpcmarl.errors import EnvironmentFailure
from tests.envs_for_tests import Duel
from tests.envs_twins import assert_equals_slots, play

DUEL = "tests.envs_for_tests:Duel"


def assert_equals_rows(env: Any, agents: tuple[str, ...], rows: list[dict[str, Any]], slot: int, seeds: Seeds) -> None:
    """Play the recorded actions with PettingZoo's own loop (agent_iter, last) and compare what each agent got and saw.

    Credit is compared as PettingZoo counts it: what last() tells an agent at its turn is what it earned since its last one.
    """
    name = next(iter(rows[0]["frame"]))
    number, episode = 0, 0
    while number < len(rows):
        env.reset(seed=episode_seed(seeds.seed, seeds.first_slot + slot, episode))
        begin, told, earned = number, dict.fromkeys(agents, 0.0), dict.fromkeys(agents, 0.0)
        flags = {agent: (False, False) for agent in agents}
        for agent in env.agent_iter():
            seen, reward, terminated, truncated, _ = env.last()
            told[agent] += reward
            if terminated or truncated:
                flags[agent] = (terminated, truncated)
                env.step(None)
                continue
            if number == len(rows):
                return
            view, column = rows[number]["frame"][name], agents.index(agent)
            assert view["alive"][slot].tolist() == [other == agent for other in agents]
            assert rows[number]["start"][slot] == (number == begin)
            observation = seen["observation"] if isinstance(seen, dict) else seen
            np.testing.assert_array_equal(view["obs"][slot, column], np.asarray(observation, np.float32))
            if isinstance(seen, dict):
                np.testing.assert_array_equal(view["action_mask"][slot, column], seen["action_mask"].astype(bool))
                others = [other for other in range(len(agents)) if other != column]
                assert view["action_mask"][slot, others].all()
            for other, value in zip(agents, rows[number]["outcome"][name]["reward"][slot], strict=True):
                earned[other] += float(value)
            env.step(int(rows[number]["actions"][name][slot, column]))
            number += 1
        last = rows[number - 1]
        assert last["end"][slot] == (2 if any(t for _, t in flags.values()) else 1)
        assert not any(row["end"][slot] for row in rows[begin : number - 1])
        for column, agent in enumerate(agents):
            assert earned[agent] == pytest.approx(told[agent]), agent
            got = [[row["outcome"][name][key][slot, column] for key in ("terminated", "truncated")] for row in rows[begin:number]]
            assert np.sum(got, axis=0).tolist() == [int(flag) for flag in flags[agent]], agent
        (record,) = [found for found in last["episodes"] if found.slot == slot]
        assert (record.index, record.length) == (episode, number - begin)
        assert record.return_mean == pytest.approx(sum(told.values()) / len(agents))
        episode += 1


@pytest.mark.parametrize("game", ["tictactoe_v3", "connect_four_v3", "leduc_holdem_v4"])
def test_classic_games_equal_pettingzoos_own_loop(game: str) -> None:
    seeds = Seeds(2, 7)
    environment = make_environment(EnvConfig(id=f"pettingzoo.classic.{game}"), {}, 2, seeds)
    assert environment.spec.turn_based
    (policy,) = environment.spec.policies
    assert policy.has_mask
    rows = play(environment, 90)
    for slot in range(2):
        assert_equals_rows(importlib.import_module(f"pettingzoo.classic.{game}").env(), policy.agents, rows, slot, seeds)
    assert sum(len(row["episodes"]) for row in rows) >= 4


@given(
    id=st.sampled_from([id for id in boards.VIEWS if id.startswith("pettingzoo")]),
    seed=st.integers(0, 1000),
    max_steps=st.one_of(st.none(), st.integers(1, 8)),
    apart=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_boards_equal_games_driven_one_by_one(id: str, seed: int, max_steps: int | None, apart: bool) -> None:
    """Every element of every frame and outcome; OpenSpiel's boards: test_envs_openspiel.py."""
    policies = {"second": PolicyConfig(agents=(boards.VIEWS[id].players[1],))} if apart else {}
    assert_equals_slots(EnvConfig(id=id, max_steps=max_steps), policies, boards.BoardBatch, seed)


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_agents_that_die_equal_pettingzoos_own_loop(seed: int) -> None:
    environment = make_environment(EnvConfig(id=DUEL), {}, 2, Seeds(0))
    rows = play(environment, 40, seed=seed)
    for slot in range(2):
        assert_equals_rows(CumulativeDuel(), ("p0", "p1", "p2"), rows, slot, Seeds(0))


class CumulativeDuel(Duel):
    """With PettingZoo's book-keeping for last(), which the adapter does not use."""

    def step(self, action: int | None) -> None:
        agent = self.agent_selection
        dead = self.terminations[agent] or self.truncations[agent]
        super().step(action)
        if not dead:
            self._cumulative_rewards[agent] = 0.0
            self._accumulate_rewards()


def test_duel_by_hand() -> None:
    """p0 kills p1 (whose turn is then taken by the adapter), p2 kills p0, p2 plays on alone and is truncated."""
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
    environment = make_environment(EnvConfig(id="pettingzoo.classic.tictactoe_v3", max_steps=3), {}, 1, Seeds(0))
    rows = play(environment, 6)
    for row in (rows[2], rows[5]):
        assert row["outcome"]["player"]["truncated"].all()
        assert row["end"].tolist() == [2]
        assert row["finals"][0].obs["player"][0].sum() == 3  # three marks on the board
    assert not rows[0]["outcome"]["player"]["truncated"].any()


def test_exact_resume_of_a_masked_game() -> None:
    def make() -> Any:
        return make_environment(EnvConfig(id="pettingzoo.classic.connect_four_v3"), {}, 2, Seeds(3), record=True)

    original, resumed = make(), make()
    play(original, 23)
    frame, outcome = new_frame(original.spec, 2), new_outcome(original.spec, 2)
    resumed.load_state_dict(original.state_dict(), frame)
    again = new_frame(original.spec, 2)
    original.load_state_dict(original.state_dict(), again)
    for name in ("obs", "alive", "action_mask"):
        np.testing.assert_array_equal(getattr(frame.policies["player"], name), getattr(again.policies["player"], name))
    assert frame.policies["player"].alive.sum(-1).tolist() == [1, 1]
    resumed.step({"player": frame.policies["player"].action_mask.argmax(-1)}, outcome, frame)
    assert resumed.counts["restarts"] == 0


@pytest.mark.filterwarnings("ignore:The base environment")
def test_parallel_environments_can_be_played_in_turns_and_back() -> None:
    config = EnvConfig(id="mpe2.simple_spread_v3", kind="aec", kwargs={"max_cycles": 4})
    environment = make_environment(config, {}, 1, Seeds(0))
    assert environment.spec.turn_based
    rows = play(environment, 24)
    assert [index for index, row in enumerate(rows) if row["end"][0]] == [11, 23]
    assert rows[11]["outcome"]["agent"]["truncated"].all()
    plan = {"a": (0, 1, "terminated"), "b": (0, 3, "truncated"), "c": (0, 2, "both")}
    crowd = make_environment(EnvConfig(id="tests.envs_for_tests:Crowd", kind="aec", kwargs={"plan": plan}), {}, 1, Seeds(0))
    rows = play(crowd, 9)  # rounds of 3, 3, 2 and 1 turns
    assert [row["end"][0] for row in rows] == [0] * 8 + [2]
    assert [[row["outcome"]["policy_0"][key][0].tolist() for key in ("terminated", "truncated")] for row in (rows[5], rows[7], rows[8])] == [
        [[True, False, False], [False, False, False]],
        [[False, False, True], [False, False, False]],
        [[False, False, False], [False, True, False]],
    ]
    assert not describe(EnvConfig(id="mpe2.simple_spread_v3:env", kind="parallel"), {}).turn_based


def test_a_dead_agent_that_keeps_its_turn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Duel.step
    monkeypatch.setattr(Duel, "step", lambda self, action: None if action is None else original(self, action))
    environment = make_environment(EnvConfig(id=DUEL), {}, 1, Seeds(0))
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    with pytest.raises(EnvironmentFailure, match="agent p1 is dead and keeps its turn"):
        environment.step({"p": np.ones((1, 3), np.int64)}, outcome, frame)
