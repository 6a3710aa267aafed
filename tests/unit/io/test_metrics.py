"""Metrics, the summary and the run directory: new columns, resumption, kills during a write."""

import csv
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

from hpcmarl.errors import ConfigError, FormatError, StorageError
from hpcmarl.io import metrics_writer, row_files, table
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.describe import verify_file
from hpcmarl.io.metrics import read_groups, read_hdf5, read_hdf5_groups, read_metrics, write_summary
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.row_files import read_csv
from hpcmarl.io.run_directory import RunDirectory

NAMES = st.sampled_from(
    ["version", "a", "return/agent", "return.agent", 'with "quotes", commas', "é", "seconds"]
)
VALUES = st.floats() | st.integers(-(2**70), 2**70)


def expected_columns(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.array([float(row.get(name, math.nan)) for row in rows]) for name in names}


def assert_columns(found, rows):
    expected = expected_columns(rows)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def written(directory, *rows, version=None):
    """Write rows and close the writer."""
    writer = begun(directory, version=version)
    for row in rows:
        writer.append(row)
    writer.close()


def begun(directory, *, version=None):
    """Return the writer of a start that resumes from version `version`; None: no checkpoint."""
    writer = MetricsWriter(directory)
    writer.truncate(version)
    return writer


def versions_in(directory):
    """Return the versions of metrics.csv, line by line."""
    with (directory / "metrics.csv").open(newline="") as stream:
        return [int(row["version"]) for row in csv.DictReader(stream)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, min_size=1), min_size=1, max_size=8), st.integers(0, 8))
def test_metrics_rows_round_trip_with_new_columns(tmp_path_factory, rows, cut):
    directory = tmp_path_factory.mktemp("run")
    rows = [{**row, "version": number} for number, row in enumerate(rows)]
    writer = begun(directory)
    for number, row in enumerate(rows[:cut]):
        writer.append(row)
        assert writer.wait(60)
        assert len(read_metrics(directory)["version"]) == number + 1  # every row is on disk at once
    writer.close()
    written(directory, *rows[cut:], version=100)
    assert_columns(read_metrics(directory), rows)
    assert_columns(read_hdf5(directory / "metrics.h5"), rows)
    (directory / "metrics.csv").unlink()
    assert_columns(read_metrics(directory), rows)


def test_a_resumed_run_drops_rows_past_its_checkpoint(tmp_path):
    writer = begun(tmp_path)
    for version in range(10):
        writer.append({"version": version, "x": version / 3})
    assert writer.wait(60)  # killed: no close
    writer = begun(tmp_path, version=6)
    assert writer.wait(60)
    assert read_metrics(tmp_path)["version"].tolist() == list(range(7))
    writer.append({"version": 7, "new": 1})
    writer.close()
    found = read_metrics(tmp_path)
    assert found["version"].tolist() == list(range(8))
    assert found["x"][6] == 2.0
    assert math.isnan(found["x"][7])
    written(tmp_path, version=100)
    assert len(read_metrics(tmp_path)["version"]) == 8
    (tmp_path / "new").mkdir()
    written(tmp_path / "new", version=3)
    assert os.listdir(tmp_path / "new") == []


def test_a_start_without_a_checkpoint_begins_anew(tmp_path):
    for number in range(2):
        writer = begun(tmp_path)
        for version in range(1, 4 - number):
            writer.append({"version": version, "start": number}, {"slots": np.ones(2)})
        writer.close()
    assert versions_in(tmp_path) == [1, 2]
    assert read_metrics(tmp_path)["start"].tolist() == [1, 1]
    assert read_groups(tmp_path).version.tolist() == [1, 2]
    begun(tmp_path).close()  # killed at once
    with pytest.raises(FormatError, match="neither"):
        read_metrics(tmp_path)
    assert os.listdir(tmp_path) == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=6), st.booleans(), st.integers(0, 9)), max_size=5)
)
def test_no_version_is_twice_after_any_starts(tmp_path_factory, starts):
    """Each start adds rows of the same or of later versions, and is killed or ends.

    It resumes from a checkpoint, or begins without one.
    """
    directory, version = tmp_path_factory.mktemp("run"), 0
    for steps, killed, kept in starts:
        version = min(kept, version)
        writer = begun(directory, version=version or None)
        for step in steps:
            version += step
            writer.append({"version": version}, {"slots": np.full(3, version)})
        if killed:
            assert writer.wait(60)
        else:
            writer.append({"version": version}, {"slots": np.full(3, version)})
            writer.close()
    if (directory / "metrics.csv").exists():
        assert (np.diff(versions_in(directory)) > 0).all()
        assert versions_in(directory)[-1] <= version
    groups = read_groups(directory)
    if groups is not None:
        assert (np.diff(groups.version) > 0).all()
        np.testing.assert_array_equal(groups.figures["slots"], np.repeat(groups.version[:, None], 3, axis=1))


