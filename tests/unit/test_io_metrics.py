"""Metrics, the summary and the run directory: growing columns, resumption, kills in mid-line."""

import json
import logging
import math
import os
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io import metrics, metrics_writer
from hpcmarl.io.atomic import write_text
from hpcmarl.io.metrics import Table, check_csv, read_csv, read_groups, read_hdf5, read_metrics, write_summary
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.run_directory import RunDirectory

NAMES = st.sampled_from(["version", "a", "return/agent", "return.agent", 'with "quotes", commas', "é", "seconds"])
VALUES = st.floats() | st.integers(-(2**70), 2**70)


def one_a_version(rows):
    """What is kept of rows: a row takes the place of the one before if that has the same version."""
    kept = []
    for row in rows:
        if kept and float(kept[-1].get("version", math.nan)) == float(row.get("version", math.nan)):
            kept.pop()
        kept.append(row)
    return kept


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
        writer.wait()
        assert len(next(iter(read_metrics(directory).values()))) > 0  # every row is on disk at once
    writer.close()
    writer = MetricsWriter(directory)
    for row in rows[cut:]:
        writer.append(row)
    writer.close()
    writer.close()
    kept, names = one_a_version(rows), {name for row in rows for name in row}
    kept = [{**dict.fromkeys(names, math.nan), **row} for row in kept]
    assert_columns(read_metrics(directory), kept)
    assert_columns(read_hdf5(directory / "metrics.h5"), kept)
    (directory / "metrics.csv").unlink()
    assert_columns(read_metrics(directory), kept)


def test_a_resumed_run_drops_rows_past_its_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path)
    for version in range(10):
        writer.append({"version": version, "x": version / 3})
    writer.wait()  # killed: no close
    writer = MetricsWriter(tmp_path)
    writer.truncate(6)
    writer.wait()
    assert read_metrics(tmp_path)["version"].tolist() == list(range(7))
    writer.append({"version": 7, "new": 1})
    writer.close()
    found = read_metrics(tmp_path)
    assert found["version"].tolist() == list(range(8))
    assert found["x"][6] == 2.0
    assert math.isnan(found["x"][7])
    again = MetricsWriter(tmp_path)
    again.truncate(100)
    again.close()
    assert len(read_metrics(tmp_path)["version"]) == 8
    writer = MetricsWriter(tmp_path)
    writer.truncate(3)
    writer.close()


def test_incomplete_last_line_is_ignored(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1, "x": 2})
    writer.wait()
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("2,3.1")
    assert read_metrics(tmp_path)["version"].tolist() == [1]
    again = MetricsWriter(tmp_path)
    again.append({"version": 2, "x": 5})
    again.wait()
    assert (tmp_path / "metrics.csv").read_text() == "version,x\n1,2\n2,5\n"


def test_metrics_recover_all_rows_after_a_disk_failure(tmp_path, monkeypatch, caplog):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})
    writer.wait()

    def full(*_):
        raise OSError(28, "No space left on device")

    writer._stream.close()
    writer._stream = SimpleNamespace(write=full, flush=full, close=full, seek=lambda *_: 0)
    monkeypatch.setattr(metrics_writer, "write_text", full)
    writer.append({"version": 2})
    writer.wait()
    assert "disk is full" in writer.error
    writer.append({"version": 3})
    writer.wait()
    monkeypatch.undo()
    writer.append({"version": 4})
    writer.wait()
    assert writer.error is None
    assert caplog.text.count("disk is full") == 1
    assert read_metrics(tmp_path)["version"].tolist() == [1, 2, 3, 4]
    writer.close()


def test_rows_are_written_again_without_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_writer, "RETRY_SECONDS", 0.01)
    written = threading.Event()
    tries = []

    def fail_once(path, text):
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        write_text(path, text)
        written.set()

    monkeypatch.setattr(metrics_writer, "write_text", fail_once)
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})
    assert written.wait(30)
    writer.close()
    assert read_metrics(tmp_path)["version"].tolist() == [1]


def test_stalled_disk_holds_nobody_up(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(metrics_writer, "write_text", lambda path, text: (go_on.wait(60), write_text(path, text)))
    monkeypatch.setattr(metrics_writer, "MOST_WAITING", 100)
    writer = MetricsWriter(tmp_path)
    for version in range(5000):
        writer.append({"version": version})
    assert len(writer._waiting) <= 101
    go_on.set()
    writer.close()
    versions = read_metrics(tmp_path)["version"]
    assert (np.diff(versions) > 0).all()
    assert versions[-1] == 4999


def test_metrics_h5_snapshot_is_written_periodically(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_writer, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(metrics_writer, "FIRST_SNAPSHOT_SECONDS", 0.0)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})
    writer.wait()
    assert read_hdf5(tmp_path / "metrics.h5")["version"].tolist() == [1]
    (tmp_path / "metrics.h5").unlink()
    (tmp_path / "metrics.h5").mkdir()  # cannot be replaced: told in the log, training goes on
    writer.append({"version": 2})
    writer.close()
    assert read_metrics(tmp_path)["version"].tolist() == [1, 2]


