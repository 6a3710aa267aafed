"""`hpcmarl simulate --from-run`: measurements, fits, predictions and errors.

Predictions are compared with closed forms.
"""

import json
import time

import numpy as np
import pytest

from hpcmarl.comm.topology import Group, Topology
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.maths.round_times import afedpg_rate, malenia_time, rennala_rate, sync_rate
from hpcmarl.roles import timing
from hpcmarl.sim.plan import Slow, best_rule, fit, predict, seconds_of

RUN = """
env: {id: mpe2.simple_spread_v3}
algo: {name: reinforce}
optimizer: {name: nigt}
rounds: {rule: sync, batch: 4}
topology: {groups: 2, environments_per_actor: 1}
stop: {updates: 1}
"""
RULES = ("sync", "rennala", "malenia", "afedpg")


def row(times, *, slots=1, spread=0.0, exchange=0.5, timed=100.0, server=0.0):
    """Return a row of metrics of groups with the given seconds a trajectory."""
    told = {"version": 10.0, "seconds": 20.0, "used_trajectories": 40.0, "server/gradient_seconds": server}
    for group, seconds in enumerate(times):
        figures = {
            "slots": slots,
            "timed_trajectories": timed,
            "trajectory_seconds": seconds,
            "trajectory_spread_seconds": spread,
        }
        figures |= {"gradient_seconds": 1e-4, "exchange_seconds": exchange}
        told |= {f"group_{group}/{name}": value for name, value in figures.items()}
    return told


def columns(*rows):
    return {
        name: np.array([each.get(name, np.nan) for each in rows], float)
        for name in dict.fromkeys(name for each in rows for name in each)
    }


def scalars(each):
    """Return the part of a row that metrics.csv holds."""
    return {name: value for name, value in each.items() if not name.startswith("group_")}


def group_figures(each):
    """Return the figures of single groups that metrics.h5 holds for a row: name -> [G]."""
    names = dict.fromkeys(name.partition("/")[2] for name in each if name.startswith("group_"))
    count = 1 + max(
        (int(name.partition("/")[0].removeprefix("group_")) for name in each if name.startswith("group_")),
        default=-1,
    )
    return {
        name: np.array([each.get(f"group_{group}/{name}", np.nan) for group in range(count)])
        for name in names
    }


def fit_rows(*rows, changes=()):
    each = [group_figures(one) for one in rows]
    figures = {name: np.stack([one[name] for one in each]) for name in each[0]}
    versions = np.array([one["version"] for one in rows], float)
    return fit(columns(*map(scalars, rows)), load_config(RUN, changes), "here", figures, versions)


def measured(times, *changes, **figures):
    return fit_rows(row(times, **figures), changes=changes)


@pytest.mark.parametrize("groups", [2, 3, 8, 64])
def test_prediction_with_constant_times_equals_closed_forms(groups):
    found = predict(measured([1.0, 3.0]), groups, RULES)
    compute = np.resize([1.0, 3.0], groups)
    exchange = np.full(groups, 0.5)
    expected = {
        "sync": sync_rate(compute, exchange, 2 * groups),
        "rennala": rennala_rate(compute, exchange, 2 * groups),
        "afedpg": afedpg_rate(compute, exchange, 2),
    }
    for rule, rate in expected.items():
        assert found[rule]["trajectories_per_second"] == pytest.approx(rate, rel=0.01), rule
        assert found[rule]["efficiency"] == pytest.approx(rate / np.sum(1 / compute), rel=0.01)
    assert found["sync"]["round_seconds"] == pytest.approx(6.5)
    assert found["malenia"]["round_seconds"] == pytest.approx(malenia_time(compute, 2 * groups) + 0.5)
    assert found["afedpg"]["round_seconds"] == pytest.approx(2 / expected["afedpg"], rel=0.01)


def test_simultaneous_slots_count_as_separate_trajectories():
    found = predict(measured([8.0, 8.0], "rounds.batch=64", slots=16), 4, ("sync", "afedpg"))
    assert found["sync"]["round_seconds"] == pytest.approx(2 * 8.0 + 0.5)
    assert found["sync"]["trajectories_per_second"] == pytest.approx(4 * 32 / 16.5)
    assert found["afedpg"]["trajectories_per_second"] == pytest.approx(4 * 32 / 16.5, rel=0.01)


def test_used_trajectories_are_limited_to_the_group_share():
    found = predict(measured([8.0, 8.0], slots=16), 4, ("sync", "rennala"))
    assert found["sync"]["trajectories_per_second"] == pytest.approx(4 * 2 / 8.5)
    assert found["rennala"]["trajectories_per_second"] == pytest.approx(4 * 2 / 8.5, rel=0.01)


