"""Reports of real runs: a league, and sparse training that was resumed with other settings."""

import numpy as np
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.league.commands.reader import read_league
from hpcmarl.league.core.summary import summarise
from hpcmarl.report.report import html
from hpcmarl.report.runs import read_run
from hpcmarl.training import train
from tests.support.leagues import NAMED_RPS
from tests.support.reports import plot_of

SPARSE = """
name: sparse
env: {id: matrix:stag_hunt}
algo:
  name: qmix
  network: {hidden: [16, 16]}
  replay: {learning_starts: 4, episodes: 50}
  sparse: {sparsity: 0.5}
rounds: {batch: 4}
topology: {environments_per_actor: 4}
eval: {episodes: 2}
logging: {progress: false, every_seconds: 0.001}
stop: {updates: 3}
"""


@pytest.fixture(scope="module")
def league(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reported") / "rps"
    assert train(load_config(NAMED_RPS), str(directory), None) == 0
    return directory


def test_report_of_a_league_shows_its_payoffs(league):
    page = html([read_run(league, "rps")], "rps")
    summary = summarise(read_league(str(league)).state)
    spec = plot_of(page, "rps: payoffs")
    names = [each["name"] for each in summary["snapshots"]]
    assert (spec["x"], spec["y"], spec["z"]) == (names, names, summary["payoff"])
    drawn = plot_of(page, "rps: ratings")["series"]
    assert [each["name"] for each in drawn] == [each["name"] for each in summary["members"]]
    lineage = plot_of(page, "rps: lineage")
    assert [name for _, _, name in lineage["points"]] == names
    met = sum(min(4, len(each["met_most"])) for each in summary["snapshots"])
    assert len(lineage["links"]) == met > 0
    assert "Duration of a round</h3>" not in page  # a league's versions are no updates


def test_report_of_a_resumed_sparse_run(tmp_path):
    directory = tmp_path / "sparse"
    assert train(load_config(SPARSE), str(directory), None) == 0
    longer = load_config(SPARSE.replace("updates: 3", "updates: 5"))
    assert train(longer, str(directory), str(directory)) == 0
    run = read_run(directory, "sparse")
    assert run.problems == []
    assert sorted(run.activity) == [1, 2]
    densities = run.summary["layer_densities"]
    assert all(0.0 < share <= 1.0 for share in densities.values())
    page = html([run], "sparse")
    assert f"{100 * run.summary['training_flops'] / run.summary['dense_training_flops']:.1f} %" in page
    assert all(f"<td>{layer}</td>" in page for layer in densities)
    assert "version 3 of start 1" in page
    assert "stop.updates: 3 -&gt; 5" in page
    for activity in run.activity.values():
        total = activity.spent[-1].sum()
        assert 0.0 < total < 60.0
        assert np.isfinite(activity.spent).all()
