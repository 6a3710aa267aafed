"""envs/: OpenSpiel's games through our interface, against pyspiel's own states and PettingZoo's own loop."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    KNOWN_ENVIRONMENTS,
    Seeds,
    describe,
    episode_seed,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.envs.bare import BareEnvironment, make_bare
from hpcmarl.envs.native import boards
from hpcmarl.envs.native import game_tree as tree
from hpcmarl.envs.native.counter_rng import uniform
from hpcmarl.envs.resolve import resolve
from hpcmarl.errors import ConfigError, EnvironmentFailure, MissingPackageError
from tests.support.twins import (
    assert_equals_rows,
    assert_equals_slots,
    assert_equals_twin,
    draw_actions,
    play,
)

if importlib.util.find_spec("pyspiel") is None:
    pytest.skip("needs OpenSpiel: pip install 'hpcmarl[league]'", allow_module_level=True)
import pyspiel

TURNS: list[tuple[str, dict[str, Any]]] = [
    ("kuhn_poker", {}),
    ("kuhn_poker", {"players": 3}),
    ("leduc_poker", {}),
    ("connect_four", {}),
    ("tic_tac_toe", {}),
    ("liars_dice", {}),
    ("backgammon", {}),
]
AT_ONCE: list[tuple[str, dict[str, Any]]] = [
    ("matrix_rps", {}),
    ("goofspiel", {"num_cards": 4}),
    ("repeated_game", {"stage_game": {"name": "matrix_pd"}, "num_repetitions": 3}),
    ("oshi_zumo", {"coins": 6}),
]


def config(name: str, kwargs: dict[str, Any], **others: Any) -> EnvConfig:
    return EnvConfig(id=f"openspiel:{name}", kwargs=kwargs, **others)


@pytest.mark.parametrize(("name", "kwargs"), TURNS)
def test_openspiel_turn_games_equal_the_pettingzoo_loop(name: str, kwargs: dict[str, Any]) -> None:
    seeds = Seeds(5, 3)
    environment = make_environment(config(name, kwargs), {}, 2, seeds)
    (policy,) = environment.spec.policies
    assert environment.spec.turn_based
    assert policy.has_mask
    assert policy.agents == tuple(f"player_{player}" for player in range(kwargs.get("players", 2)))
    rows = play(environment, 60)
    for slot in range(2):
        assert_equals_rows(resolve(config(name, kwargs))[1], policy.agents, rows, slot, seeds)


@pytest.mark.parametrize(("name", "kwargs"), AT_ONCE)
def test_games_of_simultaneous_moves_equal_their_twins(name: str, kwargs: dict[str, Any]) -> None:
    class Plain:
        """The game with observations without masks, as the twin expects them."""

        def __init__(self) -> None:
            self.game = resolve(config(name, kwargs))[1]
            self.action_space = self.game.action_space

        def __getattr__(self, key: str) -> Any:
            return getattr(self.game, key)

        def reset(self, seed: int) -> Any:
            seen, infos = self.game.reset(seed)
            return {agent: view["observation"] for agent, view in seen.items()}, infos

        def step(self, actions: Any) -> Any:
            seen, *told = self.game.step(actions)
            return {agent: view["observation"] for agent, view in seen.items()}, *told

    seeds = Seeds(1)
    environment = make_environment(config(name, kwargs), {}, 2, seeds)
    assert not environment.spec.turn_based
    rows = play(environment, 30)
    assert sum(len(row["episodes"]) for row in rows) >= 4
    assert_equals_twin(Plain, environment, rows, seeds, None)


@given(seed=st.integers(0, 2**31 - 1), case=st.sampled_from(TURNS))
@settings(max_examples=60, deadline=None)
def test_observations_and_masks_equal_those_of_pyspiel(seed: int, case: tuple[str, dict[str, Any]]) -> None:
    """Compare with the state that pyspiel rebuilds from the history of moves.

    The mask must allow exactly the legal actions of that state.
    """
    name, kwargs = case
    environment = resolve(config(name, kwargs))[1]
    game = pyspiel.load_game(name, kwargs)
    environment.reset(seed=seed)
    generator, total = np.random.default_rng(seed), np.zeros(game.num_players())
    for _ in range(40):
        if not environment.agents or all(environment.terminations.values()):
            break
        state = game.new_initial_state()
        for action in environment.play.state.history():
            state.apply_action(action)
        for player, agent in enumerate(environment.possible_agents):
            seen = environment.observe(agent)
            tensor = (
                state.information_state_tensor(player)
                if game.get_type().provides_information_state_tensor
                else state.observation_tensor(player)
            )
            np.testing.assert_array_equal(seen["observation"].ravel(), np.array(tensor, np.float32))
            legal = state.legal_actions() if player == state.current_player() else []
            assert np.flatnonzero(seen["action_mask"]).tolist() == legal
        assert environment.agent_selection == f"player_{state.current_player()}"
        environment.step(int(generator.choice(state.legal_actions())))
        total += [environment.rewards[agent] for agent in environment.possible_agents]
        np.testing.assert_allclose(total, environment.play.state.returns(), atol=1e-12)
        assert abs(total.sum()) < 1e-9  # all of these are zero-sum


@pytest.mark.parametrize(("name", "kwargs"), [TURNS[1], TURNS[2], AT_ONCE[1]])
def test_openspiel_seed_repeats_bit_for_bit_others_differ(name: str, kwargs: dict[str, Any]) -> None:
    def history(seed: int) -> list[Any]:
        rows = play(make_environment(config(name, kwargs), {}, 3, Seeds(seed)), 40)
        return [
            row["frame"]["player"]["obs"].tobytes() + row["outcome"]["player"]["reward"].tobytes()
            for row in rows
        ]

    assert history(4) == history(4)
    assert history(4) != history(5)


def test_chance_follows_its_probabilities() -> None:
    """Kuhn poker deals each of the six ordered pairs of cards equally often.

    The expected count is 400 for each pair; six standard deviations are 110.
    """
    environment = resolve(config("kuhn_poker", {}))[1]
    deals: dict[tuple[int, ...], int] = {}
    for number in range(2400):
        environment.reset(seed=episode_seed(9, 0, number))
        deal = tuple(environment.play.state.history())
        deals[deal] = deals.get(deal, 0) + 1
    assert len(deals) == 6
    assert all(abs(count - 400) < 110 for count in deals.values())


@pytest.mark.parametrize("name", ["leduc_poker", "connect_four", "tic_tac_toe", "liars_dice"])
def test_resumed_openspiel_games_continue_identically(name: str) -> None:
    """An environment that takes over in the middle of games continues like the original."""
    original, resumed = (make_environment(config(name, {}), {}, 4, Seeds(3), record=True) for _ in range(2))
    frames, outcomes = (
        [new_frame(original.spec, 4) for _ in range(2)],
        [new_outcome(original.spec, 4) for _ in range(2)],
    )
    generator, ended = np.random.default_rng(0), 0
    original.reset(frames[0])
    for step in range(80):
        if step == 23:
            resumed.load_state_dict(original.state_dict(), frames[1])
            assert resumed.episode_step.max() > 0
        actions = draw_actions(original, frames[0], generator)
        original.step(actions, outcomes[0], frames[0])
        if step >= 23:
            resumed.step(actions, outcomes[1], frames[1])
            assert outcomes[0].episodes == outcomes[1].episodes
            ended += len(outcomes[0].episodes)
            for key in ("obs", "alive", "action_mask"):
                np.testing.assert_array_equal(*(getattr(frame.policies["player"], key) for frame in frames))
    assert ended >= 6


def test_openspiel_players_may_have_separate_policies() -> None:
    spec = describe(
        config("kuhn_poker", {}),
        {"first": PolicyConfig(agents=("player_0",)), "second": PolicyConfig(agents=("player_1",))},
    )
    assert [(policy.name, policy.agents) for policy in spec.policies] == [
        ("first", ("player_0",)),
        ("second", ("player_1",)),
    ]


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("khun_poker", {}, "OpenSpiel has no game khun_poker; did you mean openspiel:kuhn_poker"),
        ("", {}, r"no game \(no name\)"),
        ("kuhn_poker(players=3)", {}, "has no game kuhn_poker"),
        ("kuhn_poker", {"player": 3}, "openspiel:kuhn_poker has no parameter player; allowed: players"),
        (
            "kuhn_poker",
            {"players": 33},
            "env.kwargs {'players': 33} does not fit openspiel:kuhn_poker: .*max_num_players",
        ),
        ("kuhn_poker", {"players": [1]}, "does not fit openspiel:kuhn_poker"),
        ("mfg_garnet", {}, "is a mean-field game"),
    ],
)
def test_invalid_openspiel_settings_raise_one_line_errors(
    name: str, kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        describe(config(name, kwargs), {})
    assert "\n" not in str(caught.value)


def test_unsupported_openspiel_games_are_rejected() -> None:
    unfit = {}
    for kind in pyspiel.registered_games():
        tensors = kind.provides_information_state_tensor or kind.provides_observation_tensor
        if kind.default_loadable and not tensors and kind.dynamics != pyspiel.GameType.Dynamics.MEAN_FIELD:
            unfit[kind.short_name] = "has neither information state nor observation tensors"
        if kind.default_loadable and kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC:
            unfit[kind.short_name] = "draws its chance moves itself"
    assert unfit
    for name, words in unfit.items():
        with pytest.raises(ConfigError, match=words):
            describe(config(name, {}), {})


def test_missing_openspiel_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    tree._walk.cache_clear()
    with pytest.raises(
        MissingPackageError, match=r"openspiel:kuhn_poker needs OpenSpiel.*'hpcmarl\[league\]'"
    ):
        describe(config("kuhn_poker", {}), {})


def test_openspiel_games_are_listed_and_step_bare() -> None:
    listed = [known for known in KNOWN_ENVIRONMENTS if known.id.startswith("openspiel:")]
    assert {known.id for known in listed} >= {
        "openspiel:kuhn_poker",
        "openspiel:leduc_poker",
        "openspiel:connect_four",
    }
    assert all(known.installed and known.package == "hpcmarl[league]" for known in listed)
    for known in listed:
        turn_based = describe(EnvConfig(id=known.id), {}).turn_based
        assert turn_based == (known.kind == "aec")
    for name, kwargs in (TURNS[1], TURNS[4], AT_ONCE[1], AT_ONCE[3]):
        bare = make_bare(config(name, kwargs), 3, Seeds(1))
        for _ in range(60):
            bare.step()
        if (name, kwargs) in TURNS:
            assert bare.steps_per_call == 3
        else:
            assert bare.steps_per_call == 1
            assert isinstance(bare, BareEnvironment)
            assert bare.episode > 1


def small(name: str, kwargs: dict[str, Any]) -> bool:
    return tree.takes(config(name, kwargs))


def test_small_games_are_tabulated_and_boards_batched() -> None:
    assert [small(*game) for game in TURNS] == [True, True, True, False, False, False, False]
    assert not any(small(*game) for game in AT_ONCE)
    assert not tree.takes(config("kuhn_poker", {}, kind="parallel"))
    assert boards.takes(config("connect_four", {}))
    assert not boards.takes(config("connect_four", {"rows": 5}))
    with pytest.raises(ConfigError, match=r"env\.kind parallel: openspiel:kuhn_poker is turn-based"):
        describe(config("kuhn_poker", {}, kind="parallel"), {})


@given(
    game=st.sampled_from(
        [*TURNS[:5], ("deep_sea", {"size": 3}), ("tiny_hanabi", {}), ("dark_hex", {"board_size": 2})]
    ),
    seed=st.integers(0, 1000),
    max_steps=st.one_of(st.none(), st.integers(1, 5)),
    apart=st.booleans(),
)
@example(game=("deep_sea", {"size": 3}), seed=1, max_steps=None, apart=False)
@example(game=("connect_four", {}), seed=2, max_steps=None, apart=True)
@example(game=("leduc_poker", {}), seed=3, max_steps=4, apart=True)
@settings(max_examples=20, deadline=None)
def test_batched_openspiel_games_equal_single_games(
    game: tuple[str, dict[str, Any]], seed: int, max_steps: int | None, apart: bool
) -> None:
    """Compare every element of every frame and outcome."""
    chosen = config(*game, max_steps=max_steps)
    policies = {"second": PolicyConfig(agents=("player_1",))} if apart and game[0] != "deep_sea" else {}
    assert_equals_slots(
        chosen, policies, boards.BoardBatch if chosen.id in boards.VIEWS else tree.TreeBatch, seed
    )


def test_intermediate_rewards_are_paid_at_their_step() -> None:
    """In deep sea, each step to the right costs 0.01 / size, and the last one finds the treasure."""
    environment = make_environment(
        config("deep_sea", {"size": 3, "randomize_actions": False}), {}, 1, Seeds(0)
    )
    assert isinstance(environment, tree.TreeBatch)
    frame, outcome = new_frame(environment.spec, 1), new_outcome(environment.spec, 1)
    environment.reset(frame)
    paid = []
    for _ in range(3):
        environment.step({"player_0": np.ones((1, 1), np.int64)}, outcome, frame)
        paid.append(float(outcome.policies["player_0"].reward[0, 0]))
    assert paid == pytest.approx([-0.01 / 3, -0.01 / 3, 1 - 0.01 / 3])
    assert [episode.return_mean for episode in outcome.episodes] == pytest.approx([0.99])


def test_slots_of_batches_rest_until_they_are_restarted() -> None:
    environment = make_environment(config("kuhn_poker", {}), {}, 3, Seeds(0))
    frame, outcome = new_frame(environment.spec, 3), new_outcome(environment.spec, 3)
    environment.reset(frame)
    environment.rest_slots([1])
    view = frame.policies["player"]
    for _ in range(9):
        environment.step({"player": view.action_mask.argmax(-1)}, outcome, frame)  # type: ignore[union-attr]
        assert view.alive.sum(-1).tolist() == [1, 0, 1]
        assert not view.obs[1].any()
        assert view.action_mask[1].all()  # type: ignore[index]
        assert all(episode.slot != 1 for episode in outcome.episodes)
    before = view.obs[[0, 2]].copy()
    environment.restart_slots([1], frame)
    assert view.alive.sum(-1).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(view.obs[[0, 2]], before)
    assert environment.episode_index[1] == 1


def test_restart_order_does_not_exchange_the_slots() -> None:
    """Kuhn poker's first deal differs from slot to slot."""
    views = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        environment = make_environment(config("kuhn_poker", {}), {}, 6, Seeds(0))
        frame = new_frame(environment.spec, 6)
        environment.reset(frame)
        environment.restart_slots(order, frame)
        views.append(frame.policies["player"].obs.copy())
    np.testing.assert_array_equal(views[0], views[1])
    assert len(np.unique(views[0].reshape(6, -1), axis=0)) > 1


