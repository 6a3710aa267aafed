"""AlphaStar's kinds of members, compared with its pseudocode branch by branch.

The rules for freezing a member and for its reset to initial weights are tested, too.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hpcmarl.config.league import MatchmakingConfig, MemberKindConfig, matchmaking_contradictions
from hpcmarl.league.core.matchmaking import SELF, View
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.league.core.registry import KINDS, make_kind
from tests.support.matchmaking import probabilities

ROLES = ("main", "main_exploiter", "league_exploiter", "main")


def section(**keys):
    return TypeAdapter(MemberKindConfig).validate_python(keys)


def view(live, owners, member=0, self_play=True, kinds=ROLES):
    numbers = np.arange(len(live)) * 3
    return View(
        numbers,
        np.asarray(live, float),
        np.asarray(owners, np.int64),
        member,
        numbers,
        Payoff(),
        kinds,
        self_play,
    )


def spread(weights, share, into):
    """Add `share` to the chances in `into`, in proportion to weights {number: weight}.

    If all weights vanish, each number gets the same part of `share`.
    """
    total = sum(weights.values())
    for number, weight in weights.items():
        into[number] = into.get(number, 0.0) + share * (weight / total if total > 1e-10 else 1 / len(weights))


def literal_main(live, owners, member, self_play):
    """Return {snapshot's number or SELF: chance} by the branches of get_match."""
    score = {3 * place: x for place, x in enumerate(live)}
    owner = {3 * place: who for place, who in enumerate(owners)}
    found = {}
    spread({b: (1 - score[b]) ** 2 for b in score}, 0.5, found)
    mains = {owner[b] for b in score if ROLES[owner[b]] == "main"} | ({member} if self_play else set())
    for main in mains or {None}:
        chance = 1 / max(len(mains), 1)
        for share, verify in ((0.15, True), (0.35, False)):
            share *= chance
            if main is None:
                spread({b: (1 - score[b]) ** 2 for b in score}, share, found)
                continue
            past = [b for b in sorted(score) if owner[b] == main]
            exploiters = {b: (1 - score[b]) ** 2 for b in score if ROLES[owner[b]] == "main_exploiter"}
            forgotten = []
            for last in range(len(past) - 1, 0, -1):
                if score[past[last - 1]] < score[past[last]]:
                    forgotten = past[: last + 1]
                    break
            if verify and exploiters and min(score[b] for b in exploiters) < 0.3:
                spread(exploiters, share, found)
            elif verify and forgotten and min(score[b] for b in forgotten) < 0.7:
                spread({b: (1 - score[b]) ** 2 for b in forgotten}, share, found)
            elif main == member and self_play:
                spread({SELF: 1.0}, share, found)
            elif score[past[-1]] > 0.3:
                spread({past[-1]: 1.0}, share, found)
            else:
                spread({b: score[b] * (1 - score[b]) for b in past}, share, found)
    return found


leagues = st.lists(
    st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.65, 0.8, 1.0]), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(leagues, st.sampled_from([0, 3]), st.booleans())
def test_main_opponents_follow_the_alphastar_pseudocode(league, member, self_play):
    live, owners = zip(*league, strict=True)
    mixture = make_kind(section(name="main")).mixture(view(live, owners, member, self_play))
    expected = dict.fromkeys([SELF, *range(0, 3 * len(live), 3)], 0.0) | literal_main(
        live, owners, member, self_play
    )
    assert probabilities(mixture) == pytest.approx(expected, abs=1e-9)


def test_main_splits_evenly_between_self_play_and_pfsp():
    mixture = make_kind(section(name="main")).mixture(view([0.9, 0.6], [0, 0]))
    assert probabilities(mixture) == pytest.approx({SELF: 0.5, 0: 0.5 * 0.01 / 0.17, 3: 0.5 * 0.16 / 0.17})
    forgotten = make_kind(section(name="main")).mixture(view([0.4, 0.6, 0.5], [0, 0, 0]))
    assert probabilities(forgotten) == pytest.approx(
        {
            SELF: 0.35,
            0: 0.5 * 0.36 / 0.77 + 0.15 * 0.36 / 0.52,
            3: 0.5 * 0.16 / 0.77 + 0.15 * 0.16 / 0.52,
            6: 0.5 * 0.25 / 0.77,
        }
    )
    assert make_kind(section(name="main")).mixture(view([], [])).self_share == 1.0


