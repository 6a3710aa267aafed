"""Atomic files, checked opening, trees in HDF5 and checkpoints.

Tested are round trips, damage, crafted files and failing disks.
"""

import contextlib
import errno
import os
import threading

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import FormatError, StorageError
from hpcmarl.io import atomic
from hpcmarl.io import checkpoint as checkpoints
from hpcmarl.io.atomic import publish, storage_error, write_atomically, write_text
from hpcmarl.io.checkpoint import (
    CheckpointWriter,
    Keeper,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_aside,
    verify_checkpoint,
)
from hpcmarl.io.hdf5 import state_file
from hpcmarl.io.hdf5.schema import (
    CHECKPOINT,
    METRICS,
    NETCDF_DIMENSION,
    check_safe,
    open_checked,
    root_attributes,
    write_attributes,
)
from hpcmarl.io.hdf5.tree import read_tree, write_tree
from tests.support.trees import TREES, same

NAMES = st.text(max_size=6) | st.sampled_from(
    ["", ".", "..", "a/b", "%", "%list", "%002F", "json:1", "\0", "\ud800", "DIMENSION_LIST"]
)


def state_of(number: int) -> dict:
    generator = np.random.default_rng(number)
    return {
        "parameters": generator.standard_normal(50).astype(np.float32),
        "generator": generator.bit_generator.state,
        "queue": [{"obs": np.arange(3), "version": 2**127}, []],
        "names": ["a", "b"],
        "nothing": None,
        "text": "json:not",
    }


def test_atomic_write_leaves_old_file_and_no_litter_on_failure(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def half(partial):
        partial.write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"file: cannot write.*disk is full"):
        write_atomically(path, half)

    def refuse(_):
        raise FormatError("bad")

    with pytest.raises(FormatError):
        write_atomically(path, lambda partial: partial.write_text("new"), refuse)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_publish_syncs_before_the_rename(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(atomic.os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    (tmp_path / "a.partial").write_text("x")
    publish(tmp_path / "a.partial", tmp_path / "a", lambda path: calls.append("verify"))
    assert calls == ["fsync", "verify", "rename", "fsync"]


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EDQUOT, errno.EFBIG]
)
def test_storage_errors_name_path_and_remedy(number):
    quoted = OSError(f"Can't write data (file write failed: errno = {number}, error message = 'x')")
    for error in (OSError(number, "x"), quoted):
        message = str(storage_error("/run/x.h5", "write", error))
        assert message.startswith("/run/x.h5: cannot write: ")
        assert os.strerror(number) in message
        assert "check the path" not in message
        assert "\n" not in message


@pytest.mark.parametrize("number", [11, 37, 524])
def test_lock_errors_name_the_hdf5_locking_variable(tmp_path, monkeypatch, number):
    path = save_checkpoint(tmp_path, {}, version=0, attributes={})

    def locked(*_, **__):
        raise OSError(f"Unable to open file (unable to lock file, errno = {number}, error message = 'x')")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(FormatError, match="HDF5_USE_FILE_LOCKING=FALSE"):
        open_checked(path, CHECKPOINT)


def test_missing_directory_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="does not exist"):
        write_text(tmp_path / "gone" / "file", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        save_checkpoint(tmp_path / "file", {}, version=0, attributes={})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=5))