@pytest.mark.parametrize("id", [*boards.VIEWS, "openspiel:kuhn_poker", "matrix:rps"])
def test_empty_rest_and_restart_lists_change_nothing(id: str) -> None:
    environment = make_environment(EnvConfig(id=id), {}, 2, Seeds(0))
    frame = new_frame(environment.spec, 2)
    environment.reset(frame)
    before = [view.obs.copy() for view in frame.policies.values()]
    environment.rest_slots([])
    environment.restart_slots([], frame)
    assert all(map(np.array_equal, before, [view.obs for view in frame.policies.values()]))
    assert environment.episode_index.tolist() == [0, 0]


def test_masked_board_move_raises_with_slot_and_player() -> None:
    environment = make_environment(config("tic_tac_toe", {}), {}, 2, Seeds(0))
    frame, outcome = new_frame(environment.spec, 2), new_outcome(environment.spec, 2)
    environment.reset(frame)
    environment.step({"player": np.array([[3, 0], [4, 0]])}, outcome, frame)
    with pytest.raises(
        EnvironmentFailure,
        match="openspiel:tic_tac_toe in slot 1: player_1 took action 4, which its mask forbids",
    ):
        environment.step({"player": np.array([[0, 0], [0, 4]])}, outcome, frame)


def test_masked_tree_action_raises_with_slot_and_player() -> None:
    environment = make_environment(config("leduc_poker", {}), {}, 2, Seeds(0, 6))
    frame, outcome = new_frame(environment.spec, 2), new_outcome(environment.spec, 2)
    environment.reset(frame)
    with pytest.raises(
        EnvironmentFailure,
        match="openspiel:leduc_poker in slot 6: player_0 took action 0, which its mask forbids",
    ):
        environment.step({"player": np.zeros((2, 2), np.int64)}, outcome, frame)


def test_chance_numbers_equal_splitmix64() -> None:
    """Compare with the algorithm in Python integers, one number after the other.

    The numbers must also be spread evenly.
    """
    whole = 2**64 - 1

    def mix(bits: int) -> int:
        bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & whole
        bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & whole
        return bits ^ bits >> 31

    for seed in (0, 1, 2**31 - 1):
        state, expected = mix((seed + 0x9E3779B97F4A7C15) & whole), []
        for _ in range(5):
            state = (state + 0x9E3779B97F4A7C15) & whole
            expected.append((mix(state) >> 11) / 2**53)
        assert uniform(np.full(5, seed), np.arange(5)).tolist() == expected
    many = uniform(np.repeat(np.arange(500), 20), np.tile(np.arange(20), 500))
    assert abs(np.bincount((many * 10).astype(int), minlength=10) - 1000).max() < 200
    assert len(set(many.tolist())) == len(many)
