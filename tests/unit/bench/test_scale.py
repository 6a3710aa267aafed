"""`hpcmarl bench scale`: its arithmetic, its configurations and the arguments that it refuses."""

import json
import math

import pytest

from hpcmarl.analysis import scaling
from hpcmarl.bench.runs import Moment
from hpcmarl.bench.scale import (
    CASES,
    Plan,
    configuration,
    default_unit,
    figures,
    parse_sizes,
    result_in,
    with_predictions,
)
from hpcmarl.comm.topology import assign_roles
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.sim.plan import GroupTime, Measured

ROW = {
    "ranks": 8,
    "groups": 4,
    "rule": "sync",
    "reduce": "server",
    "efficiency_mean": 0.9,
    "efficiency_std": None,
    "predicted_efficiency": 0.8,
}


@pytest.mark.parametrize("ranks", [4, 5, 8, 9, 128])
def test_each_group_has_one_actor_and_the_server_a_rank(ranks):
    config = configuration("sync", "server", [0.5] * (ranks // 2), 1.0)
    topology = assign_roles(ranks, ["host"] * ranks, config.topology)
    assert topology.roles_of(0) == ("server", "evaluator")
    assert [len(group.actors) for group in topology.groups] == [1] * (ranks // 2)
    assert {rank for group in topology.groups for rank in (group.learner, *group.actors)} == set(
        range(1, ranks)
    )


@pytest.mark.parametrize(("rule", "reduce"), CASES)
def test_rounds_have_one_trajectory_of_each_group(rule, reduce):
    config = configuration(rule, reduce, [0.5] * 4, 3.0)
    assert (config.rounds.rule, config.rounds.reduce, config.rounds.batch) == (
        rule,
        reduce,
        1 if rule == "afedpg" else 4,
    )
    assert {group.delay.trajectory for group in config.topology.group_list} == {0.5}


def test_figures_are_means_over_repetitions_after_the_warm_up():
    # 4 groups at 0.5 s a trajectory make at most 8 a second. The first two seconds do not count.
    quick = [
        Moment(1.0, 4, 0, 9.0),
        Moment(2.0, 10, 0, 10.0),
        Moment(2.5, 14, 0, 10.1),
        Moment(3.0, 18, 0, 10.2),
    ]
    slow = [Moment(2.0, 10, 0, 10.0), Moment(3.0, 14, 0, 10.1), Moment(4.0, 18, 0, 10.4)]
    told = figures([quick, slow], 0.5, 4)
    assert told["efficiency_mean"] == pytest.approx(0.75)
    assert told["efficiency_std"] == pytest.approx(0.5 / math.sqrt(2), abs=1e-4)
    assert told["round_overhead_ms"] == pytest.approx(250.0)  # the mean of 0 and 500
    assert told["server_core_share"] == pytest.approx(0.2)
    assert figures([quick], 0.5, 4)["efficiency_std"] is None
    with pytest.raises(HpcmarlError, match="1 rounds ended after the first 2 s"):
        figures([quick[:2]], 0.5, 4)


def test_steps_of_one_gradient_are_counted_in_whole_turns():
    """Steps of one gradient are counted over whole turns of all groups.

    Four groups finish together every 0.5 s. A count from the first of four steps to the last of four would be
    three too high.
    """
    moments = [
        Moment(2.0 + 0.5 * turn + 0.001 * group, 4 * turn + group, 0, 9.0)
        for turn in range(5)
        for group in range(4)
    ]
    assert figures([moments], 0.5, 4, turn=4)["efficiency_mean"] == pytest.approx(1.0)
    assert figures([moments], 0.5, 4)["efficiency_mean"] > 1.15


def test_prediction_is_of_the_same_ideal_as_the_measurement():
    # The environment sleeps for 0.5 s, but a trajectory was measured to take 0.6 s.
    # The rule is sync with a round trip of 0.025 s.
    group = GroupTime(1, 0.6, 0.0, 0.001, 0.025)
    measured = Measured(
        (group,) * 4, 0.0, "sync", 1.0, "cancel", "first_finished", True, False, math.nan, math.nan
    )
    rows = with_predictions([ROW, {**ROW, "reduce": "mpi"}], {"server": measured, "mpi": None}, 0.5)
    assert 0.5 / 0.625 - 0.01 < rows[0]["predicted_efficiency"] < 0.5 / 0.6 + 0.01
    assert rows[1]["predicted_efficiency"] is None


def test_sizes_are_sorted_numbers_of_four_ranks_or_more():
    assert parse_sizes("32, 8,16,8") == [8, 16, 32]
    for wrong in ("8,x", "3", "", "8,-16"):
        with pytest.raises(UsageError, match="is not a number of at least 4"):
            parse_sizes(wrong)
    assert default_unit([8, 128]) == 16 * default_unit([8])


def test_rows_are_found_among_what_a_job_prints():
    assert result_in(f"a warning\n{json.dumps({'rows': [ROW]})}\n") == [ROW]
    with pytest.raises(HpcmarlError, match="printed no result: a warning"):
        result_in("a warning\n")


def test_a_job_has_longer_than_its_runs_take():
    plan = Plan(10.0, 0.5, 3)
    assert plan.limit > 10.0 * 3 * len(CASES)
    assert plan.arguments == ["--seconds", "10.0", "--unit", "0.5", "--repetitions", "3"]


def test_impossible_plots_are_refused_before_the_measurement(tmp_path):
    with pytest.raises(UsageError, match=r"a name that ends with \.svg or \.png"):
        scaling.check_plot(tmp_path / "scale.pdf")
    with pytest.raises(UsageError, match="does not exist; create it first"):
        scaling.check_plot(tmp_path / "none" / "scale.svg")
    assert scaling.curve_of([{**ROW, "ranks": 16}, ROW, {**ROW, "rule": "rennala"}], "sync", "server") == [
        ROW,
        {**ROW, "ranks": 16},
    ]


def test_plot_of_sizes_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        ROW,
        {**ROW, "ranks": 16, "efficiency_std": 0.1},
        {**ROW, "reduce": "mpi", "predicted_efficiency": None},
    ]
    scaling.plot_scaling(rows, tmp_path / "scale.svg")
    assert "</svg>" in (tmp_path / "scale.svg").read_text()
