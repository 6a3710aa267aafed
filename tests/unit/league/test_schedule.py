"""Evaluation strategies compared with slow versions that examine every pair each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hpcmarl.config.league import EvaluationStrategyConfig
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.league.core.registry import STRATEGIES, make_strategy
from hpcmarl.league.core.schedule import AHEAD
from hpcmarl.packing import pack, unpack

SETTINGS = [
    {"name": "round_robin"},
    {"name": "round_robin", "games_per_pair": 3},
    {"name": "latest", "opponents": 2},
    {"name": "panel", "panel": (1, 4)},
    {"name": "adaptive"},
    {"name": "adaptive", "games_per_pair": 4},
]


def strategy(payoff, sides=("",), cooperative=False, **keys):
    return make_strategy(
        TypeAdapter(EvaluationStrategyConfig).validate_python(keys), payoff, sides, cooperative=cooperative
    )


def literal_pairs(keys, sides_of, sides, cooperative):
    """Return every pair that the strategy should play.

    Args:
        keys: Settings of the strategy.
        sides_of: Snapshot number -> side, in order of age.
        sides: Sides of the game.
        cooperative: Whether the game is cooperative.
    """
    found = set()
    for new, side in sides_of.items():
        older = [old for old in sides_of if old < new and (sides_of[old] != side if len(sides) > 1 else True)]
        if keys["name"] == "latest":
            older = older[-keys["opponents"] :]
        if keys["name"] == "panel" and new not in keys["panel"]:
            older = [old for old in older if old in keys["panel"]]
        found |= {
            (old, new) if sides.index(sides_of[old]) <= sides.index(side) else (new, old) for old in older
        }
        if cooperative and len(sides) == 1:
            found.add((new, new))
    return found


def literal_best(keys, pairs, payoff, playing):
    """Return the most urgent pairs, computed from the definition."""
    urgency = {}
    for pair in pairs:
        games, out = int(payoff.games()[pair]), playing.get(pair, 0)
        if games + out < keys.get("games_per_pair", np.inf):
            mean = (float(payoff.score()[pair]) + 1) / (games + 2)
            width = np.sqrt(mean * (1 - mean) / (games + out + 3))
            urgency[pair] = width if keys["name"] == "adaptive" else -(games + out)
    best = max(urgency.values(), default=None)
    return {pair for pair, value in urgency.items() if value >= best - 1e-6 * abs(best)}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SETTINGS),
    st.sampled_from(["symmetric", "cooperative", "sides"]),
    st.integers(0, 2**32 - 1),
)
def test_next_pair_equals_a_full_search(keys, game, seed):
    rng = np.random.default_rng(seed)
    sides = ("prey", "cats") if game == "sides" else ("",)
    payoff, sides_of, out = Payoff(), {}, {}
    rule = strategy(payoff, sides, game == "cooperative", **keys)
    for step in range(40):
        if step % 5 == 0:
            # A gap in the numbers is a snapshot that was never valid.
            number = payoff.size + int(rng.integers(2))
            payoff.grow(number + 1)
            sides_of[number] = sides[int(rng.integers(len(sides)))]
            rule.add(number, sides_of[number])
        pairs = literal_pairs(keys, sides_of, sides, game == "cooperative")
        assert {tuple(pair) for pair in rule.pairs().tolist()} == pairs
        best = literal_best(keys, pairs, payoff, out)
        pair = rule.next(rng)
        assert pair in best if best else pair is None
        if pair and rng.random() < 0.7:
            rule.begun(*pair, 2)
            out[pair] = out.get(pair, 0) + 2
        if out and rng.random() < 0.6:
            done = list(out)[int(rng.integers(len(out)))]
            # Otherwise the rank that played the match was lost.
            if rng.random() < 0.7:
                payoff.record(*done, 2, float(rng.integers(5)) / 2, 0.0, 0.0, 0.0, 0.0)
            out[done] -= 2
            if not out[done]:
                del out[done]
            rule.ended(*done, 2)


@pytest.mark.parametrize("keys", SETTINGS, ids=str)
def test_concurrent_requests_get_different_pairs(keys):
    payoff, rng = Payoff(), np.random.default_rng(0)
    payoff.grow(9)
    rule = strategy(payoff, **keys)
    for number in range(9):
        rule.add(number)
    given_out = []
    for _ in range(len(rule.pairs())):
        given_out.append(rule.next(rng))
        rule.begun(*given_out[-1], 1)
    assert len(set(given_out)) == len(given_out)


def test_pair_of_a_lost_rank_is_scheduled_again():
    payoff, rng = Payoff(), np.random.default_rng(0)
    payoff.grow(2)
    rule = strategy(payoff, name="round_robin", games_per_pair=4)
    assert rule.next(rng) is None
    rule.add(0)
    assert rule.next(rng) is None
    rule.add(1)
    rule.begun(0, 1, 4)
    assert rule.next(rng) is None
    rule.ended(0, 1, 4)
    assert rule.next(rng) == (0, 1)
    payoff.record(1, 0, 4, 2.0, 0.0, 0.0, 0.0, 0.0)
    rule.ended(0, 1, 0)
    assert rule.next(rng) is None


def test_equally_urgent_pairs_are_drawn_by_seed():
    def draw(generator):
        payoff = Payoff()
        payoff.grow(5)
        rule = strategy(payoff, name="round_robin")
        for number in range(5):
            rule.add(number)
        return rule.next(generator)

    drawn = [draw(np.random.default_rng(seed)) for seed in range(100)]
    assert set(drawn) == {(i, j) for j in range(5) for i in range(j)}
    assert drawn == [draw(np.random.default_rng(seed)) for seed in range(100)]


def test_one_search_of_a_large_pool_serves_many_pairs(monkeypatch):
    payoff, rng = Payoff(), np.random.default_rng(2)
    payoff.grow(40)
    rule = strategy(payoff, name="adaptive")
    for number in range(40):
        rule.add(number)
    looks, look = [], type(rule)._look
    monkeypatch.setattr(
        type(rule), "_look", lambda self, generator: (looks.append(1), look(self, generator))[1]
    )
    for _ in range(3 * AHEAD):
        pair = rule.next(rng)
        assert pair in literal_best(
            {"name": "adaptive"}, {tuple(each) for each in rule.pairs().tolist()}, payoff, rule.playing
        )
        rule.begun(*pair, 2)
    assert len(looks) == 3


@pytest.mark.parametrize("keys", SETTINGS, ids=str)
def test_restored_strategy_equals_one_without_running_matches(keys):
    payoff, rng = Payoff(), np.random.default_rng(5)
    rule = strategy(payoff, ("a", "b"), **keys)
    for number, side in enumerate("abbabaab"):
        payoff.grow(number + 1)
        rule.add(number, side)
        for _ in range(3):
            pair = rule.next(rng)
            if pair:
                payoff.record(*pair, 1, 1.0, 0.0, 0.0, 0.0, 0.0)
                rule.ended(*pair, 0)
    pair = tuple(int(number) for number in rule.pairs()[0])
    again = strategy(payoff, ("a", "b"), **keys)
    again.load_state_dict(unpack(pack(rule.state_dict())))
    np.testing.assert_array_equal(again._urgency, rule._urgency[: len(again._urgency), : len(again._urgency)])
    rule.begun(*pair, 7)
    rule.ended(*pair, 7)
    assert not rule.playing
    np.testing.assert_array_equal(again.pairs(), rule.pairs())
    assert again._urgency[again.next(rng)] == rule._urgency[rule.next(rng)]


def test_quarantined_snapshot_is_no_longer_scheduled():
    payoff, rng = Payoff(), np.random.default_rng(0)
    payoff.grow(6)
    rule = strategy(payoff, name="latest", opponents=2)
    for number in range(5):
        rule.add(number)
    rule.begun(2, 3, 1)
    rule.remove(3)
    rule.ended(2, 3, 1)
    assert not {3} & set(rule.pairs().ravel().tolist())
    rule.add(5)
    assert {tuple(pair) for pair in rule.pairs().tolist()} == {(0, 1), (0, 2), (1, 2), (2, 4), (2, 5), (4, 5)}
    assert 3 not in {number for _ in range(50) for number in rule.next(rng)}
    again = strategy(payoff, name="latest", opponents=2)
    again.load_state_dict(rule.state_dict())
    assert 3 not in again.pairs()


@pytest.mark.parametrize(("number", "side"), [(1, "a"), (3, "a"), (2, "c")])
def test_invalid_snapshot_number_or_side_is_rejected(number, side):
    payoff = Payoff()
    payoff.grow(3)
    rule = strategy(payoff, ("a", "b"), name="round_robin")
    rule.add(1, "a")
    with pytest.raises(ValueError, match=f"snapshot {number} of side '{side}'"):
        rule.add(number, side)


def test_every_strategy_has_a_summary():
    assert all(rule.summary for rule in STRATEGIES.values())