def test_trees_round_trip(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "tree.h5"
    with h5py.File(path, "w") as file:
        write_tree(file.create_group("t"), tree)
    with h5py.File(path) as file:
        check_safe(file)
        assert same(read_tree(file["t"]), tree)


def test_checkpoint_trees_reject_unsupported_values(tmp_path):
    cycle: dict = {}
    cycle["self"] = cycle
    for tree in ({1: 2}, {"a": object()}, {"a": np.array(["x"])}, cycle):
        with pytest.raises(TypeError):
            save_checkpoint(tmp_path, tree, version=0, attributes={})
    assert os.listdir(tmp_path) == []
    loop: list = []
    loop.append(loop)
    with h5py.File(tmp_path / "x.h5", "w") as file, pytest.raises(TypeError, match="cycle"):
        write_tree(file, {"loop": loop})


def test_checkpoint_round_trip_and_root_attributes(tmp_path):
    path = save_checkpoint(
        tmp_path / "checkpoints",
        state_of(1),
        version=1234,
        attributes={"config": "x: 1\n", "env": "e", "seeds": [1, 2**80]},
    )
    assert path.name == "checkpoint-0000001234.h5"
    state, attributes = load_checkpoint(path)
    assert same(state, state_of(1))
    assert attributes["format"] == CHECKPOINT
    assert (attributes["version"], attributes["config"], attributes["seeds"]) == (1234, "x: 1\n", [1, 2**80])
    assert {"format_version", "hpcmarl_version", "rank", "role", "host", "created"} <= attributes.keys()
    with h5py.File(path) as file:
        assert file["state/parameters"].shape == (50,)
        assert file["state"].attrs["text"] == 'json:"json:not"'


def test_corrupted_or_truncated_checkpoints_are_rejected(tmp_path):
    path = save_checkpoint(tmp_path, state_of(1), version=1, attributes={})
    good = path.read_bytes()
    where = good.index(state_of(1)["parameters"].tobytes())
    for offset in (0, 77, 199):
        bad = bytearray(good)
        bad[where + offset] ^= 16
        path.write_bytes(bad)
        with pytest.raises(FormatError, match="checksum"):
            verify_checkpoint(path)
    for length in (0, 1, 8, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError) as caught:
            verify_checkpoint(path)
        assert str(path) in str(caught.value)
    generator = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        bad[int(generator.integers(len(good)))] ^= int(generator.integers(1, 256))
        path.write_bytes(bad)
        with contextlib.suppress(FormatError):
            assert same(load_checkpoint(path)[0], state_of(1))


def test_foreign_files_raise_one_line_errors(tmp_path):
    def message(name, content=None, kind=CHECKPOINT):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FormatError) as caught:
            open_checked(path, kind)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in message("missing.h5")
    assert "empty" in message("empty.h5", b"")
    assert "not an HDF5 file" in message("text.h5", b"name: run\n" * 20)
    (tmp_path / "directory.h5").mkdir()
    assert "directory" in message("directory.h5").lower()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    assert "not one of hpcmarl" in message("foreign.h5")
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        write_attributes(
            file, {**root_attributes(CHECKPOINT, {}), "format_version": 99, "hpcmarl_version": "9.9"}
        )
    assert "99 is newer" in message("newer.h5")
    assert "hpcmarl 9.9" in message("newer.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        write_attributes(file, root_attributes(METRICS, {}))
    assert f"holds {METRICS}" in message("other.h5")


def craft_external_link(file, tmp_path):
    file["state/x"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")


def craft_soft_link(file, tmp_path):
    file["state/x"] = h5py.SoftLink("/elsewhere")


def craft_cycle(file, tmp_path):
    file["state/x"] = file["state"]


def craft_external_storage(file, tmp_path):
    file.create_dataset("state/x", (4,), "u1", external=[(str(tmp_path / "secret"), 0, 4)])


def craft_virtual(file, tmp_path):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (4,))
    file.create_virtual_dataset("state/x", layout)


def craft_huge(file, tmp_path):
    file.create_dataset("state/x", (1 << 50,), "u1", chunks=(1 << 20,))


def craft_huge_contiguous(file, tmp_path):
    file.create_dataset("state/x", (1 << 40,), "u1")


def craft_huge_chunk(file, tmp_path):
    file.create_dataset("state/x", (1 << 28,), "u1", chunks=(1 << 28,), compression="gzip")[...] = 0


def craft_bomb(file, tmp_path):
    file.create_dataset("state/x", (1 << 24,), "u1", chunks=(1 << 20,), compression="gzip")[...] = 0


def craft_text(file, tmp_path):
    file.create_dataset("state/x", data=["some", "text"], dtype=h5py.string_dtype())


def craft_named_type(file, tmp_path):
    file["state/x"] = np.dtype("f8")


def craft_array_attribute(file, tmp_path):
    file["state"].attrs["x"] = np.zeros(5)


def craft_json(file, tmp_path):
    file["state"].attrs["x"] = "json:{"


def craft_deep_json(file, tmp_path):
    file["state"].attrs["x"] = "json:" + "[" * 50_000


def craft_list(file, tmp_path):
    file["state"].create_group("x").attrs["%list"] = 1 << 40


def craft_depth(file, tmp_path):
    group = file["state"]
    for _ in range(200):
        group = group.create_group("g")


CRAFTED = [value for name, value in sorted(globals().items()) if name.startswith("craft_")]


@pytest.mark.parametrize("craft", CRAFTED)
def test_crafted_checkpoints_are_rejected_before_reading(tmp_path, craft):
    (tmp_path / "secret").write_bytes(b"1234")
    path = tmp_path / "crafted.h5"
    with h5py.File(path, "w", libver="latest") as file:
        write_attributes(file, {**root_attributes(CHECKPOINT, {}), "version": 0})
        file.create_group("state")
        craft(file, tmp_path)
    with pytest.raises(FormatError) as caught:
        load_checkpoint(path)
    assert "checksum" not in str(caught.value)  # refused before the checksum was computed


def test_netcdf_dimensions_without_values_are_accepted(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("row", (10,), "f4", chunks=(5,)).make_scale(NETCDF_DIMENSION)
        check_safe(file)


def test_find_checkpoint_falls_back_and_names_the_bad_file(tmp_path, caplog):
    run = tmp_path / "run"
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "missing") is None
    run.mkdir()
    paths = [
        save_checkpoint(run / "checkpoints", state_of(number), version=number, attributes={})
        for number in (1, 5, 20)
    ]
    assert find_checkpoint(run) == paths[2]
    assert find_checkpoint(run / "checkpoints") == paths[2]
    (run / "checkpoints" / "checkpoint-0000000099.h5.partial").write_bytes(b"half")
    (run / "checkpoints" / "notes.h5").write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:-10])
    assert find_checkpoint(run) == paths[1]
    assert str(paths[2]) in caplog.text
    assert find_checkpoint(paths[0]) == paths[0]
    with pytest.raises(FormatError):
        find_checkpoint(paths[2])


