"""Matchmakers compared with their formulas, and draws compared with their distribution."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hpcmarl.errors import HpcmarlError
from hpcmarl.league.core.matchmaking import SELF, Mixture, View, make_mixture
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.league.core.registry import MATCHMAKERS, make_matchmaker
from hpcmarl.packing import pack, unpack
from tests.support.matchmaking import probabilities, section

scores = st.lists(st.floats(0, 1), min_size=1, max_size=9)
# Scores of up to a million games. Nearer to 0 and 1, rounding makes 1 - (1 - x) differ from x. Weights that
# are zero in one form of a formula would then be positive in another.
scores_of_games = st.lists(st.integers(0, 10**6).map(lambda points: points / 10**6), min_size=1, max_size=9)


def view(live_score, *, candidates=None, owners=None, member=0, self_play=True, payoff=None):
    numbers = np.arange(len(live_score)) * 2 if candidates is None else np.asarray(candidates, np.int64)
    owners = np.zeros(len(numbers), np.int64) if owners is None else np.asarray(owners)
    return View(
        numbers,
        np.asarray(live_score, np.float64),
        owners,
        member,
        numbers,
        payoff or Payoff(),
        self_play=self_play,
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(MATCHMAKERS) - {"psro", "fixed"})), scores, st.floats(0, 1), st.booleans())
def test_every_mixture_is_a_distribution_with_its_self_share(name, live, share, self_play):
    owners = np.arange(len(live)) % 3
    mixture = make_matchmaker(section(name=name, self_share=share)).mixture(
        view(live, owners=owners, self_play=self_play)
    )
    assert (mixture.weights >= 0).all()
    assert mixture.self_share + mixture.weights.sum() == pytest.approx(1.0)
    nobody_else = name == "partners" and len(live) == 1 and self_play
    assert mixture.self_share == (1.0 if nobody_else else pytest.approx(share) if self_play else 0.0)


@settings(max_examples=60, deadline=None)
@given(scores_of_games, st.floats(0.5, 4))
def test_pfsp_weights_equal_the_alphastar_formula(live, power):
    formulas = {
        "hard": lambda x: (1 - x) ** power,
        "var": lambda x: x * (1 - x),
        "linear": lambda x: 1 - x,
        "linear_capped": lambda x: min(0.5, 1 - x),
    }
    for weighting, formula in formulas.items():
        weights = [formula(x) for x in live]
        expected = (
            [w / sum(weights) for w in weights] if sum(weights) > 1e-10 else [1 / len(live)] * len(live)
        )
        mixture = make_matchmaker(section(name="pfsp", weighting=weighting, power=power)).mixture(view(live))
        np.testing.assert_allclose(mixture.weights, expected, atol=1e-12)


def test_pfsp_is_uniform_when_all_scores_are_one():
    mixture = make_matchmaker(section(name="pfsp")).mixture(view([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(mixture.weights, 1 / 3)


def test_rounded_scores_outside_the_unit_range_have_weights():
    seen = view([np.nextafter(1.0, 2.0), -1e-17, 0.5])
    for weighting in ("hard", "var", "linear", "linear_capped"):
        weights = make_matchmaker(section(name="pfsp", weighting=weighting, power=2.5)).mixture(seen).weights
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0)


def test_latest_uniform_and_partners_have_expected_weights():
    live = [0.5] * 4
    assert probabilities(make_matchmaker(section(name="latest")).mixture(view(live)))[SELF] == 1.0
    assert probabilities(make_matchmaker(section(name="latest", self_share=0.25)).mixture(view(live))) == {
        SELF: 0.25,
        0: 0,
        2: 0,
        4: 0,
        6: 0.75,
    }
    assert probabilities(make_matchmaker(section(name="uniform")).mixture(view(live))) == {
        SELF: 0,
        0: 0.25,
        2: 0.25,
        4: 0.25,
        6: 0.25,
    }
    owners = [1, 0, 2, 0]
    assert probabilities(make_matchmaker(section(name="partners")).mixture(view(live, owners=owners))) == {
        SELF: 0,
        0: 0.5,
        2: 0,
        4: 0.5,
        6: 0,
    }
    assert (
        make_matchmaker(section(name="partners", pool="all"))
        .mixture(view(live, owners=owners))
        .weights.tolist()
        == [0.25] * 4
    )


def test_fixed_plays_only_the_newest_snapshot_of_its_members():
    names = ("a", "b", "c")
    seen = replace(view([0.9, 0.1, 0.5, 0.5], owners=[1, 0, 2, 1]), names=names)
    assert probabilities(make_matchmaker(section(name="fixed")).mixture(seen)) == {
        SELF: 0,
        0: 0,
        2: 0,
        4: 0.5,
        6: 0.5,
    }
    assert probabilities(make_matchmaker(section(name="fixed", against=["b"])).mixture(seen)) == {
        SELF: 0,
        0: 0,
        2: 0,
        4: 0,
        6: 1,
    }
    partly = make_matchmaker(section(name="fixed", against=["a", "c"], self_share=0.2)).mixture(seen)
    assert probabilities(partly) == {SELF: 0.2, 0: 0, 2: 0.4, 4: 0.4, 6: 0}
    gone = replace(view([0.9], owners=[0]), names=names)
    with pytest.raises(HpcmarlError, match="no snapshot of b, c verifies"):
        make_matchmaker(section(name="fixed", against=["b", "c"], self_share=0.5)).mixture(gone)
    with pytest.raises(HpcmarlError, match="no snapshot of the other members verifies"):
        make_matchmaker(section(name="fixed")).mixture(gone)


def test_self_share_goes_to_the_newest_without_self_play():
    mixture = make_matchmaker(section(name="quality")).mixture(view([0.5, 0.5], self_play=False))
    assert probabilities(mixture) == pytest.approx({SELF: 0.0, 0: 0.1, 2: 0.9})
    assert make_matchmaker(section(name="uniform")).mixture(view([])).draw(np.random.default_rng(0)) == SELF
    with pytest.raises(ValueError, match="into the pool"):
        make_matchmaker(section(name="uniform")).mixture(view([], self_play=False))


def quality_twin(q, wins, rate):
    """Apply q_i <- q_i - eta / (N p_i) for one victory after another; a step is at most 1."""
    q = dict(q)
    for i in wins:
        p = np.exp(q[i]) / sum(np.exp(value) for value in q.values())
        q[i] -= min(1.0, rate / (len(q) * p))
    return q


# enough victories that the score would fall by more than 1
@example(5, [(0, 1, 3)] * 8)
@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 3)), max_size=15),
)
def test_quality_scores_follow_the_openai_five_rule(count, results):
    matchmaker = make_matchmaker(section(name="quality", rate=0.05))
    numbers = np.arange(count) * 2
    first = view(np.full(count, 0.5))
    assert matchmaker.mixture(first).weights == pytest.approx(0.2 / count)
    q = dict.fromkeys(numbers.tolist(), 0.0)
    for place, games, wins in results:
        opponent = int(numbers[place % count])
        matchmaker.on_result(opponent, max(games, wins), float(wins))
        q = quality_twin(q, [opponent] * wins, 0.05)
    again = make_matchmaker(section(name="quality"))
    again.load_state_dict(unpack(pack(matchmaker.state_dict())))
    expected = np.exp(list(q.values())) / np.exp(list(q.values())).sum()
    for each in (matchmaker, again):
        np.testing.assert_allclose(each.mixture(first).weights, 0.2 * expected, rtol=1e-9)


def test_new_snapshot_gets_the_highest_remaining_quality():
    matchmaker = make_matchmaker(section(name="quality", rate=0.3))
    matchmaker.mixture(view([0.5] * 3))
    for number in (0, 0, 2):
        matchmaker.on_result(number, 1, 1.0)
    before = matchmaker.quality.copy()
    assert before[0] < before[1] < before[2] == 0.0
    matchmaker.mixture(view([0.5] * 3, candidates=[0, 2, 7]))
    np.testing.assert_array_equal(matchmaker.quality, [before[0], before[1], before[1]])
    matchmaker.on_result(4, 1, 1.0)
    np.testing.assert_array_equal(matchmaker.quality, [before[0], before[1], before[1]])


def test_defeat_leaves_quality_and_victory_step_is_bounded():
    matchmaker = make_matchmaker(section(name="quality"))
    matchmaker.mixture(view([0.5] * 2))
    matchmaker.on_result(2, 5, 0.0)
    np.testing.assert_array_equal(matchmaker.quality, 0.0)
    matchmaker.quality = np.array([-1000.0, 0.0])
    matchmaker.on_result(0, 3, 3.0)
    np.testing.assert_array_equal(matchmaker.quality, [-1003.0, 0.0])
    assert probabilities(matchmaker.mixture(view([0.5] * 2))) == pytest.approx({SELF: 0.8, 0: 0.0, 2: 0.2})


def test_draws_follow_the_distribution():
    weights = np.array([0.0, 0.3, 0.0, 0.25, 0.05, 0.0])
    mixture = Mixture(np.array([9, 8, 7, 6, 5, 4]), weights, 0.4)
    generator = np.random.default_rng(1)
    drawn = [mixture.draw(generator) for _ in range(20_000)]
    found = {number: drawn.count(number) / len(drawn) for number in set(drawn)}
    assert set(found) == {SELF, 8, 6, 5}
    for number, expected in {SELF: 0.4, 8: 0.3, 6: 0.25, 5: 0.05}.items():
        assert found[number] == pytest.approx(expected, abs=5 * np.sqrt(expected / len(drawn)))


class Fixed:
    """A generator that always returns the same number."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_only_opponents_with_weight_are_drawn(weights, share, chance):
    mixture = make_mixture(view(weights), np.array(weights), share)
    for value in (chance, 0.0, np.nextafter(1.0, 0.0), share * (1 - 1e-16)):
        drawn = mixture.draw(Fixed(value))
        assert probabilities(mixture)[drawn] > 0


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"name": "pfsp", "weighting": "soft"}, "weighting"),
        ({"name": "pfsp", "power": 0}, "power"),
        ({"name": "quality", "self_share": 1.1}, "self_share"),
        ({"name": "elo"}, "name"),
        ({"name": "psro", "population": 1}, "population"),
        ({"name": "uniform", "rate": 1}, "rate"),
    ],
)
def test_invalid_matchmaking_settings_are_rejected_by_name(keys, word):
    with pytest.raises(ValidationError, match=word):
        section(**keys)
