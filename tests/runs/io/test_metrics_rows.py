"""Rows of metrics over several starts of a run: unique versions in rising order."""

import csv

import numpy as np
import pytest

from hpcmarl.io.metrics import read_groups, read_metrics
from hpcmarl.io.row_files import CsvFile
from tests.support.worlds import run_world, summary

OFTEN = "logging.every_seconds=0.0001"


def versions_in(directory):
    with (directory / "metrics.csv").open(newline="") as stream:
        return [int(row["version"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_a_version_has_one_row_over_all_starts(tmp_path, reduce):
    changes = (OFTEN, f"rounds.reduce={reduce}", "topology.groups=2")
    run_world(3, tmp_path / "run", *changes)
    assert versions_in(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    run_world(3, tmp_path / "run", *changes, "stop.updates=9", resume=str(tmp_path / "run"))
    assert versions_in(tmp_path / "run") == [*range(1, 10)]
    # The run is already finished.
    run_world(3, tmp_path / "run", *changes, "stop.updates=9", resume=str(tmp_path / "run"))
    assert versions_in(tmp_path / "run") == [*range(1, 10)]
    groups = read_groups(tmp_path / "run")
    assert groups.version.tolist() == [*range(1, 10)]
    assert groups.figures["trajectories"].shape == (9, 2)
    assert (np.diff(groups.figures["trajectories"], axis=0) >= 0).all()


def test_last_row_keeps_what_learners_reported(tmp_path):
    run_world(2, tmp_path / "run", OFTEN)
    columns = read_metrics(tmp_path / "run")
    assert columns["version"][-1] == summary(tmp_path / "run")["updates"]
    means = {name: values for name, values in columns.items() if name.startswith("learner/")}
    assert means
    # Reports are paced: a row between two reports may have none of these values.
    for name, values in means.items():
        assert np.isfinite(values[-1]) or not np.isfinite(values).any(), name


@pytest.mark.parametrize("env", ["mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4"])
def test_the_heading_is_whole_from_the_first_row_on(tmp_path, monkeypatch, env):
    """The first row has the figures of a learner, and the file is not replaced later."""
    headings = []

    def write_all(self, path, original=CsvFile._write_all):
        headings.append(list(self.table.names))
        original(self, path)

    monkeypatch.setattr(CsvFile, "_write_all", write_all)
    run_world(2, tmp_path / "run", OFTEN, "eval.episodes=2", f"env.id={env}")
    assert headings[1:] == []
    columns = read_metrics(tmp_path / "run")
    assert {"eval_return_mean", "server/gradient_seconds"} <= set(columns)
    assert np.isfinite(columns["learner/gradient_norm"][0])
    assert np.isfinite(columns["eval_return_mean"][-1])


def test_signal_before_training_adds_no_row(tmp_path):
    run_world(2, tmp_path / "run", OFTEN)
    run_world(2, tmp_path / "run", OFTEN, "stop.updates=12", resume=str(tmp_path / "run"), interrupt=0)
    assert versions_in(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    run_world(2, tmp_path / "fresh", OFTEN, interrupt=0)
    assert not (tmp_path / "fresh" / "metrics.csv").exists()


def test_start_without_a_checkpoint_begins_the_table_anew(tmp_path):
    run_world(2, tmp_path / "run", OFTEN, "stop.updates=9")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()  # as after a kill before the first checkpoint
    run_world(2, tmp_path / "run", OFTEN, resume="auto")
    assert versions_in(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    assert read_groups(tmp_path / "run").version.tolist() == [1, 2, 3, 4, 5, 6]