def test_last_row_replaces_one_of_its_version(tmp_path):
    writer = begun(tmp_path)
    writer.append({"version": 1, "loss": 0.5, "seconds": 1234567})
    assert writer.wait(60)
    writer.append({"version": 2, "loss": 0.25, "seconds": 1234568})
    assert writer.wait(60)
    writer.append({"version": 2, "seconds": 3})
    assert writer.wait(60)
    assert (tmp_path / "metrics.csv").read_text() == "version,loss,seconds\n1,0.5,1234567\n2,0.25,3\n"
    writer.append({"version": 3, "seconds": 4})
    writer.close()
    assert (tmp_path / "metrics.csv").read_text().endswith("\n2,0.25,3\n3,,4\n")


def test_incomplete_last_line_is_ignored(tmp_path):
    written(tmp_path, {"version": 1, "x": 2})
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("2,3.1")
    assert read_metrics(tmp_path)["version"].tolist() == [1]
    found = verify_file(tmp_path / "metrics.csv")
    assert found["status"] == "bad"
    assert "ends in the middle of a row (1 whole rows, then 5 bytes)" in found["reason"]
    written(tmp_path, {"version": 2, "x": 5}, version=1)
    assert (tmp_path / "metrics.csv").read_text() == "version,x\n1,2\n2,5\n"
    assert verify_file(tmp_path / "metrics.csv")["status"] == "good"


@pytest.mark.parametrize("name", ["metrics.csv", "metrics-groups.npy"])
def test_metrics_recover_all_rows_after_a_disk_failure(tmp_path, monkeypatch, caplog, name):
    writer = begun(tmp_path)
    writer.append({"version": 1}, {"slots": np.ones(2)})
    assert writer.wait(60)
    real = os.pwrite

    def full(descriptor, data, offset):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(name):
            if len(data) > 1:
                return real(descriptor, data[:1], offset)
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    def full_disk(path, *_):
        raise StorageError(f"{path}: the disk is full")

    monkeypatch.setattr(os, "pwrite", full)
    writer.append({"version": 2}, {"slots": np.ones(2)})
    assert writer.wait(60)
    assert "disk is full" in writer.error
    assert all(verify_file(path)["status"] == "good" for path in tmp_path.iterdir())
    monkeypatch.setattr(row_files, "write_atomically", full_disk)
    writer.append({"version": 3}, {"slots": np.ones(2)})
    assert writer.wait(60)
    assert "disk is full" in writer.error
    monkeypatch.undo()
    writer.append({"version": 4}, {"slots": np.ones(2)})
    assert writer.wait(60)
    assert writer.error is None
    assert caplog.text.count("disk is full") == 1
    assert versions_in(tmp_path) == [1, 2, 3, 4]
    assert read_groups(tmp_path).version.tolist() == [1, 2, 3, 4]
    writer.close()


