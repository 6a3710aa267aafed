"""The lock on a run directory: exclusive, renewed, taken over from owners that have ended."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest

from hpcmarl.errors import ConfigError, StorageError
from hpcmarl.io import run_lock
from hpcmarl.io.run_lock import NAME, RunLock, acquire, read_owner
from hpcmarl.launch.ownership import is_gone, this_owner

OWNER = {"host": "n1", "process": 7, "job": "41"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide all periods of the lock by 100."""
    for name in ("RENEWAL_SECONDS", "STALE_SECONDS", "CERTAIN_SECONDS"):
        monkeypatch.setattr(run_lock, name, getattr(run_lock, name) / 100)


def unknown(_: object) -> None:
    """Return None: the judge cannot say whether the owner has ended."""


def make_old(directory: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(directory / NAME, (past, past))


def abandoned(directory: Path, **facts: object) -> None:
    """Write the lock of a job, without a process that renews it."""
    (directory / NAME).write_text(json.dumps({**OWNER, "token": "old", **facts}))


def test_second_owner_is_refused_while_the_first_renews(tmp_path: Path) -> None:
    first = acquire(tmp_path, OWNER, unknown)
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"in use by job 41, process 7 on n1; .* another --run-dir"):
        acquire(tmp_path, OWNER, unknown, lines.append)
    assert len(lines) == 1
    first.check()
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_living_owner_is_refused_however_old_the_lock(tmp_path: Path) -> None:
    abandoned(tmp_path)
    make_old(tmp_path, 100_000)
    with pytest.raises(ConfigError, match="in use"):
        acquire(tmp_path, OWNER, lambda _: False)


def test_lock_of_a_gone_owner_is_taken_at_once(tmp_path: Path) -> None:
    abandoned(tmp_path)
    lock = acquire(tmp_path, OWNER, lambda holder: holder["token"] == "old")
    assert (read_owner(tmp_path) or {})["token"] == lock.token
    lock.release()


@pytest.mark.parametrize("age", [0.5, 2.0, 100_000.0])
def test_lock_that_nobody_renews_is_taken_over(tmp_path: Path, age: float) -> None:
    abandoned(tmp_path)
    make_old(tmp_path, age)
    acquire(tmp_path, OWNER, unknown).release()
    assert list(tmp_path.iterdir()) == []


def test_unreadable_lock_is_taken_over_when_stale(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{")
    make_old(tmp_path, 100_000)
    acquire(tmp_path, OWNER, unknown).release()
    assert list(tmp_path.iterdir()) == []


def test_owner_that_lost_its_lock_may_not_write(tmp_path: Path) -> None:
    first = acquire(tmp_path, OWNER, unknown)
    (tmp_path / NAME).unlink()
    abandoned(tmp_path, job="99", token="other")
    with pytest.raises(StorageError, match=r"run\.lock: taken over by job 99"):
        first.check()
    first.release()
    assert (read_owner(tmp_path) or {})["token"] == "other"


def test_removed_lock_file_is_made_again(tmp_path: Path) -> None:
    lock = acquire(tmp_path, OWNER, unknown)
    (tmp_path / NAME).unlink()
    lock.check()
    assert (read_owner(tmp_path) or {})["token"] == lock.token
    lock.release()


def test_one_of_many_that_try_at_once_has_the_lock(tmp_path: Path) -> None:
    abandoned(tmp_path)
    barrier, held, refused = threading.Barrier(8), [], []

    def attempt() -> None:
        barrier.wait()
        try:
            held.append(
                acquire(tmp_path, OWNER, lambda holder: True if holder.get("token") == "old" else None)
            )
        except ConfigError:
            refused.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].check()
    held[0].release()
    assert list(tmp_path.iterdir()) == []


def test_quicker_owner_keeps_the_lock_that_was_taken_from_it(tmp_path: Path) -> None:
    abandoned(tmp_path, token="quicker")
    slow = RunLock(tmp_path, OWNER)
    slow._take_over({**OWNER, "token": "old"})
    assert (read_owner(tmp_path) or {})["token"] == "quicker"


def test_file_system_without_hard_links_has_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    first = acquire(tmp_path, OWNER, unknown)
    with pytest.raises(ConfigError, match="in use"):
        acquire(tmp_path, OWNER, unknown)
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_locked_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be locked: No such file or directory"):
        acquire(tmp_path / "gone", OWNER, unknown)


def test_judge_of_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_owner({})
    assert is_gone(here, {}) is True
    assert is_gone({**here, "process": 1, "started": 1}, {}) is True
    assert is_gone({**here, "process": os.getppid(), "started": 10**15}, {}) is True
    assert is_gone({**here, "machine": "another"}, {}) is None
    earlier = {**this_owner({"SLURM_JOB_ID": "5"}), "machine": "another"}
    assert is_gone(earlier, {"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}) is True
    assert is_gone(earlier, {"SLURM_JOB_ID": "6", "SLURM_RESTART_COUNT": "1"}) is None
    assert is_gone({}, {"SLURM_JOB_ID": "6"}) is None


def test_living_process_is_no_gone_owner() -> None:
    from hpcmarl.launch.processes import started_at

    parent = {**this_owner({}), "process": os.getppid(), "started": started_at(os.getppid())}
    assert is_gone(parent, {}) is False