def test_off_policy_work_continues_during_the_exchange():
    changes = ("algo={name: ma_trace}", "topology.environments_per_actor=1")
    found = predict(measured([1.0, 3.0], *changes, exchange=0.25), 4, RULES)
    # The exchange of 0.25 s overlaps with the next trajectory.
    assert found["sync"]["round_seconds"] == pytest.approx(6.0, rel=0.01)
    assert found["sync"]["trajectories_per_second"] == pytest.approx(8 / 6.0, rel=0.01)
    assert found["afedpg"]["efficiency"] == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("rule", ["rennala", "malenia"])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_off_policy_work_ready_during_the_exchange_counts(rule, spread):
    """Trajectories that are ready during the exchange still count.

    Equal groups finish together. Otherwise all groups except the one that ends a round would lose their ready
    trajectories.
    """
    changes = ("algo={name: ma_trace}", "topology.environments_per_actor=1")
    for passing in (0.0, 0.25):
        found = predict(measured([1.0, 1.0], *changes, exchange=passing, spread=spread), 4, (rule,))[rule]
        assert found["efficiency"] == pytest.approx(1.0, rel=0.02)


def test_varying_times_lengthen_sync_rounds():
    constant, varying = (
        predict(measured([1.0] * 2, spread=spread), 16, ("sync",))["sync"]["round_seconds"]
        for spread in (0.0, 0.3)
    )
    generator = np.random.default_rng(0)
    sigma = np.sqrt(np.log1p(0.3**2))
    slowest = np.exp(sigma * generator.standard_normal((4000, 16, 2)) - sigma**2 / 2).sum(axis=2).max(axis=1)
    assert constant == pytest.approx(2.5)
    assert varying == pytest.approx(slowest.mean() + 0.5, rel=0.03)


def test_server_processes_gradients_sequentially():
    found = predict(measured([1.0, 1.0], server=0.01), 100, ("sync", "afedpg"))
    assert found["sync"]["round_seconds"] == pytest.approx(2.5 + 98 * 0.01)
    assert predict(measured([1.0, 1.0], server=0.1), 100, ("afedpg",))["afedpg"][
        "round_seconds"
    ] == pytest.approx(0.1)


def test_slow_option_slows_a_share_of_the_groups():
    run = measured([1.0, 3.0])
    assert seconds_of(run, 4, Slow.parse("0.5:10x")).tolist() == [1.0, 3.0, 10.0, 30.0]
    # A share above 0 is at least one group.
    assert seconds_of(run, 4, Slow.parse("0.01:2")).tolist() == [
        1.0,
        3.0,
        1.0,
        6.0,
    ]
    assert seconds_of(run, 3, Slow.parse("0:10x")).tolist() == [1.0, 3.0, 1.0]


def test_slow_learner_determines_the_group_rate():
    told = row([1.0, 1.0]) | {"group_1/gradient_seconds": 4.0}
    assert seconds_of(fit_rows(told), 2, None).tolist() == [1.0, 4.0]


def test_the_best_rule_depends_on_the_objectives():
    def figures(**rates):
        return {rule: {"trajectories_per_second": rate} for rule, rate in rates.items()}

    rates = figures(sync=5.0, rennala=9.0, malenia=8.0, afedpg=9.1)
    assert best_rule(rates, differ=False)[0] == "rennala"  # nearly as fast as afedpg, and simpler
    assert best_rule(rates, differ=True)[0] == "malenia"
    assert best_rule(figures(sync=8.0, rennala=8.1, malenia=8.0, afedpg=8.2), differ=False)[0] == "sync"
    assert "weight them equally" in best_rule(rates, differ=True)[1]
    groups = "topology.groups=[{}, {env: {max_steps: 3}}]"
    assert measured([1.0, 1.0], groups).differ
    assert not measured([1.0, 1.0]).differ


def test_fit_uses_newest_row_and_fills_missing_exchange():
    older, newer = row([1.0, 3.0]), row([2.0, 3.0], exchange=0.75)
    del newer["group_1/exchange_seconds"], older["group_1/exchange_seconds"]
    newer |= {"seconds": 30.0, "version": 30.0, "used_trajectories": 120.0}
    run = fit_rows(older, newer)
    assert run.groups[0].trajectory_seconds == 2.0
    assert run.groups[1].exchange_seconds == 0.75
    assert (run.rate, run.round_seconds) == (8.0, 0.5)
    newer["group_1/exchange_seconds"] = 0.25
    assert [group.exchange_seconds for group in fit_rows(newer).groups] == [0.75, 0.25]
    assert [group.exchange_seconds for group in fit_rows(newer, changes=["rounds.late=ignore"]).groups] == [
        0.25,
        0.25,
    ]


def test_measured_rate_covers_whole_rounds_of_all_groups():
    # seconds, version, used gradients, trajectories of group 1
    course = [
        (0.5, 1, 2, 0),
        (5.0, 3, 6, 0),
        (9.0, 5, 10, 1),
        (13.0, 15, 40, 9),
        (13.5, 15, 41, 9),
    ]
    rows = [
        row([1.0, 3.0])
        | {
            "seconds": at,
            "version": version,
            "used_trajectories": used,
            "group_0/trajectories": used,
            "group_1/trajectories": late,
        }
        for at, version, used, late in course
    ]
    run = fit_rows(*rows)
    assert (run.rate, run.round_seconds) == (7.5, 0.4)