def test_main_exploiter_plays_newest_or_past_mains():
    kind = make_kind(section(name="main_exploiter"))
    # Members 0 and 3 are mains. Only the newest snapshot of member 0 is beaten often enough.
    found = probabilities(kind.mixture(view([0.9, 0.5, 0.2, 0.1, 0.9, 0.0], [0, 3, 0, 3, 2, 1], member=1)))
    past = {3: 0.5 * 0.25 / 0.34, 9: 0.5 * 0.09 / 0.34}
    assert found == pytest.approx({SELF: 0.0, 0: 0.0, 6: 0.5, 12: 0.0, 15: 0.0} | past)
    assert probabilities(kind.mixture(view([0.0, 0.0], [0, 0], member=1))) == {SELF: 0.0, 0: 0.5, 3: 0.5}
    # No main has a snapshot yet.
    assert probabilities(kind.mixture(view([0.3, 0.9], [2, 2], member=1))) == {
        SELF: 0.0,
        0: 0.5,
        3: 0.5,
    }


def test_league_exploiter_plays_all_snapshots_by_pfsp():
    found = probabilities(
        make_kind(section(name="league_exploiter")).mixture(view([0.9, 0.3, 0.0], [0, 1, 2], member=2))
    )
    assert found == pytest.approx({SELF: 0.0, 0: 0.1 / 1.1, 3: 0.5 / 1.1, 6: 0.5 / 1.1})


@pytest.mark.parametrize(
    ("name", "live", "early"),
    [
        ("main", [0.75, 0.75, 0.75], True),
        ("main", [0.75, 0.6, 0.75], False),
        ("main_exploiter", [0.1, 0.1, 0.71], True),  # only the newest main counts
        ("main_exploiter", [0.9, 0.9, 0.7], False),
        ("league_exploiter", [0.75, 0.75, 0.71], True),
        ("league_exploiter", [0.75, 0.2, 0.75], False),
    ],
)
def test_member_is_frozen_when_it_wins_or_time_is_up(name, live, early):
    kind = make_kind(section(name=name, freeze={"winning": 0.7, "least_updates": 10, "most_updates": 30}))
    seen = view(live, [0, 1, 0], member=1)
    assert not kind.may_freeze(seen, 9)
    assert kind.may_freeze(seen, 10) == kind.may_freeze(seen, 29) == early
    assert kind.may_freeze(seen, 30)
    assert not kind.may_freeze(view([], []), 29)
    assert kind.may_freeze(view([], []), 30)


def test_reset_probability_depends_on_the_member_kind():
    generator = np.random.default_rng(0)
    kinds = {name: make_kind(section(name=name)) for name in KINDS}
    share = {name: np.mean([kind.resets(generator) for _ in range(2000)]) for name, kind in kinds.items()}
    assert share["main"] == 0.0
    assert share["main_exploiter"] == 1.0
    assert share["league_exploiter"] == pytest.approx(0.25, abs=0.05)


def test_asymmetric_main_plays_mains_of_the_other_side():
    """Members 0 and 1 are mains of two sides: all candidates belong to member 1."""
    seen = view([0.9, 0.5], [1, 1], member=0, self_play=False, kinds=("main", "main"))
    assert probabilities(make_kind(section(name="main")).mixture(seen)) == pytest.approx(
        {SELF: 0.0, 0: 0.5 * 0.01 / 0.26, 3: 0.5 * 0.25 / 0.26 + 0.5}
    )


@pytest.mark.parametrize(
    ("keys", "cooperative", "words"),
    [
        ({"name": "psro"}, True, ["league.matchmaking.name: psro", "use league.matchmaking.name: partners"]),
        (
            {"name": "partners"},
            False,
            ["league.matchmaking.name: partners", "use league.matchmaking.name: uniform"],
        ),
        (
            {"name": "main", "pfsp_share": 0.9, "verification_share": 0.2},
            False,
            ["pfsp_share: 0.9", "verification_share: 0.2"],
        ),
        (
            {"name": "main", "freeze": {"least_updates": 300}},
            False,
            ["league.matchmaking.freeze.least_updates: 300", "most_updates: 200"],
        ),
    ],
)
def test_contradictions_name_the_keys_and_the_remedy(keys, cooperative, words):
    config = TypeAdapter(MatchmakingConfig | MemberKindConfig).validate_python(keys)
    (line,) = matchmaking_contradictions("league.matchmaking", config, cooperative=cooperative)
    assert all(word in line for word in words)
    assert "\n" not in line


@pytest.mark.parametrize(
    "keys", [{"name": "psro"}, {"name": "uniform"}, {"name": "main"}, {"name": "league_exploiter"}]
)
def test_valid_matchmaking_has_no_contradictions(keys):
    config = TypeAdapter(MatchmakingConfig | MemberKindConfig).validate_python(keys)
    assert matchmaking_contradictions("league.matchmaking", config, cooperative=False) == []
