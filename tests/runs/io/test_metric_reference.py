"""The table of metrics lists every column and every key of summary.json that small runs write."""

import math

import pytest

from hpcmarl.algos import ALGORITHMS
from hpcmarl.io.metric_reference import (
    COLUMNS,
    EVALUATION,
    GROUP_FIGURES,
    KINDS,
    LEAGUE_COLUMNS,
    LEAGUE_SUMMARY,
    SUMMARY,
    find_column,
)
from hpcmarl.io.metrics import read_groups, read_metrics
from tests.support.leagues import RPS
from tests.support.worlds import run_world, summary

TINY = """
env: {id: mpe2.simple_spread_v3, kwargs: {max_cycles: 5}}
algo: {name: reinforce, network: {hidden: [8]}}
optimizer: {name: adam, step_size: 0.001}
rounds: {batch: 4}
topology: {environments_per_actor: 2, groups: 2}
eval: {episodes: 2}
stop: {updates: 3}
logging: {progress: false, every_seconds: 0.0001}
checkpoint: {every_seconds: null}
"""
TWO_POLICIES = (
    "env.id=mpe2.simple_speaker_listener_v4",
    "env.common_reward=true",
)
OUTCOME = ("env.id=tests.support.environments:Crowd", "env.kwargs={win: true}")
REPLAY = "algo.replay.learning_starts=4"
RUNS = {
    "reinforce": ("rounds.rule=rennala", *OUTCOME),
    "ma_trace": (*TWO_POLICIES, "algo.unroll=5", "rounds.rule=afedpg"),
    "ppo": ("algo.unroll=5", "algo.kl_target=1e-9", "rounds.rule=malenia", "algo.minibatches=2"),
    "coma": ("algo.unroll=5", "rounds.reduce=mpi"),
    "iql": (
        REPLAY,
        "algo.replay.dynamic={every: 2, oldest: 2, least: 1}",
        "env.id=matrix:rps",
        "env.kwargs={}",
    ),
    "vdn": (REPLAY, "algo.sparse={sparsity: 0.5}"),
    "qmix": (REPLAY, "topology.groups=1", "topology.workers_per_actor=2", "topology.workers=[{}, {}]"),
    "wqmix": (REPLAY,),
    "res": (REPLAY,),
    "maddpg": (REPLAY, "env.kwargs={max_cycles: 5, continuous_actions: true}"),
    "masac": (REPLAY, *TWO_POLICIES),
}
# Columns that none of these runs writes -> reason.
UNWRITTEN: dict[str, str] = {}


def learner_columns(algorithm):
    """Return the required columns of an algorithm's learners, without those that need a setting."""
    return {
        name
        for name, metric in COLUMNS.items()
        if name.startswith("learner/")
        and not metric.condition
        and algorithm in (metric.algorithms or ALGORITHMS)
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train every algorithm for three updates; return the run directory of each algorithm."""
    directories = {}
    for algorithm, changes in RUNS.items():
        directories[algorithm] = tmp_path_factory.mktemp("run") / algorithm
        run_world(3, directories[algorithm], f"algo.name={algorithm}", *changes, text=TINY)
    return directories


def test_every_algorithm_has_a_run():
    assert set(RUNS) == set(ALGORITHMS)


@pytest.mark.slow("trains every algorithm once")
@pytest.mark.parametrize("algorithm", RUNS)
def test_columns_of_runs_are_in_the_table(runs, algorithm):
    columns = read_metrics(runs[algorithm])
    assert [name for name in columns if find_column(name) is None] == []
    foreign = [
        name
        for name in columns
        if (metric := find_column(name)[1]).algorithms and algorithm not in metric.algorithms
    ]
    assert foreign == []
    written = {find_column(name)[0] for name, values in columns.items() if not all(map(math.isnan, values))}
    assert learner_columns(algorithm) - written == set()
    assert set(read_groups(runs[algorithm]).figures) == set(GROUP_FIGURES)


@pytest.mark.slow("trains every algorithm once")
def test_every_column_of_the_table_is_written(runs):
    written = {find_column(name)[0] for directory in runs.values() for name in read_metrics(directory)}
    assert set(COLUMNS) - written == set(UNWRITTEN)


@pytest.mark.slow("trains every algorithm once")
def test_keys_of_summaries_are_in_the_table(runs):
    keys = {algorithm: summary(directory) for algorithm, directory in runs.items()}
    for written in keys.values():
        assert set(written) - set(SUMMARY) == set()
        assert set(written["evaluation"]) == set(EVALUATION)
    assert set().union(*keys.values()) == set(SUMMARY)


def test_columns_and_keys_of_leagues_are_in_the_table(tmp_path):
    run_world(3, tmp_path / "league", text=RPS)
    columns = read_metrics(tmp_path / "league")
    assert [name for name in columns if find_column(name, LEAGUE_COLUMNS) is None] == []
    assert {find_column(name, LEAGUE_COLUMNS)[0] for name in columns} == set(LEAGUE_COLUMNS)
    assert set(summary(tmp_path / "league")) == set(LEAGUE_SUMMARY)


def test_entries_of_the_table_are_whole_sentences():
    for name, metric in {**COLUMNS, **GROUP_FIGURES, **LEAGUE_COLUMNS}.items():
        assert metric.kind in KINDS
        assert metric.meaning.endswith("."), name
        assert set(metric.algorithms) <= set(ALGORITHMS), name
    assert all(entry.meaning.endswith(".") for entry in {**SUMMARY, **EVALUATION, **LEAGUE_SUMMARY}.values())