def test_pruning_keeps_the_newest_that_verify(tmp_path):
    paths = [
        save_checkpoint(tmp_path, state_of(number), version=number, attributes={})
        for number in (1, 2, 3, 4, 5)
    ]
    paths[3].write_bytes(paths[3].read_bytes()[:-10])
    Keeper(tmp_path, 2).prune()
    assert list_checkpoints(tmp_path) == [paths[4], paths[3], paths[2]]  # the damaged one does not count
    Keeper(tmp_path, 0).prune()
    assert list_checkpoints(tmp_path) == [paths[4]]


def test_pruning_never_deletes_what_was_just_written(tmp_path):
    abandoned = [
        save_checkpoint(tmp_path, state_of(number), version=number, attributes={}) for number in (20, 30, 40)
    ]
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.submit(state_of(5), version=5, attributes={})
    writer.close()
    assert writer.last_path in list_checkpoints(tmp_path)
    assert abandoned[2] in list_checkpoints(tmp_path)


def test_newer_checkpoints_move_aside(tmp_path):
    paths = [
        save_checkpoint(tmp_path, state_of(number), version=number, attributes={}) for number in (1, 2, 3)
    ]
    moved = set_aside(tmp_path, 2, "start-0002")
    assert sorted(moved) == [tmp_path / "superseded" / "start-0002" / path.name for path in paths[1:]]
    assert list_checkpoints(tmp_path) == paths[:1]
    assert load_checkpoint(moved[0])[0]["parameters"].size
    assert len(set_aside(tmp_path, None, "start-0003")) == 1


def test_checkpoint_that_contradicts_itself_is_refused(tmp_path):
    state = {
        "engine": {"rule": {"round": 56}, "optimizer": {"updates": 0, "parameters": np.zeros(3, np.float32)}}
    }
    path = checkpoint_path(tmp_path, 56)
    state_file.write_state(path, CHECKPOINT, state, {"version": 56})
    with pytest.raises(
        FormatError,
        match=r"version 56, but its rounds are at 56 and its optimizer has made 0 steps; resume from an",
    ):
        load_checkpoint(path)
    good = save_checkpoint(
        tmp_path, {"engine": {"rule": {"round": 9}, "optimizer": {"updates": 9}}}, version=9, attributes={}
    )
    assert find_checkpoint(tmp_path) == good


def test_checkpoint_versions_sort_numerically(tmp_path):
    for version in (2, 99_999_999_999):
        save_checkpoint(tmp_path, {}, version=version, attributes={})
    assert load_checkpoint(find_checkpoint(tmp_path))[1]["version"] == 99_999_999_999


def test_checkpoint_writer_copies_state_and_prunes(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2)
    state = state_of(1)
    for version in range(1, 5):
        state["parameters"][:] = version
        writer.submit(state, version=version, attributes={})
        state["parameters"][:] = -1
        writer.wait()
    writer.close()
    assert writer.poll() is None
    assert writer.last_version == 4
    assert [load_checkpoint(path)[0]["parameters"][0] for path in list_checkpoints(tmp_path)] == [4, 3]


def test_the_newest_waiting_checkpoint_wins(tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(directory, state, *, version, attributes):
        began.set()
        go_on.wait(10)
        return save_checkpoint(directory, state, version=version, attributes=attributes)

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    writer = CheckpointWriter(tmp_path, keep=9)
    writer.submit({}, version=1, attributes={})
    assert began.wait(10)
    for version in (2, 3, 4):
        writer.submit({}, version=version, attributes={})
    go_on.set()
    writer.close()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-0000000004.h5",
        "checkpoint-0000000001.h5",
    ]
    with pytest.raises(StorageError, match="closed"):
        writer.submit({}, version=5, attributes={})


def test_checkpoint_writer_reports_errors_and_continues(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path, keep=2)

    def full(*_, **__):
        raise StorageError("disk is full")

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    writer.submit({}, version=1, attributes={})
    writer.wait()
    monkeypatch.undo()
    writer.submit({"bad": object()}, version=2, attributes={})
    writer.wait()
    writer.submit({}, version=3, attributes={})
    writer.close()
    assert "full" in str(writer.poll())
    assert isinstance(writer.poll(), StorageError)
    assert writer.poll() is None
    assert find_checkpoint(tmp_path).name == "checkpoint-0000000003.h5"


def test_checkpoint_failing_read_back_raises_storage_error(tmp_path, monkeypatch):
    def wrong(*arguments):
        raise FormatError("checksum")

    monkeypatch.setattr(state_file, "read_state", wrong)
    with pytest.raises(StorageError, match="does not read back"):
        save_checkpoint(tmp_path, {}, version=1, attributes={})
    assert os.listdir(tmp_path) == []