def test_a_version_has_one_row(tmp_path):
    writer = MetricsWriter(tmp_path)
    for version, x in ((1, 1), (1, 2), (2, 3), (2, 400), (2, 5)):
        writer.append({"version": version, "x": x}, {"trajectories": [x, x + 1]})
    writer.wait()
    assert (tmp_path / "metrics.csv").read_text() == "version,x\n1,2\n2,5\n"
    writer.close()
    again = MetricsWriter(tmp_path)
    again.truncate(2)
    again.append({"version": 2, "x": 6}, {"trajectories": [6, 7]})
    again.close()
    assert (tmp_path / "metrics.csv").read_text() == "version,x\n1,2\n2,6\n"
    history = read_groups(tmp_path)
    assert history.version.tolist() == [1, 2]
    assert history.figures["trajectories"].tolist() == [[2, 3], [6, 7]]


def test_rows_of_a_start_without_checkpoint_go_aside(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 5})
    writer.close()
    again = MetricsWriter(tmp_path)
    again.truncate(None, tmp_path / "starts" / "old.csv")
    again.append({"version": 1})
    again.close()
    assert read_metrics(tmp_path)["version"].tolist() == [1]
    assert (tmp_path / "starts" / "old.csv").read_text() == "version\n5\n"


@pytest.mark.parametrize("rows", [100, 101, 5000])
def test_old_rows_thin_out(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(metrics_writer.Table.__init__, "__defaults__", (100,))
    writer = MetricsWriter(tmp_path)
    for version in range(rows):
        writer.append({"version": version})
        if version % 1000 == 0:
            writer.wait()
    writer.close()
    versions = read_metrics(tmp_path)["version"]
    assert 50 < len(versions) <= 100
    assert (versions[0], versions[-1]) == (0, rows - 1)
    assert (np.diff(versions) > 0).all()
    assert (np.diff(versions[-50:]) == 1).all()


def test_long_table_is_read_in_bounded_memory(tmp_path, monkeypatch):
    """A table of a format from before /groups, much longer than what is kept of it."""
    monkeypatch.setattr(Table.__init__, "__defaults__", (200,))
    heading = ["version", "x", *(f"group_{group}/trajectories" for group in range(300))]
    with (tmp_path / "metrics.csv").open("w") as stream:
        stream.write(",".join(heading) + "\n")
        for version in range(3000):
            stream.write(f"{version},{version / 4}," + ",".join("7" * 300) + "\n")
    tracemalloc.start()
    found = read_csv(tmp_path / "metrics.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(found) == {"version", "x"}
    assert len(found["x"]) <= 200
    assert found["version"][-1] == 2999
    assert peak < (tmp_path / "metrics.csv").stat().st_size / 5
    writer = MetricsWriter(tmp_path)
    writer.truncate(2000)
    writer.append({"version": 2001, "x": 1})
    writer.close()
    assert read_csv(tmp_path / "metrics.csv")["version"][-1] == 2001


def test_groups_of_any_number_have_one_array_a_figure(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    writer = MetricsWriter(tmp_path)
    for version in range(1, 4):
        writer.append({"version": version}, {"trajectories": np.arange(5000) * version, "exchange_seconds": np.full(5000, np.nan)})
    writer.close()
    with xarray.open_dataset(tmp_path / "metrics.h5", group="groups", engine="h5netcdf") as dataset:
        assert dataset["trajectories"].dims == ("row", "group")
        assert dataset["trajectories"].shape == (3, 5000)
        assert dataset["version"].values.tolist() == [1, 2, 3]
        assert dataset["exchange_seconds"].attrs["units"] == "s"
    assert "group" not in (tmp_path / "metrics.csv").read_text()


def test_history_of_groups_thins_out(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_writer, "MOST_GROUP_ROWS", 10)
    writer = MetricsWriter(tmp_path)
    for version in range(100):
        writer.append({"version": version}, {"trajectories": [version]})
    writer.close()
    versions = read_groups(tmp_path).version
    assert len(versions) <= 10
    assert (versions[0], versions[-1]) == (0, 99)


def test_cut_last_row_does_not_verify(tmp_path):
    (tmp_path / "metrics.csv").write_text("version,x\n1,2\n")
    check_csv(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("version,x\n1,2\n2,3.")
    assert read_csv(tmp_path / "metrics.csv")["version"].tolist() == [1]
    with pytest.raises(FormatError, match="the last row is cut short"):
        check_csv(tmp_path / "metrics.csv")


def test_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "LONGEST_LINE", 1000)
    (tmp_path / "metrics.csv").write_text("version\n" + "1" * 5000)
    with pytest.raises(FormatError, match="has a line of more than"):
        read_csv(tmp_path / "metrics.csv")


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
