"""Means between reports, and the single warning about diverging values."""

import pytest

from hpcmarl.roles.statistics import LearnerMeans, Means, SlotsHeard


def test_means_are_weighted_reset_and_skip_nan():
    means = Means()
    means.add({"loss": 1.0, "value": 4.0}, weight=3.0)
    means.add({"loss": 5.0, "value": float("nan")})
    assert means.take() == {"loss": 2.0, "value": 4.0}
    assert means.take() == {}


@pytest.mark.parametrize(
    ("values", "limit", "told"),
    [
        ((19.0, 19.9), 20.0, None),
        ((20.1, 20.2, 30.0), 20.0, 20.2),
        ((-21.0, -22.0), 20.0, -22.0),
        ((1e3, 500.0, 100.0, 2.0, 3.0), 20.0, None),  # large only before training
        ((30.0, 2.0, 30.0, 2.0), 20.0, None),
        ((1.0, 1e9, 1e10), None, None),  # no limit: no discounting, or no reward yet
    ],
)
def test_diverging_values_are_warned_about_once(values, limit, told, caplog):
    means = LearnerMeans()
    for value in values:
        means.add({"value": value} | ({} if limit is None else {"value_limit": limit}))
        assert means.row()["learner/value"] == value
    means.add({"loss": 1.0})
    assert means.row() == {"learner/loss": 1.0}
    assert ["values diverge" in record.message for record in caplog.records] == [True] * (told is not None)
    if told is not None:
        assert f"their mean is {told:.3g} and grows" in caplog.records[0].message
        assert "no return can exceed 20; " in caplog.records[0].message


def test_warnings_of_learners_are_logged_once(caplog):
    means = LearnerMeans()
    for texts in ([], ["one"], ["one"], ["two", "one"], ["two", "two"]):
        means.warn(texts)
    assert [record.message for record in caplog.records] == ["one", "two"]


def test_slots_are_heard_once_all_living_ones_finished():
    heard = SlotsHeard(4)
    heard.add([0, 2, 2])
    assert not heard.complete(0)
    assert not heard.complete(1)
    assert heard.complete(2)
    heard.add(range(1, 4))
    assert heard.complete(0)
