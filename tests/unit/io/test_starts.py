"""Start records, the lineage that they make, and names that are never replaced."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.errors import FormatError, StorageError
from hpcmarl.io.atomic import publish_new
from hpcmarl.io.describe import run_files, verify_file
from hpcmarl.io.starts import Lineage, Start, read_lineage, read_starts, write_start


def test_records_read_back_as_written(tmp_path: Path) -> None:
    starts = [
        Start(1, facts={"host": "n1"}),
        Start(2, 1, 40, {1: 7, 3: 9}, "checkpoints/checkpoint-0000000040.h5"),
    ]
    for start in starts:
        write_start(tmp_path, start)
    assert read_starts(tmp_path) == {start.number: start for start in starts}


def test_a_record_is_never_replaced(tmp_path: Path) -> None:
    write_start(tmp_path, Start(1))
    with pytest.raises(StorageError, match=r"start-0001\.json"):
        write_start(tmp_path, Start(1, facts={"host": "other"}))
    assert read_starts(tmp_path)[1].facts == {}


@pytest.mark.parametrize("change", [{"parent": 2}, {"number": 7}, {"rollouts": [1]}, {"version": "x"}])
def test_damaged_record_is_one_error(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_start(tmp_path, Start(1))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match=r"start-0001\.json: not the record of a start"):
        read_starts(tmp_path)
    assert verify_file(path)["status"] == "bad"
    assert path in run_files(tmp_path)


def live(lineage: Lineage, start: int, rank: int, rollouts: int, version: int = 5) -> list[int]:
    numbers = np.arange(rollouts)
    return numbers[lineage.live(start, rank, numbers, np.full(rollouts, version))].tolist()


def test_resumed_start_supersedes_what_followed_its_checkpoint() -> None:
    lineage = Lineage({1: Start(1), 2: Start(2, 1, 40, {1: 3})})
    assert live(lineage, 1, 1, 5) == [0, 1, 2]
    assert live(lineage, 2, 1, 5) == [0, 1, 2, 3, 4]


def test_start_without_a_checkpoint_supersedes_everything() -> None:
    lineage = Lineage({1: Start(1), 2: Start(2)})
    assert live(lineage, 1, 1, 5) == []


def test_resuming_an_older_checkpoint_abandons_later_starts() -> None:
    lineage = Lineage({1: Start(1), 2: Start(2, 1, 40, {1: 3}), 3: Start(3, 1, 20, {1: 2})})
    assert lineage.chain == [1, 3]
    assert live(lineage, 1, 1, 5) == [0, 1]
    assert live(lineage, 2, 1, 5) == []


def test_rank_without_a_saved_state_is_cut_by_version() -> None:
    lineage = Lineage({1: Start(1), 2: Start(2, 1, 40, {1: 3})})
    assert live(lineage, 1, 2, 2, version=39) == [0, 1]
    assert live(lineage, 1, 2, 2, version=40) == []


def test_segments_of_unrecorded_starts_are_live(tmp_path: Path) -> None:
    assert live(read_lineage(tmp_path), 1, 1, 3) == [0, 1, 2]


def test_published_name_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("first")
    (tmp_path / "new.partial").write_text("second")
    with pytest.raises(FileExistsError):
        publish_new(tmp_path / "new.partial", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "first"
    assert (tmp_path / "new.partial").exists()


@pytest.mark.parametrize("links", [True, False])
def test_published_file_has_one_name(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links")

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.partial").write_text("whole")
    publish_new(tmp_path / "a.partial", tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b.partial").write_text("other")
    with pytest.raises(FileExistsError):
        publish_new(tmp_path / "b.partial", tmp_path / "a")


def test_repeated_link_request_counts_as_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    (tmp_path / "a.partial").write_text("whole")
    publish_new(tmp_path / "a.partial", tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