def run_directory(path, *rows):
    path.mkdir()
    (path / "config.yaml").write_text(RUN)
    writer = MetricsWriter(path)
    for each in rows:
        writer.append(scalars(each), group_figures(each))
    writer.close()
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from-run", "none"], "none: not a run directory"),
        (["--from-run", "old"], "no timing data to predict from: no finished trajectories of group 0"),
        (["--from-run", "short"], "only 2 finished trajectories of group 0"),
        (["--from-run", "silent"], "no group has sent a gradient for a new version"),
        (["--from-run", "good", "--groups", "0"], "--groups 0: allowed"),
        (["--from-run", "good", "--groups", "-3"], "--groups -3: allowed"),
        (["--from-run", "good", "--slow", "10x"], "--slow 10x: allowed: SHARE:FACTORx"),
        (["--from-run", "good", "--slow", "1.5:10x"], "a share from 0 to 1"),
        (["--from-run", "good", "--slow", "0.1:0x"], "a factor above 0"),
        (["--from-run", "good", "--slow", "0.1:infx"], "a factor above 0"),
        (["--from-run", "good", "--rule", "fastest"], "--rule fastest: unknown; allowed: sync, rennala"),
        (["--from-run", "good", "rounds.batch=3"], "leave out CONFIG"),
        (["--groups", "3", "some.yaml"], "go with --from-run"),
        ([], "simulate needs CONFIG"),
    ],
)
def test_from_run_errors_are_one_line_with_exit_code_2(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    run_directory(tmp_path / "good", row([1.0, 3.0]))
    run_directory(tmp_path / "old", {"version": 1.0, "seconds": 1.0})
    run_directory(tmp_path / "short", row([1.0, 3.0], timed=2.0))
    run_directory(tmp_path / "silent", row([1.0, 3.0], exchange=np.nan))
    code, out, err = run("simulate", *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert words in err


def test_from_run_prints_a_table_or_json(run, tmp_path):
    measured = run_directory(tmp_path / "good", row([1.0, 3.0]))
    code, out, _ = run(
        "simulate", "--from-run", measured, "--groups", 4, "--rule", "sync", "--rule", "rennala"
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["rule", "sync", "rennala", "best:"]
    code, out, _ = run("simulate", "--from-run", measured, "--groups", 4, "--slow", "0.25:2x", "--json")
    told = json.loads(out)
    assert (code, told["groups"], told["measured_groups"], set(told["rules"])) == (0, 4, 2, set(RULES))
    assert told["rules"]["sync"]["round_seconds"] == pytest.approx(12.5)
    assert told["best_rule"] in RULES
    assert told["measured_round_seconds"] is None  # only one row


def pair_of_groups():
    return Topology(2, ("a", "a"), (Group(0, 0, (0,)), Group(1, 1, (1,))))


def test_timing_sums_survive_resume_and_actor_replacement(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    times = timing.GroupTimes(pair_of_groups(), 2, on_policy=True, cancels=True)
    times.on_actor(1, [4.0, 8.0, 17.0])
    times.on_actor(1, [6.0, 12.0, 26.0])
    # A new process has replaced the actor.
    times.on_actor(1, [2.0, 4.0, 8.0])
    times.published(3, (0, 1))
    now[0] += 5.0
    times.arrived(1, 2, 2)  # late: computed for an older version
    # Two slots deliver twice.
    times.arrived(1, 3, 4)
    times.arrived(1, 3, 4)
    times.served(0.25)
    again = timing.GroupTimes(pair_of_groups(), 2, on_policy=True, cancels=True)
    again.load_state_dict(times.state_dict())
    again.on_actor(1, [2.0, 4.0, 8.0])
    told = {name: values[1] for name, values in again.groups().items()}
    assert told["timed_trajectories"] == 10
    assert told["trajectory_seconds"] == 2.0
    assert told["trajectory_spread_seconds"] == pytest.approx(np.sqrt(4.2 - 4.0))
    assert told["exchange_seconds"] == pytest.approx(5.0 - 2 * 2.0)
    assert again.row() == {"server/gradient_seconds": 0.25}
    assert all(np.isnan(values[0]) for values in again.groups().values())
    other = timing.GroupTimes(pair_of_groups(), 3, on_policy=True, cancels=True)
    other.load_state_dict(times.state_dict())
    assert other.row() == {}


def test_trajectory_timer_excludes_abandoned_work(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = timing.TrajectoryTimer(2)
    now[0] = 3.0
    timer.finished([1])
    now[0] = 4.0
    timer.begin()
    now[0] = 6.0
    timer.finished([0, 1])
    assert timer.sums == [3, 3.0 + 2.0 + 2.0, 9.0 + 4.0 + 4.0]


def test_slow_option_rejects_non_numbers():
    with pytest.raises(UsageError, match="allowed: SHARE:FACTORx"):
        Slow.parse("a:bx")


def test_prediction_rejects_replay_algorithms():
    with pytest.raises(
        UsageError,
        match=r"here: no prediction is possible: with algo\.name: vdn rounds consist of replayed episodes",
    ):
        measured([1.0, 3.0], "algo.name=vdn", "optimizer.name=rmsprop")
