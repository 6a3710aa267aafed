"""A game seen from one side: what is hidden, what is paid, who replies; against the bare game stepped with the same actions."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import EnvConfig, MATraceConfig, NetworkConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.pool import Pool, write_snapshot
from hpcmarl.roles.opponents import SELF, Opponents
from hpcmarl.roles.versus import Sides, Versus, side_of

TAG = EnvConfig(id="mpe2.simple_tag_v3", kwargs={"max_cycles": 6})
TAG_POLICIES = {"predators": PolicyConfig(agents=("adversary_*",)), "prey": PolicyConfig(agents=("agent_*",))}
TICTACTOE = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
SPREAD = EnvConfig(id="mpe2.simple_spread_v3", kwargs={"max_cycles": 5})


def win(own, other):
    return 0.5 if own == other else float(own > other)


class Listening:
    """An environment that keeps the actions it is stepped with."""

    def __init__(self, environment):
        self.environment, self.heard = environment, []

    def __getattr__(self, name):
        return getattr(self.environment, name)

    def step(self, actions, outcome, frame):
        self.heard.append({name: np.array(action) for name, action in actions.items()})
        self.environment.step(actions, outcome, frame)


def make(tmp_path, config, policies, sides, slots=4, own_share=0.0, recurrent=False, critic="dec", names=("other-000001", "other-000002")):
    """The game, the member's policy and what the others are."""
    spec = describe(config, policies)
    settings = MATraceConfig(critic=critic, network=NetworkConfig(hidden=(8,), recurrent=recurrent))
    theirs = side_of(spec, sides.other)
    for seed, name in enumerate(names, 1):
        write_snapshot(tmp_path, name, make_algorithm(theirs, settings, seed).initial_parameters(), {})
    opponents = Opponents(Pool(tmp_path, 4), lambda: make_algorithm(theirs, settings, 0), np.random.default_rng(0), at_once=2, stay=2)
    opponents.change(names, np.full(len(names), (1 - own_share) / len(names)), own_share)
    bare = Listening(make_environment(config, policies, slots, Seeds(3)))
    versus = Versus(bare, sides, opponents, win, np.random.default_rng(1))
    own = make_algorithm(side_of(spec, sides.own), settings, 9)
    return versus, own, opponents


def play(versus, own, steps):
    """Frames (copied), outcomes and who had which seats, step by step."""
    frames = [new_frame(versus.spec, versus.slots), new_frame(versus.spec, versus.slots)]
    memory, generator, told = own.initial_memory(versus.slots), np.random.default_rng(2), []
    versus.reset(frames[0])
    for _ in range(steps):
        outcome = new_outcome(versus.spec, versus.slots)
        decisions = own.act(frames[0], memory, generator)
        for name, decision in decisions.items():
            if decision.memory is not None:
                memory[name] = decision.memory
        seats = {name: array.copy() for name, array in versus.own.items()}
        who = list(versus.who)
        versus.step({name: decision.action for name, decision in decisions.items()}, outcome, frames[1])
        seen = {name: (part.obs.copy(), part.alive.copy()) for name, part in frames[0].policies.items()}
        told.append((seen, decisions, outcome, seats, who))
        frames.reverse()
    return told


@pytest.mark.parametrize(
    ("config", "policies", "sides"),
    [
        (TICTACTOE, {}, Sides(("player",), ("player",))),
        (SPREAD, {}, Sides(("agent",), ("agent",), own_seats=2)),
        (TAG, TAG_POLICIES, Sides(("predators",), ("prey",))),
        (TAG, TAG_POLICIES, Sides(("prey",), ("predators",))),
    ],
    ids=["tictactoe", "spread", "predators", "prey"],
)
def test_versus_environment_masks_but_preserves_the_game(tmp_path, config, policies, sides):
    versus, own, _ = make(tmp_path, config, policies, sides)
    told = play(versus, own, 40)
    twin = make_environment(config, policies, versus.slots, Seeds(3))
    frames = [new_frame(twin.spec, twin.slots), new_frame(twin.spec, twin.slots)]
    twin.reset(frames[0])
    for (seen, decisions, outcome, seats, _), heard in zip(told, versus.environment.heard, strict=True):
        bare = new_outcome(twin.spec, twin.slots)
        for name in sides.own:
            obs, alive = seen[name]
            np.testing.assert_array_equal(obs, frames[0].policies[name].obs)
            np.testing.assert_array_equal(alive, frames[0].policies[name].alive & seats[name])
            np.testing.assert_array_equal(heard[name][alive], decisions[name].action[alive])  # what was decided is what is played
        twin.step(heard, bare, frames[1])
        for name in sides.own:
            np.testing.assert_array_equal(outcome.policies[name].reward, bare.policies[name].reward * seats[name])
            np.testing.assert_array_equal(outcome.policies[name].terminated, bare.policies[name].terminated & seats[name])
        np.testing.assert_array_equal(outcome.episode_end, bare.episode_end)
        frames.reverse()
    assert sum(len(outcome.episodes) for _, _, outcome, _, _ in told) > 4


def test_episode_records_own_return_and_opponent(tmp_path):
    versus, own, opponents = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)))
    told = play(versus, own, 60)
    earned, counted = np.zeros((4, 2)), {}
    for _, _, outcome, seats, who in told:
        earned += outcome.policies["player"].reward
        for episode in outcome.episodes:
            own_seat = seats["player"][episode.slot]
            assert own_seat.sum() == 1
            result = earned[episode.slot][own_seat][0]
            assert episode.return_mean == result
            assert episode.outcome == {"win": win(result, -result), "other_return": -result}  # the game is zero-sum
            counted.setdefault(who[episode.slot], []).append(result)
            earned[episode.slot] = 0.0
    played = opponents.take_played()
    assert {name: row.games for name, row in played.items()} == {name: len(results) for name, results in counted.items()}
    assert len(played) == 2
    for name, results in counted.items():
        expected = [
            len(results),
            sum(win(r, -r) for r in results),
            sum(results),
            sum(r * r for r in results),
            -sum(results),
            sum(r * r for r in results),
        ]
        assert played[name].row() == pytest.approx(expected)


