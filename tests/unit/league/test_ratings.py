"""Skill ratings of games, compared with openskill and with players of known skill."""

import sys

import numpy as np
import pytest

from hpcmarl.errors import FormatError, MissingPackageError
from hpcmarl.league.core.ratings import SkillRatings
from hpcmarl.packing import pack, unpack


def test_missing_openskill_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openskill.models", None)
    with pytest.raises(MissingPackageError, match=r"hpcmarl\[league\]"):
        SkillRatings()


@pytest.fixture
def models():
    return pytest.importorskip("openskill.models", reason="openskill is not installed (extra league)")


def test_each_game_updates_skills_like_openskill(models):
    skills, model = SkillRatings(), models.PlackettLuce()
    skills.grow(3)
    players = [model.rating() for _ in range(3)]
    for row, column, score in [(0, 1, 1.0), (1, 2, 0.5), (2, 0, 0.0), (2, 1, 0.8), (1, 1, 1.0)]:
        skills.record(row, column, score)
        if row != column:
            ranks = {1.0: [0, 1], 0.8: [0, 1], 0.5: [0, 0], 0.0: [1, 0]}[score]
            [[players[row]], [players[column]]] = model.rate([[players[row]], [players[column]]], ranks=ranks)
    np.testing.assert_allclose(skills.mean, [player.mu for player in players])
    np.testing.assert_allclose(skills.deviation, [player.sigma for player in players])
    np.testing.assert_allclose(skills.ordinal(), [player.ordinal() for player in players])


def test_skills_rank_players_and_deviation_shrinks(models):
    rng = np.random.default_rng(0)
    skills = SkillRatings()
    skills.grow(5)
    for _ in range(400):
        row, column = rng.choice(4, 2, replace=False).tolist()
        skills.record(row, column, float(rng.random() < 1 / (1 + np.exp(column - row))))
    assert np.argsort(skills.mean[:4]).tolist() == [0, 1, 2, 3]
    assert (skills.deviation[:4] < skills.deviation[4] / 2).all()
    assert skills.mean[4] == 25.0


@pytest.mark.parametrize(
    ("games", "score", "each"),
    [(4, 2.0, [0, 1, 0, 1]), (3, 1.5, [0, 1, 0.5]), (2, 2.0, [1, 1]), (1, 0.0, [0]), (2, 0.5, [0, 0.5])],
)
def test_record_sum_equals_evenly_mixed_games(models, games, score, each):
    one, other = SkillRatings(), SkillRatings()
    one.grow(2)
    other.grow(2)
    one.record_sum(0, 1, games, score)
    for result in each:
        other.record(0, 1, result)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.deviation, other.deviation)


def test_skill_state_round_trips_and_rejects_invalid_input(models):
    skills, again = SkillRatings(), SkillRatings()
    skills.grow(2)
    skills.grow(1)
    skills.record(0, 1, 1.0)
    again.load_state_dict(unpack(pack(skills.state_dict())))
    again.grow(3)
    skills.grow(3)
    for each in (skills, again):
        each.record(2, 1, 0.5)
    np.testing.assert_array_equal(again.mean, skills.mean)
    for wrong in [(0, 3, 1.0), (-1, 0, 1.0), (0, 1, 1.1)]:
        with pytest.raises(ValueError, match="snapshots"):
            skills.record(*wrong)
    with pytest.raises(ValueError, match="2 games"):
        skills.record_sum(0, 1, 2, 2.5)
    with pytest.raises(FormatError, match="skill"):
        skills.load_state_dict({"mean": np.zeros(2), "deviation": np.zeros(1)})
