"""`hpcmarl bench stragglers`: its arithmetic, its configurations and the moments that it reads."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.bench.runs import Moment, ends, used_per_second
from hpcmarl.bench.stragglers import CASES, SETTINGS, _figures, batch_of, case, compute_seconds, expected
from hpcmarl.errors import HpcmarlError
from hpcmarl.maths.round_times import ideal_rate


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.05, 20.0), min_size=2, max_size=8))
def test_expected_sync_efficiency_follows_the_slowest_group(compute):
    ideal = sum(1 / time for time in compute)
    assert ideal_rate(compute) == pytest.approx(ideal)
    assert expected(compute)["sync_efficiency_expected"] == pytest.approx(
        len(compute) * min(1 / time for time in compute) / ideal
    )


def test_expected_rennala_efficiency_counts_abandoned_work():
    # A round of eight for each group: two equal groups deliver 8 each of 16 and lose nothing.
    assert expected([0.5, 0.5])["rennala_reinforce_efficiency_expected"] == pytest.approx(1.0)
    # 16 trajectories: 15 of the first group and one of the second. Half of the second group's next trajectory
    # is abandoned.
    assert expected([1.0, 10.0])["rennala_reinforce_efficiency_expected"] == pytest.approx(16 / 15 / 1.1)


def test_compute_seconds_of_each_setting_are_as_specified():
    assert compute_seconds("one_rank_10x_slower", 3, 0.2) == pytest.approx([0.2, 0.2, 2.0])
    assert compute_seconds("sqrt", 4, 0.5) == pytest.approx(
        [0.5, 0.5 * math.sqrt(2), 0.5 * math.sqrt(3), 1.0]
    )


@pytest.mark.parametrize(("rule", "algorithm"), CASES)
def test_each_case_makes_one_gradient_per_trajectory(rule, algorithm):
    config = case(rule, algorithm, [0.1, 0.25, 0.1], 4.0)
    assert (config.rounds.rule, config.algo.name, config.stop.seconds) == (rule, algorithm, 4.0)
    assert [group.delay.trajectory for group in config.topology.group_list] == [0.1, 0.25, 0.1]
    assert (
        config.rounds.batch
        == batch_of(rule, algorithm, 3)
        == {"sync": 3, "afedpg": 1}.get(rule, 24 if algorithm == "reinforce" else 12)
    )
    assert (
        config.topology.environments_per_actor
        == config.env.max_steps
        == getattr(config.algo, "unroll", 1)
        == 1
    )


def test_used_gradient_rate_is_measured_between_round_ends():
    moments = [Moment(0.5, 4, 0), Moment(1.5, 8, 1), Moment(3.0, 12, 1), Moment(5.5, 20, 3)]
    assert ends(moments, 1.0) == (moments[1], moments[3])
    assert used_per_second(moments, 1.0) == pytest.approx(12 / 4)
    with pytest.raises(HpcmarlError, match="1 rounds ended after the first 4 s"):
        used_per_second(moments, 4.0)


def test_too_short_case_leaves_other_figures_of_its_setting(capsys):
    seen = [Moment(2.5, 10, 0), Moment(4.5, 20, 2)]
    figures = _figures([1.0, 2.0], {("sync", "ma_trace"): seen, ("rennala", "reinforce"): []})
    assert figures["sync_efficiency"] == pytest.approx(5 / 1.5)
    assert (figures["sync_wasted"], figures["sync_batch"]) == (2, 2)
    assert figures["rennala_reinforce_efficiency"] is None
    assert "rennala_reinforce, trajectories of 1 to 2 s: 0 rounds ended" in capsys.readouterr().err
    assert json.loads(json.dumps(figures)) == figures
    assert set(SETTINGS) == {"one_rank_10x_slower", "sqrt"}
