"""Findings at the end of a run: who waited for whom, and which key to change."""

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.io.judgement import Shares, judge, shares_of
from hpcmarl.io.metrics import read_metrics, read_summary
from tests.support.worlds import SPREAD

CASES = {
    "learners": (
        Shares(learning=0.91, actors_waiting=0.4, repeats=("algo.reuse", 4), ranks=4),
        ["learners were busy 91 % of the time and actors waited 40 % for them", "algo.reuse (now 4)"],
    ),
    "too old": (
        Shares(too_old=0.27),
        ["27 % of the trajectories came too late", "rounds.backpressure: true"],
    ),
    "too old with backpressure": (Shares(too_old=0.27, backpressure=True), ["use fewer actors"]),
    "environments": (
        Shares(learners_waiting=0.8, environment=0.7, acting=0.1, ranks=4),
        ["learners waited 80 %", "environments took 70 %", "topology.workers_per_actor"],
    ),
    "inference": (
        Shares(learners_waiting=0.8, environment=0.1, acting=0.7, ranks=4),
        ["inference took 70 %", "topology.environments_per_actor"],
    ),
    "server": (Shares(serving=0.8, ranks=4), ["server was busy 80 %", "rounds.reduce: mpi"]),
    "replay": (Shares(replay_shortfall=0.5), ["50 % less often", "algo.replay.samples_per_insert"]),
}


@pytest.mark.parametrize("name", CASES)
def test_findings_name_the_wait_and_the_key(name):
    shares, words = CASES[name]
    (line,) = judge(shares)
    assert all(word in line for word in words)


def test_balanced_runs_and_single_ranks_have_no_findings():
    assert not judge(Shares(learning=0.5, learners_waiting=0.4, environment=0.5, ranks=4))
    assert not judge(Shares(learning=0.9, actors_waiting=0.9, serving=0.9, ranks=1))


@pytest.mark.parametrize("name", ["used_trajectories", "used_gradients"])
def test_shares_come_from_summaries_of_any_version(name):
    summary = {
        "time_shares": {"actors": {"waiting": 0.4, "acting": 0.1}, "workers": {"environment": 0.3}},
        name: 73,
        "wasted_gradients": 27,
        "ranks": 4,
    }
    shares = shares_of(summary, load_config(SPREAD))
    assert (shares.too_old, shares.actors_waiting, shares.environment) == (0.27, 0.4, 0.3)
    assert shares_of({}, load_config(SPREAD)).too_old == 0


def test_older_names_of_figures_are_read_as_the_present_ones(tmp_path):
    (tmp_path / "metrics.csv").write_text("version,used_gradients\n1,32\n")
    assert read_metrics(tmp_path)["used_trajectories"].tolist() == [32.0]
    (tmp_path / "summary.json").write_text('{"used_gradients": 32}')
    assert read_summary(tmp_path / "summary.json") == {"used_trajectories": 32}
