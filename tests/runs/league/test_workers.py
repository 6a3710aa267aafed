"""Leagues whose teams have workers."""

from pathlib import Path

import pytest

from hpcmarl.io.pool import list_snapshots
from tests.support.leagues import NAMES, RPS, TAG
from tests.support.worlds import run_world, summary


@pytest.mark.parametrize(("size", "groups", "workers"), [(4, 1, 3), (6, 1, 2), (7, 2, 2), (9, 2, 3)])
def test_teams_with_workers_freeze_every_term(tmp_path, size, groups, workers):
    changes = (f"topology.groups={groups}", f"topology.workers_per_actor={workers}")
    ranks = run_world(size, tmp_path, *changes, "topology.environments_per_actor=6", text=RPS)
    assert {rank.exit_code for rank in ranks} == {0}
    assert list_snapshots(tmp_path / "pool") == NAMES
    told = summary(tmp_path)
    assert told["snapshots"] == 8
    assert {name: (row["updates"], row["terms"]) for name, row in told["members"].items()} == {
        "a": (6, 3),
        "b": (6, 3),
    }
    assert all(row["training_games"] > 0 for row in told["members"].values())


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[3] / "configs" / "league").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_shipped_leagues_run_with_workers(tmp_path, path):
    short = ("stop={updates: 2}", "league.evaluation.final_seconds=0.5", "logging.progress=false")
    ranks = run_world(5, tmp_path, *short, "topology.workers_per_actor=2", text=path.read_text())
    assert {rank.exit_code for rank in ranks} == {0}
    told = summary(tmp_path)
    assert {row["updates"] for row in told["members"].values()} == {2}


def test_sides_with_different_policies_train_with_workers(tmp_path):
    ranks = run_world(6, tmp_path, "topology.workers_per_actor=2", text=TAG)
    assert {rank.exit_code for rank in ranks} == {0}
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("victim", [2, 4])
def test_team_continues_without_a_dead_worker(tmp_path, victim):
    changes = ("topology.workers_per_actor=3", "topology.environments_per_actor=6")
    run_world(6, tmp_path, *changes, text=RPS, deaths={victim + 1: 6})
    told = summary(tmp_path)
    assert told["status"] == "finished"
    assert [entry["rank"] for entry in told["lost_ranks"]] == [victim + 1]
    assert {row["updates"] for row in told["members"].values()} == {6}
