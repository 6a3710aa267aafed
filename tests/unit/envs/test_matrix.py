"""envs/: matrix games as a natively batched environment, against a PettingZoo twin and by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.utils.env import ParallelEnv

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    KNOWN_ENVIRONMENTS,
    Seeds,
    describe,
    make_environment,
    new_frame,
    new_outcome,
    prepare_environment,
)
from hpcmarl.envs.bare import make_bare
from hpcmarl.envs.native.matrix_games import GAMES, find_game
from hpcmarl.errors import ConfigError
from tests.support.twins import assert_equals_twin, fill_with_stale_values, play


class MatrixTwin(ParallelEnv):
    """One game by table look-up; observations are built number by number."""

    metadata: ClassVar[dict[str, Any]] = {"name": "matrix_twin"}

    def __init__(self, row: Any, column: Any = None, rounds: int = 1) -> None:
        self.own = row
        self.other = [[-value for value in line] for line in row] if column is None else column
        self.rounds, self.sizes = rounds, (len(row), len(row[0]))
        self.possible_agents = ["player_0", "player_1"]
        square = len(row) == len(row[0])
        self.symmetric = square and all(
            self.own[i][j] == self.other[j][i] for i in range(len(row)) for j in range(len(row))
        )

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1.0, 1.0, (1 if self.rounds == 1 else 1 + sum(self.sizes),), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(self.sizes[self.possible_agents.index(agent)])

    def seen(self) -> Any:
        shown = {}
        for seat, agent in enumerate(self.possible_agents):
            parts = [1.0 if seat == 0 or self.symmetric else -1.0]
            for who in (seat, 1 - seat) if self.rounds > 1 else ():
                parts += [
                    float(self.last is not None and self.last[who] == action)
                    for action in range(self.sizes[who])
                ]
            shown[agent] = np.array(parts, np.float32)
        return shown

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.step_number, self.last = list(self.possible_agents), 0, None
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        self.last = (int(actions["player_0"]), int(actions["player_1"]))
        self.step_number += 1
        row, column = self.last
        rewards = {"player_0": self.own[row][column], "player_1": self.other[row][column]}
        over = self.step_number == self.rounds
        names = self.possible_agents
        self.agents = [] if over else list(names)
        return (
            self.seen(),
            rewards,
            dict.fromkeys(names, over),
            dict.fromkeys(names, False),
            {name: {} for name in names},
        )


OWN = {"payoff": [[1, 2, 3], [-4, 5, 0.5]], "column_payoff": [[0, 1, 0], [2, 2, -1]]}


@pytest.mark.parametrize("max_steps", [None, 2])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", [*GAMES, "own"])
def test_matrix_games_equal_the_pettingzoo_twin(name: str, rounds: int, max_steps: int | None) -> None:
    row, column = GAMES[name] if name in GAMES else OWN.values()
    kwargs = {"rounds": rounds} | (OWN if name == "own" else {})
    environment = make_environment(
        EnvConfig(id=f"matrix:{name}", kwargs=kwargs, max_steps=max_steps), {}, 4, Seeds(0)
    )
    assert [policy.agents for policy in environment.spec.policies] == (
        [("player_0",), ("player_1",)] if name == "own" else [("player_0", "player_1")]
    )
    rows = play(environment, 14)
    assert_equals_twin(lambda: MatrixTwin(row, column, rounds), environment, rows, Seeds(0), max_steps)
    if column is None:
        assert all((row["outcome"]["player"]["reward"].sum(-1) == 0).all() for row in rows)


def test_matrix_game_players_may_have_separate_policies() -> None:
    policies = {"second": PolicyConfig(agents=("player_1",)), "first": PolicyConfig(agents=("player_0",))}
    environment = make_environment(
        EnvConfig(id="matrix:matching_pennies", kwargs={"rounds": 2}), policies, 3, Seeds(0)
    )
    assert [policy.name for policy in environment.spec.policies] == ["first", "second"]
    rows = play(environment, 10)
    assert_equals_twin(lambda: MatrixTwin([[1, -1], [-1, 1]], None, 2), environment, rows, Seeds(0), None)


def test_rock_paper_scissors_rewards_match_the_rules() -> None:
    environment = make_environment(EnvConfig(id="matrix:rps"), {}, 3, Seeds(0))
    frame, outcome = new_frame(environment.spec, 3), new_outcome(environment.spec, 3)
    environment.reset(frame)
    # rock is beaten by paper and beats scissors
    environment.step({"player": np.array([[0, 1], [0, 2], [1, 1]])}, outcome, frame)
    assert outcome.policies["player"].reward.tolist() == [[-1, 1], [1, -1], [0, 0]]
    assert outcome.episode_end.tolist() == [1, 1, 1]
    assert [
        (episode.slot, episode.index, episode.length, episode.return_mean) for episode in outcome.episodes
    ] == [
        (0, 0, 1, 0.0),
        (1, 0, 1, 0.0),
        (2, 0, 1, 0.0),
    ]
    assert frame.policies["player"].obs.tolist() == [[[1.0], [1.0]]] * 3
    assert frame.episode_start.all()


def test_slots_rest_until_they_are_restarted() -> None:
    environment = make_environment(EnvConfig(id="matrix:rps", kwargs={"rounds": 3}), {}, 3, Seeds(0))
    frame, outcome = new_frame(environment.spec, 3), new_outcome(environment.spec, 3)
    actions = {"player": np.array([[0, 1]] * 3)}
    environment.reset(frame)
    environment.step(actions, outcome, frame)
    environment.rest_slots([1])
    for _ in range(4):
        fill_with_stale_values(frame)
        environment.step(actions, outcome, frame)
        view = frame.policies["player"]
        assert view.alive.tolist() == [[True, True], [False, False], [True, True]]
        assert not view.obs[1].any()
        assert outcome.policies["player"].reward.tolist() == [[-1, 1], [0, 0], [-1, 1]]
        assert all(episode.slot != 1 for episode in outcome.episodes)
        assert not frame.episode_start[1]
    before = frame.policies["player"].obs[[0, 2]].copy()
    environment.restart_slots([1], frame)
    view = frame.policies["player"]
    assert view.alive.all()
    np.testing.assert_array_equal(view.obs[[0, 2]], before)
    assert view.obs[1].tolist() == [[1, 0, 0, 0, 0, 0, 0]] * 2
    assert frame.episode_start[1]
    assert (environment.episode_index[1], environment.episode_step[1]) == (1, 0)


@given(steps=st.integers(0, 9), rounds=st.integers(1, 4), record=st.booleans())
@settings(max_examples=25, deadline=None)
def test_resumed_matrix_games_continue_identically(steps: int, rounds: int, record: bool) -> None:
    config = EnvConfig(id="matrix:chicken", kwargs={"rounds": rounds})
    original, resumed = (make_environment(config, {}, 2, Seeds(3), record=record) for _ in range(2))
    play(original, steps)
    frame, again = new_frame(original.spec, 2), new_frame(original.spec, 2)
    resumed.load_state_dict(original.state_dict(), frame)
    if record:
        assert resumed.episode_step.tolist() == original.episode_step.tolist()
        assert resumed.episode_index.tolist() == original.episode_index.tolist()
        outcomes = [new_outcome(original.spec, 2) for _ in range(2)]
        for _ in range(rounds):
            for environment, view, outcome in zip((original, resumed), (again, frame), outcomes, strict=True):
                environment.step({"player": np.array([[0, 1], [1, 1]])}, outcome, view)
            assert outcomes[0].episodes == outcomes[1].episodes
            np.testing.assert_array_equal(frame.policies["player"].obs, again.policies["player"].obs)
    else:
        assert resumed.episode_index.tolist() == [index + 1 for index in original.episode_index.tolist()]
        assert frame.episode_start.all()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"id": "matrix:rpsls"}, "there is no matrix game rpsls; allowed: matrix:rps, .*matrix:own"),
        ({"id": "matrix"}, r"no matrix game \(no name\)"),
        ({"id": "matrix:rps", "kind": "aec"}, "matrix:rps is not turn-based"),
        (
            {"id": "matrix:rps", "kwargs": {"payoff": [[1]]}},
            "env.kwargs.payoff does not fit matrix:rps; allowed: rounds",
        ),
        ({"id": "matrix:rps", "kwargs": {"rounds": 0}}, "env.kwargs.rounds: 0; allowed"),
        ({"id": "matrix:rps", "kwargs": {"rounds": True}}, "env.kwargs.rounds: True"),
        ({"id": "matrix:own"}, "env.kwargs.payoff is missing"),
        ({"id": "matrix:own", "kwargs": {"payoff": [[1, 2], [3]]}}, "allowed: rows of finite numbers"),
        ({"id": "matrix:own", "kwargs": {"payoff": [[1, float("nan")]]}}, "allowed: rows of finite numbers"),
        (
            {"id": "matrix:own", "kwargs": {"payoff": [[1, 2]], "column_payoff": [[1], [2]]}},
            r"has the shape \(2, 1\); allowed: .*\(1, 2\)",
        ),
    ],
)
def test_invalid_matrix_settings_raise_one_line_errors(config: dict[str, Any], words: str) -> None:
    for call in (
        lambda: describe(EnvConfig(**config), {}),
        lambda: prepare_environment(EnvConfig(**config), 2),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_matrix_games_reject_state_requests() -> None:
    with pytest.raises(ConfigError, match="has no state"):
        make_environment(EnvConfig(id="matrix:rps"), {}, 1, Seeds(0), with_state=True)


def test_named_matrix_games_have_expected_payoffs() -> None:
    for name in GAMES:
        assert find_game(EnvConfig(id=f"matrix:{name}")).symmetric == (
            name not in ("matching_pennies", "battle_of_the_sexes")
        )
    biased = find_game(EnvConfig(id="matrix:biased_rps")).payoffs[0]
    np.testing.assert_allclose(biased @ [0.25, 0.25, 0.5], 0)
    listed = [known for known in KNOWN_ENVIRONMENTS if known.id.startswith("matrix:")]
    assert {known.id for known in listed} == {f"matrix:{name}" for name in GAMES}
    assert all(known.installed for known in listed)


def test_bare_matrix_stepping_counts_every_slot() -> None:
    bare = make_bare(EnvConfig(id="matrix:rps"), 5, Seeds(0))
    bare.step()
    assert bare.steps_per_call == 5