def test_a_hanging_disk_holds_up_nobody(tmp_path, monkeypatch, caplog):
    answers = threading.Event()
    real = row_files.write_atomically

    def hangs(*arguments):
        answers.wait()
        real(*arguments)

    monkeypatch.setattr(row_files, "write_atomically", hangs)
    monkeypatch.setattr(metrics_writer, "CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(metrics_writer, "MOST_WAITING", 100)
    writer = begun(tmp_path)
    for version in range(5000):
        writer.append({"version": version})
    assert not writer.wait(0.01)
    assert len(writer._waiting) <= 100
    writer.close()
    assert "has not responded" in writer.error
    answers.set()
    assert writer.wait(60)
    versions = versions_in(tmp_path)
    assert versions[-1] == 4999
    assert np.diff([0, *versions]).max() <= 200  # evenly spaced


def test_metrics_h5_snapshot_is_written_periodically(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(metrics_writer, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(metrics_writer, "SECOND_SNAPSHOT_SECONDS", 0.0)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    writer = begun(tmp_path)
    writer.append({"version": 1})
    assert writer.wait(60)
    assert read_hdf5(tmp_path / "metrics.h5")["version"].tolist() == [1]
    (tmp_path / "metrics.h5").unlink()
    (tmp_path / "metrics.h5").mkdir()  # cannot be replaced; training continues
    writer.append({"version": 2})
    writer.close()
    assert "metrics.h5" in caplog.text
    assert read_metrics(tmp_path)["version"].tolist() == [1, 2]


def test_xarray_opens_metrics(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    writer = begun(tmp_path)
    writer.append(
        {"version": 1, "return/agent": -3.5, "env_steps_per_second": 7, "groups": 2, "row": 1},
        {"slots": np.array([1.0, 2.0])},
    )
    writer.append(
        {"version": 2}, {"slots": np.array([1.0, 3.0]), "gradient_seconds": np.array([0.5, math.nan])}
    )
    writer.close()
    with xarray.open_dataset(tmp_path / "metrics.h5", engine="h5netcdf") as dataset:
        assert dataset["return.agent"].dims == ("row",)
        assert dataset["return.agent"].values[0] == -3.5
        assert dataset["return.agent"].attrs == {"column": "return/agent", "units": "reward"}
        assert dataset["env_steps_per_second"].attrs["units"] == "1/s"
        assert dataset["groups_"].values[0] == 2
    with xarray.open_dataset(tmp_path / "metrics.h5", group="groups", engine="h5netcdf") as dataset:
        assert dataset["slots"].dims == ("row", "group")
        assert dataset["slots"].values.tolist() == [[1, 2], [1, 3]]
        assert dataset["version"].values.tolist() == [1, 2]
        assert dataset["group"].values.tolist() == [0, 1]
        assert dataset["gradient_seconds"].attrs["units"] == "s"
        assert math.isnan(dataset["gradient_seconds"].values[0, 0])


def test_group_figures_equal_in_both_files_and_in_numpy(tmp_path):
    writer = begun(tmp_path)
    generator = np.random.default_rng(1)
    for version in range(0, 30, 3):
        writer.append(
            {"version": version},
            {"slots": generator.random(5), **({"late": generator.random(5)} if version > 9 else {})},
        )
    writer.close()
    found, stored = read_groups(tmp_path), read_hdf5_groups(tmp_path / "metrics.h5")
    plain = np.load(tmp_path / "metrics-groups.npy")
    assert list(plain.dtype.names) == ["version", "slots", "late"]
    assert found.figures["slots"].shape == (10, 5)
    for versions in (found.version, stored.version):
        np.testing.assert_array_equal(versions, plain["version"])
    for name in ("slots", "late"):
        np.testing.assert_array_equal(found.figures[name], stored.figures[name])
        np.testing.assert_array_equal(found.figures[name], plain[name])
    (tmp_path / "metrics-groups.npy").unlink()
    np.testing.assert_array_equal(read_groups(tmp_path).figures["late"], found.figures["late"])


def test_half_written_group_row_is_invisible(tmp_path):
    written(tmp_path, {"version": 0})
    writer = begun(tmp_path)
    for version in range(12):  # the number of rows gets a second digit
        writer.append({"version": version}, {"slots": np.full(4, version)})
        assert writer.wait(60)
        assert len(np.load(tmp_path / "metrics-groups.npy")) == version + 1
    with (tmp_path / "metrics-groups.npy").open("ab") as stream:
        stream.write(bytes(13))
    assert read_groups(tmp_path).version.tolist() == list(range(12))
    assert verify_file(tmp_path / "metrics-groups.npy")["status"] == "good"
    os.truncate(tmp_path / "metrics-groups.npy", (tmp_path / "metrics-groups.npy").stat().st_size - 14)
    assert "truncated" in verify_file(tmp_path / "metrics-groups.npy")["reason"]


def test_another_number_of_groups_begins_their_figures_anew(tmp_path):
    writer = begun(tmp_path)
    for version, groups in ((1, 3), (2, 3), (3, 4)):
        writer.append({"version": version}, {"slots": np.ones(groups)})
    writer.close()
    assert read_groups(tmp_path).figures["slots"].shape == (1, 4)
    assert versions_in(tmp_path) == [1, 2, 3]


def test_5000_groups_are_written_and_read(tmp_path):
    writer = begun(tmp_path)
    figures = {name: np.arange(5000.0) for name in "abcdefg"}
    for version in range(20):
        writer.append({"version": version}, figures)
    writer.close()
    assert read_hdf5_groups(tmp_path / "metrics.h5").figures["g"].shape == (20, 5000)
    assert read_groups(tmp_path).figures["a"].shape == (20, 5000)


@pytest.fixture
def small(monkeypatch):
    """Set the limits for a run of a thousandth of the length."""
    monkeypatch.setattr(table, "ROWS", 200)
    monkeypatch.setattr(row_files, "LARGEST_CSV", 10_000)


def test_long_runs_are_thinned_in_the_files(tmp_path, small):
    writer = begun(tmp_path)
    for version in range(5000):
        writer.append({"version": version, "x": version / 7}, {"slots": np.full(2, version)})
        if version % 100 == 0:
            assert writer.wait(60)
    writer.close()
    found = read_metrics(tmp_path)
    assert len(found["version"]) < 200
    assert found["version"][-100:].tolist() == list(range(4900, 5000))
    assert found["version"][0] == 0
    np.testing.assert_array_equal(found["x"], found["version"] / 7)
    groups = read_groups(tmp_path)
    np.testing.assert_array_equal(groups.figures["slots"][:, 1], groups.version)
    np.testing.assert_array_equal(groups.version, found["version"])


def test_forged_long_file_of_an_earlier_version_is_resumed(tmp_path, small):
    """A file of an earlier hpcmarl version holds a year of rows with columns by group.

    It also holds duplicates, and rows that a restart superseded.
    """
    names = [f"group_{group}/{figure}" for group in range(100) for figure in ("trajectories", "slots")]
    cells = ",".join("5" for _ in names)
    versions = [*range(30), *range(3000), 2999, *range(3000, 4000)]
    with (tmp_path / "metrics.csv").open("w") as stream:
        stream.write(",".join(["version", *names[:150], "x", *names[150:]]) + "\n")
        for version in versions:
            stream.write(f"{version},{cells[:299]},{version / 4 if version % 2 else ''},{cells[300:]}\n")
    assert (tmp_path / "metrics.csv").stat().st_size > 100 * row_files.LARGEST_CSV
    assert verify_file(tmp_path / "metrics.csv")["status"] == "good"
    thinned = read_metrics(tmp_path)
    assert (len(thinned), len(thinned["version"]) < 200) == (2, True)
    writer = begun(tmp_path, version=3900)
    assert writer.wait(60)
    writer.append({"version": 3901, "x": 1})
    writer.close()
    found = read_metrics(tmp_path)
    assert list(found) == ["version", "x"]
    assert (np.diff(found["version"]) > 0).all()
    assert (found["version"][0], found["version"][-2], found["version"][-1]) == (0, 3900, 3901)
    odd = found["version"][:-1] % 2 == 1
    np.testing.assert_array_equal(found["x"][:-1][odd], found["version"][:-1][odd] / 4)
    assert (tmp_path / "metrics.csv").stat().st_size < 10_000


def test_reading_takes_no_more_memory_than_the_columns(tmp_path):
    rows = 20_000
    with (tmp_path / "metrics.csv").open("w") as stream:
        stream.write("version," + ",".join(f"x{index}" for index in range(19)) + "\n")
        stream.writelines(f"{row}," + ",".join(["0.123456"] * 19) + "\n" for row in range(rows))
    tracemalloc.start()
    try:
        found = read_metrics(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        MetricsWriter(tmp_path)
        _, resumed = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    columns = sum(values.nbytes for values in found.values())
    assert columns == 8 * 20 * rows
    assert peak < 1.5 * columns
    assert resumed - before < 3.5 * columns  # the table, with spare rows


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
    for text, words in (("a,b\n1,2\n", "no column version"), ("version,b\n,2\n", "line 2: version is nan")):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(FormatError, match=words):
            MetricsWriter(tmp_path)


def test_rows_are_written_again_without_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_writer, "RETRY_SECONDS", 0.01)
    written = threading.Event()
    tries = []

    def fail_once(*arguments):
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        write_atomically(*arguments)
        written.set()

    monkeypatch.setattr(row_files, "write_atomically", fail_once)
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1})
    assert written.wait(30)
    writer.close()
    assert read_metrics(tmp_path)["version"].tolist() == [1]


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
    assert history is not None
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


def test_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "LARGEST_LINE", 1000)
    (tmp_path / "metrics.csv").write_text("version\n" + "1" * 5000)
    with pytest.raises(FormatError, match="line 2: longer than"):
        read_csv(tmp_path / "metrics.csv")


def test_summary_has_no_nan(tmp_path):
    summary = {
        "a": math.nan,
        "b": np.float32(0.5),
        "c": [np.inf, 1],
        "d": {"e": np.arange(2)},
        "f": Path("x"),
        "g": None,
        "h": np.int64(3),
    }
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


def test_rows_cut_from_an_open_file_leave_no_line_behind(tmp_path):
    """A resumed run drops the rows after its checkpoint, and may replace the row of the checkpoint."""
    writer = MetricsWriter(tmp_path)
    for version in range(1, 10):
        writer.append({"version": version, "x": version}, {"trajectories": np.array([1.0 * version])})
    writer.wait()
    writer.truncate(8)
    writer.wait()
    writer.append({"version": 8, "x": 80}, {"trajectories": np.array([80.0])})
    writer.close()
    assert read_metrics(tmp_path)["version"].tolist() == list(range(1, 9))
    assert read_metrics(tmp_path)["x"].tolist() == [*range(1, 8), 80]
    assert read_groups(tmp_path).version.tolist() == list(range(1, 9))
