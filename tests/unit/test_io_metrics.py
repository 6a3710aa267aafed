"""Metrics, the summary and the run directory: growing columns, resumption, kills in mid-line."""

import json
import logging
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io import metrics
from hpcmarl.io.metrics import MetricsWriter, read_hdf5, read_metrics, write_summary
from hpcmarl.io.run_directory import RunDirectory

NAMES = st.sampled_from(["version", "a", "return/agent", "return.agent", 'with "quotes", commas', "é", "seconds"])
VALUES = st.floats() | st.integers(-(2**70), 2**70)


def expected_columns(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.array([float(row.get(name, math.nan)) for row in rows]) for name in names}


def assert_columns(found, rows):
    expected = expected_columns(rows)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, min_size=1), min_size=1, max_size=8), st.integers(0, 8))
def test_metrics_rows_round_trip_with_new_columns(tmp_path_factory, rows, cut):
    directory = tmp_path_factory.mktemp("run")
    writer = MetricsWriter(directory)
    for row in rows[:cut]:
        writer.append(row)
        assert len(next(iter(read_metrics(directory).values()))) > 0  # every row is on disk at once
    writer.close()
    writer = MetricsWriter(directory)
    for row in rows[cut:]:
        writer.append(row)
    writer.close()
    writer.close()
    assert_columns(read_metrics(directory), rows)
    assert_columns(read_hdf5(directory / "metrics.h5"), rows)
    (directory / "metrics.csv").unlink()
    assert_columns(read_metrics(directory), rows)


def test_a_resumed_run_drops_rows_past_its_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path)
    for version in range(10):
        writer.append({"version": version, "x": version / 3})
    del writer  # killed: no close
    writer = MetricsWriter(tmp_path)
    writer.truncate(6)
    assert read_metrics(tmp_path)["version"].tolist() == list(range(7))
    writer.append({"version": 7, "new": 1})
    writer.close()
    found = read_metrics(tmp_path)
    assert found["version"].tolist() == list(range(8))
    assert found["x"][6] == 2.0
    assert math.isnan(found["x"][7])
    MetricsWriter(tmp_path).truncate(100)
    assert len(read_metrics(tmp_path)["version"]) == 8
    MetricsWriter(tmp_path / "new").truncate(3)


def test_incomplete_last_line_is_ignored(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1, "x": 2})
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("2,3.1")
    assert read_metrics(tmp_path)["version"].tolist() == [1]
    again = MetricsWriter(tmp_path)
    again.append({"version": 2, "x": 5})
    assert (tmp_path / "metrics.csv").read_text() == "version,x\n1,2\n2,5\n"


def test_metrics_recover_all_rows_after_a_disk_failure(tmp_path, monkeypatch, caplog):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    writer._stream.close()
    writer._stream = SimpleNamespace(write=full, flush=full, close=full)
    writer.append({"version": 2})
    assert "disk is full" in writer.error
    monkeypatch.setattr(metrics, "write_text", full)
    writer.append({"version": 3})
    monkeypatch.undo()
    writer.append({"version": 4})
    assert writer.error is None
    assert caplog.text.count("disk is full") == 1
    assert read_metrics(tmp_path)["version"].tolist() == [1, 2, 3, 4]
    writer.close()


def test_metrics_h5_snapshot_is_written_periodically(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "SNAPSHOT_SECONDS", 0.0)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})
    writer._snapshot.join()
    assert read_hdf5(tmp_path / "metrics.h5")["version"].tolist() == [1]
    (tmp_path / "metrics.h5").unlink()
    (tmp_path / "metrics.h5").mkdir()  # cannot be replaced: told in the log, training goes on
    writer.append({"version": 2})
    writer.close()
    assert read_metrics(tmp_path)["version"].tolist() == [1, 2]


def test_xarray_opens_metrics(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1, "return/agent": -3.5, "env_steps_per_second": 7})
    writer.close()
    with xarray.open_dataset(tmp_path / "metrics.h5", engine="h5netcdf") as dataset:
        assert dataset["return.agent"].dims == ("row",)
        assert dataset["return.agent"].values.tolist() == [-3.5]
        assert dataset["return.agent"].attrs == {"column": "return/agent", "units": "reward"}
        assert dataset["env_steps_per_second"].attrs["units"] == "1/s"


def test_malformed_metrics_name_the_line(tmp_path):
    with pytest.raises(FormatError, match="neither"):
        read_metrics(tmp_path)
    for text, words in (("a,b\n1,2\n1,x\n", "line 3"), ("a,b\n1\n", "line 2"), ("a,a\n1,2\n", "twice")):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(FormatError, match=words):
            read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(FormatError, match="not a text file"):
        MetricsWriter(tmp_path)


def test_summary_has_no_nan(tmp_path):
    summary = {"a": math.nan, "b": np.float32(0.5), "c": [np.inf, 1], "d": {"e": np.arange(2)}, "f": Path("x"), "g": None, "h": np.int64(3)}
    write_summary(tmp_path, summary)
    expected = {"a": None, "b": 0.5, "c": [None, 1], "d": {"e": [0, 1]}, "f": "x", "g": None, "h": 3}
    assert json.loads((tmp_path / "summary.json").read_text()) == expected
    assert os.listdir(tmp_path) == ["summary.json"]


def test_run_directory_is_created_and_resumed(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create("seed: 1\n")
    assert run.config.read_text() == "seed: 1\n"
    assert sorted(os.listdir(run.path)) == ["checkpoints", "config.yaml", "logs", "trajectories"]
    assert run.log_path(12) == run.path / "logs" / "rank-0012.log"
    assert run.trajectory_directory(3) == run.path / "trajectories" / "rank-0003"
    with pytest.raises(ConfigError, match=r"--run-dir .*not empty.*--resume"):
        run.check(resuming=False)
    run.check(resuming=True)
    run.create("seed: 2\n", keep="start-0001")
    assert (run.path / "starts" / "start-0001.yaml").read_text() == "seed: 1\n"
    assert run.config.read_text() == "seed: 2\n"
    (tmp_path / "empty").mkdir()
    RunDirectory(tmp_path / "empty").create("")


def open_directory(path):
    RunDirectory(path).check(resuming=False)
    RunDirectory(path).create("")


def test_unusable_run_directories_are_rejected(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for place in ("file", "file/below", "link", "x" * 300):
        with pytest.raises(ConfigError, match="--run-dir") as caught:
            open_directory(tmp_path / place)
        assert "\n" not in str(caught.value)


def test_low_disk_space_logs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("hpcmarl.io.run_directory.shutil.disk_usage", lambda _: SimpleNamespace(free=10**8))
    with caplog.at_level(logging.WARNING):
        RunDirectory(tmp_path / "run").create("")
    assert "0.1 GB are free" in caplog.text
