"""Event files: framing, checksums, resumed runs and disks that fail."""

import errno
import json
import logging
import os

import pytest

from hpcmarl.tracking import tensorboard
from hpcmarl.tracking.base import Place
from hpcmarl.tracking.tensorboard import TensorBoard, crc32c, tag_of
from tests.support.event_files import curve, events, slow_crc32c


def place_of(directory, **more):
    return Place(directory, "first", "0123", **more)


def files(directory):
    return sorted((directory / "tensorboard").iterdir())


def write(directory, rows, **more):
    """Write rows (version, env_steps, return) as one start of a run."""
    tracker = TensorBoard(place_of(directory, **more))
    for version, env_steps, value in rows:
        tracker.row(version, env_steps, 1.5, {"return_mean": value, "learner/loss": -value})
    tracker.close()


def test_crc32c_has_the_check_value_of_its_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    data = bytes(range(256)) * 3
    assert crc32c(data) == slow_crc32c(data)


def test_rows_are_points_over_environment_steps(tmp_path):
    write(tmp_path, [(1, 100, -2.5), (2, 250, 3.0)])
    first, *rest = events(tmp_path / "tensorboard")
    assert first.file_version == "brain.Event:2"
    assert [each.step for each in rest] == [100, 250]
    assert rest[1].scalars == {"run/version": 2, "run/seconds": 1.5, "run/return_mean": 3, "learner/loss": -3}
    assert rest[0].wall_time > 1e9
    assert not any(each.start for each in rest)


def test_steps_beyond_32_bits_and_long_tags_are_kept(tmp_path):
    tracker = TensorBoard(place_of(tmp_path))
    name = "learner/" + "ä" * 200
    tracker.row(1, 1 << 40, 0.0, {name: 1.0, "huge": 1e39})
    tracker.close()
    last = events(tmp_path / "tensorboard")[-1]
    assert last.step == 1 << 40
    assert last.scalars[name] == 1.0
    assert "run/huge" not in last.scalars  # not finite as a float32


def test_repeated_row_adds_only_changed_figures(tmp_path):
    tracker = TensorBoard(place_of(tmp_path))
    tracker.row(1, 100, 1.0, {"return_mean": 2.0})
    tracker.row(1, 100, 1.0, {"return_mean": 2.0})
    tracker.row(1, 100, 1.0, {"return_mean": 2.0, "eval_return_mean": 4.0})
    tracker.close()
    _, first, second = events(tmp_path / "tensorboard")
    assert first.scalars["run/return_mean"] == 2.0
    assert second.scalars == {"run/eval_return_mean": 4.0}


def test_configuration_and_summary_are_texts(tmp_path):
    tracker = TensorBoard(place_of(tmp_path))
    tracker.config({"name": "first", "seed": 3})
    tracker.summary({"status": "finished"})
    tracker.close()
    _, config, summary = events(tmp_path / "tensorboard")
    assert json.loads(config.texts["config"]) == {"name": "first", "seed": 3}
    assert json.loads(summary.texts["summary"]) == {"status": "finished"}


def test_resumed_start_replaces_later_points(tmp_path):
    write(tmp_path, [(1, 100, 1.0), (2, 200, 2.0), (3, 300, 3.0)])
    write(tmp_path, [(3, 310, 30.0)], start=2, version=2, env_steps=200)
    assert len(files(tmp_path)) == 2
    assert curve(tmp_path / "tensorboard", "run/return_mean") == [(100, 1.0), (200, 2.0), (310, 30.0)]


def test_start_without_a_checkpoint_replaces_all_points(tmp_path):
    write(tmp_path, [(1, 100, 1.0), (2, 200, 2.0)])
    write(tmp_path, [(1, 110, 5.0)], start=2)
    assert curve(tmp_path / "tensorboard", "run/return_mean") == [(110, 5.0)]


def test_later_start_has_the_later_name_whatever_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.time, "time", lambda: 2e9)
    write(tmp_path, [(1, 100, 1.0)])
    monkeypatch.setattr(tensorboard.time, "time", lambda: 1e9)
    write(tmp_path, [(2, 200, 2.0)], start=2, version=1, env_steps=100)
    assert [each.start for each in events(tmp_path / "tensorboard")] == [False, False, False, True, False]


def test_record_that_a_kill_cut_off_ends_its_file_only(tmp_path):
    write(tmp_path, [(1, 100, 1.0), (2, 200, 2.0)])
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    write(tmp_path, [(2, 200, 9.0)], start=2, version=1, env_steps=100)
    assert curve(tmp_path / "tensorboard", "run/return_mean") == [(100, 1.0), (200, 9.0)]


def test_full_disk_damages_no_record_and_loses_no_row(tmp_path, monkeypatch, caplog):
    full, write_at = [False], os.pwrite

    def pwrite(file, data, offset):
        if full[0]:
            write_at(file, data[:7], offset)  # a part of the record still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_at(file, data[:50], offset)

    monkeypatch.setattr(tensorboard.os, "pwrite", pwrite)
    tracker = TensorBoard(place_of(tmp_path))
    tracker.row(1, 100, 1.0, {"return_mean": 1.0})
    full[0] = True
    for version in (2, 3):
        tracker.row(version, 100 * version, 1.0, {"return_mean": float(version)})
    full[0] = False
    tracker.row(4, 400, 1.0, {"return_mean": 4.0})
    tracker.close()
    points = [(100, 1.0), (200, 2.0), (300, 3.0), (400, 4.0)]
    assert curve(tmp_path / "tensorboard", "run/return_mean") == points
    assert [line for line in caplog.messages if "No space left" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_rows_that_never_reach_the_disk_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tensorboard, "MOST_PENDING", 2)
    (tmp_path / "tensorboard").write_text("in the way")
    caplog.set_level(logging.WARNING)
    write(tmp_path, [(1, 100, 1.0), (2, 200, 2.0)])
    assert "lacks 2 rows; metrics.csv has all rows" in caplog.messages[-1]


@pytest.mark.parametrize(("name", "tag"), [("return_mean", "run/return_mean"), ("learner/x", "learner/x")])
def test_tags_have_a_group(name, tag):
    assert tag_of(name) == tag


def test_tensorboard_itself_reads_the_files(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, [(1, 100, 1.0), (2, 200, 2.0), (3, 300, 3.0)])
    tracker = TensorBoard(place_of(tmp_path, start=2, version=2, env_steps=200))
    tracker.config({"seed": 3})
    tracker.row(3, 310, 1.5, {"return_mean": 30.0})
    tracker.close()
    accumulator = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    points = [(point.step, point.value) for point in accumulator.Scalars("run/return_mean")]
    assert points == [(100, 1.0), (200, 2.0), (310, 30.0)]
    [text] = accumulator.Tensors("config")
    assert json.loads(text.tensor_proto.string_val[0]) == {"seed": 3}
    assert accumulator.SummaryMetadata("config").plugin_data.plugin_name == "text"