def test_seats_alternate_by_episode_and_slot(tmp_path):
    versus, own, _ = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)))
    told = play(versus, own, 60)
    first = told[0][3]["player"].argmax(axis=1)
    assert first.tolist() == [0, 1, 0, 1]
    had = {(slot, int(seats["player"][slot].argmax())) for _, _, _, seats, _ in told for slot in range(4)}
    assert had == {(slot, seat) for slot in range(4) for seat in range(2)}


def test_self_play_uses_all_seats_and_records_no_games(tmp_path):
    versus, own, opponents = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)), own_share=1.0)
    told = play(versus, own, 30)
    assert all(seats["player"].all() for _, _, _, seats, _ in told)
    assert all(name == SELF for _, _, _, _, who in told for name in who)
    assert any(outcome.episodes for _, _, outcome, _, _ in told)
    assert opponents.take_played() == {}


def test_recurrent_opponent_memory_resets_each_episode(tmp_path):
    sides = Sides(("predators",), ("prey",))
    versus, own, opponents = make(tmp_path, TAG, TAG_POLICIES, sides, slots=1, recurrent=True, names=("other-000001",))
    versus.greedy = True
    play(versus, own, 15)  # episodes of six steps
    replies = [heard["prey"] for heard in versus.environment.heard]
    twin = make_environment(TAG, TAG_POLICIES, 1, Seeds(3))
    policy = opponents.policy("other-000001")
    frames, memory = [new_frame(twin.spec, 1), new_frame(twin.spec, 1)], policy.initial_memory(1)
    twin.reset(frames[0])
    for step, heard in enumerate(versus.environment.heard):
        if frames[0].episode_start[0]:
            memory = policy.initial_memory(1)
        frame = type(frames[0])({"prey": frames[0].policies["prey"]}, None, frames[0].episode_start)
        decision = policy.act(frame, memory, np.random.default_rng(0), greedy=True)["prey"]
        np.testing.assert_array_equal(replies[step], decision.action)
        memory = {"prey": decision.memory}
        twin.step(heard, new_outcome(twin.spec, 1), frames[1])
        frames.reverse()


# ---- opponents


class Numbered:
    """A policy of one parameter."""

    size = 1

    def load_parameters(self, vector):
        self.number = int(vector[0])


def some(tmp_path, count, **settings):
    for number in range(count):
        write_snapshot(tmp_path, f"m-{number:06d}", np.array([number], np.float32), {})
    opponents = Opponents(Pool(tmp_path, 2), Numbered, np.random.default_rng(0), **settings)
    opponents.change([f"m-{number:06d}" for number in range(count)], np.arange(count) / np.arange(count).sum(), 0.0)
    return opponents


def test_opponent_draws_follow_weights_with_few_loaded(tmp_path):
    opponents = some(tmp_path, 5, at_once=3, stay=2)
    drawn, held = np.zeros(5), []
    for _ in range(4000):
        name = opponents.draw()
        number = int(name[-1])
        assert opponents.policy(name).number == number
        drawn[number] += 1
        held.append(name)
        if len(held) > 4:
            opponents.give_back(held.pop(0))
        assert len(set(held)) <= 5
    np.testing.assert_allclose(drawn / drawn.sum(), np.arange(5) / 10, atol=0.03)
    assert drawn[0] == 0


def test_self_play_share_is_drawn_at_its_rate(tmp_path):
    opponents = some(tmp_path, 3)
    opponents.change(["m-000001"], np.array([0.25]), 0.75)
    drawn = [opponents.draw() for _ in range(2000)]
    assert np.mean([name == SELF for name in drawn]) == pytest.approx(0.75, abs=0.04)


def test_damaged_opponent_is_quarantined_and_replaced(tmp_path):
    opponents = some(tmp_path, 3)
    (tmp_path / "m-000002.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    drawn = {opponents.draw() for _ in range(50)}
    assert drawn == {"m-000001"}
    assert opponents.bad == {"m-000002"}
    assert (tmp_path / "quarantine" / "m-000002.h5").exists()
    assert not (tmp_path / "m-000002.h5").exists()


def test_no_readable_opponent_raises(tmp_path):
    opponents = some(tmp_path, 2)
    (tmp_path / "m-000001.h5").unlink()
    opponents.change(["m-000001"], np.ones(1), 0.0)
    with pytest.raises(HpcmarlError, match="none of the 1 opponents can be read"):
        opponents.draw()


def test_pool_cache_is_bounded_and_rejects_wrong_sizes(tmp_path):
    for number in range(5):
        write_snapshot(tmp_path, f"m-{number:06d}", np.full(3, number, np.float32), {"member": "m"})
    pool = Pool(tmp_path, 2)
    for number in (0, 1, 2, 1, 4):
        assert pool.parameters(f"m-{number:06d}", 3).tolist() == [number] * 3
        assert len(pool._kept) <= 2
    assert list(pool._kept) == ["m-000001", "m-000004"]
    with pytest.raises(FormatError, match="3 parameters where the configuration makes 4"):
        pool.parameters("m-000003", 4)
    with pytest.raises(FloatingPointError, match="not finite"):
        write_snapshot(tmp_path, "m-000009", np.array([np.nan], np.float32), {})
