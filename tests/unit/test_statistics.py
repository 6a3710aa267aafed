"""Means between reports, and what is said once where action values diverge."""

import pytest

from hpcmarl.roles.statistics import LearnerMeans, Means


def test_means_are_weighted_start_anew_and_leave_out_what_is_no_number():
    means = Means()
    means.add({"loss": 1.0, "value": 4.0}, weight=3.0)
    means.add({"loss": 5.0, "value": float("nan")})
    assert means.take() == {"loss": 2.0, "value": 4.0}
    assert means.take() == {}


@pytest.mark.parametrize(("value", "limit", "told"), [(19.9, 20.0, False), (20.1, 20.0, True), (-21.0, 20.0, True), (1e9, None, False)])
def test_says_once_where_values_are_larger_than_any_return(value, limit, told, caplog):
    means = LearnerMeans()
    for _ in range(2):
        means.add({"value": value} | ({} if limit is None else {"value_limit": limit}))
        assert means.row()["learner/value"] == value
    assert ["action values diverge" in record.message for record in caplog.records] == [True] * told
    if told:
        assert f"{value:.3g} on average" in caplog.records[0].message
        assert "no return can exceed 20; " in caplog.records[0].message
