"""envs/: SMAX as a natively batched environment, against JaxMARL stepped one game at a time.

Compiling takes most of the time. All tests therefore play SLOTS games of 3m, which are compiled once and
without optimisation.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    KNOWN_ENVIRONMENTS,
    BatchedEnvironment,
    Seeds,
    describe,
    episode_seed,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.envs.smax.maps import GAMES, load
from hpcmarl.errors import ConfigError, EnvironmentFailure, MissingPackageError
from hpcmarl.packing import pack, unpack
from tests.support.twins import draw_actions, play

pytestmark = pytest.mark.usefixtures("quick_compiler")
needs_jaxmarl = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs JaxMARL: pip install 'hpcmarl[smax]'"
)
SLOTS = 4
SEEDS = Seeds(7, 10)
MARINES = "smax:3m"


def make(
    policies: dict[str, Any] | None = None, *, record: bool = False, with_state: bool = False, **config: Any
) -> BatchedEnvironment:
    chosen = {name: PolicyConfig(agents=agents) for name, agents in (policies or {}).items()}
    return make_environment(
        EnvConfig(id=MARINES, **config), chosen, SLOTS, SEEDS, record=record, with_state=with_state
    )


class Twin:
    """One game by JaxMARL's own reset, step_env, get_obs and get_avail_actions.

    The state is built unit by unit.
    """

    def __init__(self) -> None:
        load(MARINES)
        import jax
        from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

        self.jax, self.rules = jax, HeuristicEnemySMAX(scenario=map_name_to_scenario("3m"))
        self.look = jax.jit(lambda state: (self.rules.get_obs(state), self.rules.get_avail_actions(state)))

    def key(self, seed: int, step: int) -> Any:
        return self.jax.random.fold_in(self.jax.random.PRNGKey(np.uint32(seed)), step)

    def reset(self, seed: int) -> None:
        self.seed, self.step_number = seed, 0
        _, self.state = self.rules.reset(self.key(seed, 0))

    def step(self, actions: Any) -> tuple[float, dict[str, bool]]:
        """Return the reward of the team, and agent -> whether it is dead."""
        self.step_number += 1
        chosen = {agent: np.int32(action) for agent, action in zip(self.rules.agents, actions, strict=True)}
        _, self.state, rewards, dones, _ = self.rules.step_env(
            self.key(self.seed, self.step_number), self.state, chosen
        )
        return float(rewards["ally_2"]), {agent: bool(dead) for agent, dead in dones.items()}

    def seen(self) -> tuple[Any, Any, Any]:
        """Return the observations [3, 75], the masks [3, 8] and the state [72]."""
        shown, allowed = self.look(self.state)
        masks = np.stack([allowed[name] for name in self.rules.agents]).astype(bool)
        return np.stack([shown[name] for name in self.rules.agents]), masks, self.world()

    def world(self) -> Any:
        """Return the state [72]: rows of six units, then the sides and the types of all units.

        A row holds health, place and cooldown as shares of their maxima, and the type as a one-hot vector.
        The row of a dead unit is zero.
        """
        game, rows = self.state.state, []
        for unit in range(6):
            row, kind = np.zeros(10, np.float32), int(game.unit_types[unit])
            if game.unit_alive[unit]:
                row[0] = game.unit_health[unit] / self.rules.unit_type_health[kind]
                row[1:3] = np.asarray(game.unit_positions[unit]) / 32
                row[3] = min(
                    1.0,
                    max(0.0, game.unit_weapon_cooldowns[unit] / self.rules.unit_type_weapon_cooldowns[kind]),
                )
                row[4 + kind] = 1.0
            rows.append(row)
        return np.concatenate([*rows, np.asarray(game.unit_teams), np.asarray(game.unit_types) / 5])

    def won(self) -> bool:
        units = np.asarray(self.state.state.unit_alive)
        return bool(units[:3].any() and not units[3:].any())


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


@needs_jaxmarl
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_draws_without_loops_equal_those_of_jax(seed: int) -> None:
    load(MARINES)
    import jax

    from hpcmarl.envs.smax.draws import key_of

    def draw(key: Any) -> Any:
        folded = jax.random.fold_in(key, 2**31 + 5)
        first, second, third = jax.random.split(folded, 3)
        chances = jax.numpy.array([0.1, 0.0, 0.6, 0.3])
        bits = [jax.random.bits(third, (2, 3), f"uint{width}") for width in (8, 16, 32)]
        many = jax.vmap(lambda each: jax.random.uniform(each, minval=-0.5))(
            jax.random.split(second, (2, 5)).reshape(-1)
        )
        return (
            bits,
            many,
            jax.random.choice(first, 4, (20,), p=chances),
            jax.random.categorical(second, jax.numpy.log(chances), shape=(9,)),
        )

    def draw_long(key: Any) -> Any:
        with jax.enable_x64(True):
            return jax.random.bits(key, (2, 3), "uint64")

    keys = key_of(np.uint32(seed)), jax.random.key(np.uint32(seed))
    drawn, expected = ((draw(key), draw_long(key)) for key in keys)
    for ours, jaxs in zip(jax.tree.leaves(drawn), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jaxs.dtype
        np.testing.assert_array_equal(ours, jaxs)


@needs_jaxmarl
def test_compiling_does_without_an_option_jax_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    games = load(MARINES)
    import jax

    lowered = jax.jit(lambda number: number + 1).lower(1)
    monkeypatch.setattr(games, "PLAIN_SUMS", {"xla_cpu_option_of_another_version": ""})
    assert games._compile(lowered)(1) == 2
    monkeypatch.setattr(games, "COMPILER", {"xla_cpu_option_of_no_version": ""})
    with pytest.raises(RuntimeError, match="xla_cpu_option_of_no_version"):
        games._compile(lowered)


@pytest.mark.slow("JAX compiles the game")
@needs_jaxmarl
@pytest.mark.parametrize("max_steps", [None, 9])
def test_smax_games_equal_jaxmarl(max_steps: int | None, twin: Twin) -> None:
    environment = make(with_state=True, max_steps=max_steps)
    (policy,) = environment.spec.policies
    assert (policy.name, policy.agents, policy.observation_shape, policy.action.sizes, policy.has_mask) == (
        "ally",
        ("ally_0", "ally_1", "ally_2"),
        (75,),
        (8,),
        True,
    )
    rows = play(environment, 35, with_state=True)
    for slot in (0, 3):
        check_slot(twin, rows, slot, max_steps)
    episodes = [episode for row in rows for episode in row["episodes"]]
    assert len(episodes) >= SLOTS
    assert {episode.terminated for episode in episodes} >= {max_steps is None}


def check_slot(twin: Twin, rows: list[dict[str, Any]], slot: int, max_steps: int | None) -> None:
    episode, first = -1, True
    for number, row in enumerate(rows):
        where = f"slot {slot} row {number}"
        if first:
            episode, length, total = episode + 1, 0, 0.0
            twin.reset(episode_seed(SEEDS.seed, SEEDS.first_slot + slot, episode))
            alive = np.ones(3, bool)
            expected, masks, world = twin.seen()
        shown, came = row["frame"]["ally"], row["outcome"]["ally"]
        assert row["start"][slot] == first, where
        np.testing.assert_array_equal(shown["alive"][slot], alive, err_msg=where)
        np.testing.assert_allclose(shown["obs"][slot], expected, rtol=1e-4, atol=1e-5, err_msg=where)
        assert not shown["obs"][slot][~alive].any(), where
        np.testing.assert_array_equal(shown["action_mask"][slot], masks | ~alive[:, None], err_msg=where)
        np.testing.assert_allclose(row["state"][slot], world, rtol=1e-4, atol=1e-4, err_msg=where)
        reward, dead = twin.step(row["actions"]["ally"][slot])
        expected, masks, world = twin.seen()
        length, total = length + 1, total + reward
        np.testing.assert_allclose(came["reward"][slot], reward, rtol=1e-4, atol=1e-6, err_msg=where)
        survivors = np.array([not dead[f"ally_{index}"] for index in range(3)])
        decided = not survivors.any() or not np.asarray(twin.state.state.unit_alive)[3:].any()
        first = decided or length == (max_steps or 100)
        truncated = alive & survivors & (first and not decided)
        np.testing.assert_array_equal(came["truncated"][slot], truncated, err_msg=where)
        np.testing.assert_array_equal(came["terminated"][slot], alive & (~survivors | decided), err_msg=where)
        assert row["end"][slot] == (0 if not first else 1 if decided else 2), where
        finals = [final for final in row["finals"] if final.slot == slot]
        assert len(finals) == (first and not decided), where
        for final in finals:
            np.testing.assert_allclose(final.obs["ally"], expected, rtol=1e-4, atol=1e-5, err_msg=where)
            np.testing.assert_allclose(final.state, world, rtol=1e-4, atol=1e-4, err_msg=where)
        told = [each for each in row["episodes"] if each.slot == slot]
        assert len(told) == first, where
        for each in told:
            assert (each.index, each.length, each.terminated, each.outcome) == (
                episode,
                length,
                decided,
                {"win": float(twin.won())},
            ), where
            assert each.return_mean == pytest.approx(total, abs=1e-4)
        alive = survivors


def fight(environment: BatchedEnvironment, frame: Any) -> dict[str, Any]:
    """Shoot the first enemy in range; without one, walk east towards the enemies."""
    actions = {}
    for policy in environment.spec.policies:
        mask = frame.policies[policy.name].action_mask
        actions[policy.name] = np.where(mask[..., 5:].any(-1), 5 + mask[..., 5:].argmax(-1), 1)
    return actions


@needs_jaxmarl
def test_smax_wins_match_the_episode_return() -> None:
    environment = make()
    frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
    environment.reset(frame)
    wins, losses = 0, 0
    for _ in range(160):
        environment.step(fight(environment, frame), outcome, frame)
        for episode in outcome.episodes:
            won = episode.outcome["win"] == 1.0
            wins, losses = wins + won, losses + (not won)
            # The health of all enemies is worth 1 together, a win 1 more.
            assert (episode.return_mean > 1.9) == won
    assert wins > 0
    assert losses > 0


@needs_jaxmarl
def test_smax_seed_determines_a_game_in_any_slot() -> None:
    def run(first_slot: int) -> Any:
        environment = make_environment(EnvConfig(id=MARINES), {}, SLOTS, Seeds(7, first_slot))
        frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
        environment.reset(frame)
        seen = []
        for _ in range(30):
            environment.step(fight(environment, frame), outcome, frame)
            seen.append(frame.policies["ally"].obs.copy())
        return np.stack(seen, 1)

    one = run(10)
    np.testing.assert_array_equal(one, run(10))
    np.testing.assert_array_equal(one[2:], run(12)[:2])
    assert not np.array_equal(one[0], one[1])


@needs_jaxmarl
def test_smax_slots_restart_and_rest_separately() -> None:
    environment = make()
    frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
    environment.reset(frame)
    actions = {"ally": np.full((SLOTS, 3), 4)}
    environment.step(actions, outcome, frame)
    before = frame.policies["ally"].obs.copy()
    environment.restart_slots([1], frame)
    assert environment.episode_index.tolist() == [0, 1, 0, 0]
    assert environment.episode_step.tolist() == [1, 0, 1, 1]
    assert frame.episode_start.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(frame.policies["ally"].obs[[0, 2, 3]], before[[0, 2, 3]])
    assert not np.array_equal(frame.policies["ally"].obs[1], before[1])
    environment.rest_slots([2])
    for _ in range(60):
        environment.step(actions, outcome, frame)
        assert frame.policies["ally"].alive.any(1).tolist() == [True, True, False, True]
        assert not frame.policies["ally"].obs[2].any()
        assert not outcome.policies["ally"].reward[2].any()
        assert not (outcome.policies["ally"].terminated[2] | outcome.policies["ally"].truncated[2]).any()
        assert all(episode.slot != 2 for episode in outcome.episodes)
    assert environment.episode_index[2] == 0
    assert environment.episode_index[0] > 0
    environment.restart_slots([2], frame)
    assert environment.episode_index[2] == 1
    assert frame.policies["ally"].alive[2].all()


@needs_jaxmarl
def test_smax_slots_that_rest_next_keep_their_last_reward() -> None:
    def last_rewards(rests: bool) -> dict[int, list[float]]:
        environment, found = make(), dict[int, list[float]]()
        frame, outcome = new_frame(environment.spec, SLOTS), new_outcome(environment.spec, SLOTS)
        environment.rests_next[:] = rests
        environment.reset(frame)
        while len(found) < SLOTS:
            targets = frame.policies["ally"].action_mask[..., 5:]
            chosen = np.where(targets.any(-1), 5 + targets.argmax(-1), 4)
            environment.step({"ally": chosen}, outcome, frame)
            for episode in outcome.episodes:
                found.setdefault(episode.slot, outcome.policies["ally"].reward[episode.slot].tolist())
        return found

    kept = last_rewards(True)
    assert any(map(any, kept.values()))
    assert kept == last_rewards(False)


@needs_jaxmarl
def test_smax_policies_may_split_the_team() -> None:
    whole, split = make(), make({"last": ("ally_2",)})
    assert [(policy.name, policy.agents) for policy in split.spec.policies] == [
        ("ally", ("ally_0", "ally_1")),
        ("last", ("ally_2",)),
    ]
    frames = [new_frame(environment.spec, SLOTS) for environment in (whole, split)]
    outcomes = [new_outcome(environment.spec, SLOTS) for environment in (whole, split)]
    whole.reset(frames[0])
    split.reset(frames[1])
    for _ in range(25):
        actions = fight(whole, frames[0])["ally"]
        whole.step({"ally": actions}, outcomes[0], frames[0])
        split.step({"ally": actions[:, :2], "last": actions[:, 2:]}, outcomes[1], frames[1])
        for name in ("obs", "alive", "action_mask"):
            parts = [getattr(frames[1].policies[policy], name) for policy in ("ally", "last")]
            np.testing.assert_array_equal(np.concatenate(parts, 1), getattr(frames[0].policies["ally"], name))
        assert [e.return_mean for e in outcomes[0].episodes] == pytest.approx(
            [e.return_mean for e in outcomes[1].episodes]
        )


@needs_jaxmarl
@pytest.mark.parametrize("step", [0, 17])
def test_resumed_smax_games_continue_identically(step: int) -> None:
    original, resumed = make(record=True), make(record=True)
    frames = [new_frame(original.spec, SLOTS) for _ in range(2)]
    outcomes = [new_outcome(original.spec, SLOTS) for _ in range(2)]
    generator = np.random.default_rng(step)
    original.reset(frames[0])
    for _ in range(step):
        original.step(draw_actions(original, frames[0], generator), outcomes[0], frames[0])
    resumed.load_state_dict(unpack(bytes(pack(original.state_dict()))), frames[1])
    for _ in range(20):
        for name in ("obs", "alive", "action_mask"):
            np.testing.assert_array_equal(
                getattr(frames[0].policies["ally"], name), getattr(frames[1].policies["ally"], name)
            )
        np.testing.assert_array_equal(frames[0].episode_start, frames[1].episode_start)
        np.testing.assert_array_equal(original.episode_step, resumed.episode_step)
        actions = draw_actions(original, frames[0], generator)
        original.step(actions, outcomes[0], frames[0])
        resumed.step(actions, outcomes[1], frames[1])
        np.testing.assert_array_equal(
            outcomes[0].policies["ally"].reward, outcomes[1].policies["ally"].reward
        )
        assert outcomes[0].episodes == outcomes[1].episodes


@needs_jaxmarl
def test_smax_resume_on_other_slots_starts_new_episodes() -> None:
    environment = make(record=True)
    play(environment, 3)
    state = environment.state_dict()
    frame = new_frame(environment.spec, SLOTS)
    plain = make()
    plain.load_state_dict(state, frame)
    assert plain.episode_index.tolist() == [1] * SLOTS
    assert plain.episode_step.tolist() == [0] * SLOTS
    other = make(record=True)
    other.load_state_dict({"restarts": 0, "episode": np.array([5])}, frame)
    assert other.episode_index.tolist() == [6] * SLOTS
    assert frame.episode_start.all()
    state["games"]["state_unit_health"] = state["games"]["state_unit_health"][:, :2]
    with pytest.raises(
        EnvironmentFailure,
        match=r"the saved games do not fit \(state_unit_health is float32 \(4, 2\), not float32 \(4, 6\)\)",
    ):
        other.load_state_dict(state, frame)


@needs_jaxmarl
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"id": "smax:3n"}, r"env.id smax:3n: SMAX has no map 3n; allowed: smax:3m, .*smax:smacv2_20_units$"),
        ({"id": "smax"}, r"SMAX has no map \(no name\)"),
        (
            {"id": MARINES, "kwargs": {"wheels": 4}},
            r"env.kwargs {'wheels': 4} does not fit smax:3m: .*wheels",
        ),
        (
            {"id": MARINES, "kwargs": {"observation_type": "round"}},
            "does not fit smax:3m: Unknown observation_type: 'round'",
        ),
        ({"id": MARINES, "kwargs": {"num_allies": 4}}, "env.kwargs.num_allies: 4 contradicts env.id smax:3m"),
        (
            {"id": MARINES, "kwargs": {"attack_mode": "kind"}},
            "env.kwargs.attack_mode: 'kind' is unknown to smax:3m; allowed: closest, random",
        ),
        ({"id": MARINES, "kind": "aec"}, "env.kind aec: smax:3m is not turn-based"),
    ],
)
def test_invalid_smax_settings_raise_one_line_errors(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        describe(EnvConfig(**config), {})
    assert "\n" not in str(caught.value)


def test_missing_jaxmarl_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, GAMES, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError,
        match=(
            r"env.id smax:3m needs the package jaxmarl, which is not installed; pip install "
            r"'hpcmarl\[smax\]'$"
        ),
    ):
        describe(EnvConfig(id=MARINES), {})


@needs_jaxmarl
def test_known_smax_maps_exist_and_accept_arguments() -> None:
    module: Any = load(MARINES)
    listed = [known.id for known in KNOWN_ENVIRONMENTS if known.package == "hpcmarl[smax]"]
    assert MARINES in listed
    assert {id.removeprefix("smax:") for id in listed} <= set(module.map_names())
    five = describe(EnvConfig(id="smax:5m_vs_6m"), {})
    assert (len(five.policies[0].agents), five.policies[0].action.sizes, five.state_size) == (5, (11,), 132)
    assert five.teams == (("ally",),)
    assert describe(EnvConfig(id="smax:5m_vs_6m", common_reward=False), {}).teams == ()
    free = describe(
        EnvConfig(
            id=MARINES,
            kwargs={"action_type": "continuous", "unit_type_health": [45.0, 125.0, 160.0, 150.0, 35.0, 80.0]},
        ),
        {},
    )
    assert (free.policies[0].action.kind, free.policies[0].action.sizes, free.policies[0].has_mask) == (
        "continuous",
        (4,),
        False,
    )


@needs_jaxmarl
def test_bare_smax_stepping_counts_every_slot() -> None:
    bare = make_bare(EnvConfig(id=MARINES), SLOTS, Seeds(0))
    assert bare.steps_per_call == SLOTS
    count, seconds = step_bare(bare, 1e-3)
    assert (count, seconds > 0) == (25 * SLOTS, True)
    bare.close()
