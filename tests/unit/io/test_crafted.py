"""Crafted files: compression bombs, odd filters, devices, links and false indices.

Each file is refused with an error of one line and with little memory.
"""

import contextlib
import io
import os
import struct
import zlib

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hpcmarl.cli.data import data_app
from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.atomic import PARTIAL, write_text
from hpcmarl.io.checkpoint import load_checkpoint, save_checkpoint
from hpcmarl.io.describe import BAD, describe, verify_file
from hpcmarl.io.hdf5.schema import CHECKPOINT, check_safe, root_attributes, write_attributes
from hpcmarl.io.metrics import read_groups, read_hdf5, read_hdf5_groups, read_metrics
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.trajectories.salvage import salvage
from hpcmarl.io.trajectories.shard_reader import verify_shard
from tests.support.chunks import fill

COMPRESSIONS = ["none", "lzf", "gzip", "zstd", "blosc_lz4"]


def deflated(size):
    """Return a gzip stream that expands to `size` zeros."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(parts) + squeeze.flush()


def bomb(group, stream, name="x", **options):
    """Create a small dataset with the given stream as its only chunk."""
    dataset = group.create_dataset(name, (1024,), "u1", chunks=(1024,), **options)
    dataset.id.write_direct_chunk((0,), stream)


def craft_gzip_bomb(group):
    bomb(group, deflated(1 << 30), compression="gzip")


def craft_gzip_bomb_with_checksum(group):
    bomb(group, deflated(1 << 30) + b"1234", compression="gzip", fletcher32=True)


def craft_lzf_bomb(group):
    bomb(group, bytes([0, 0]) + bytes([255, 255, 0]) * (1 << 20), compression="lzf")


def craft_zstd_bomb(group):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    bomb(group, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\1\0\0", **hdf5plugin.Zstd())


def craft_blosc_bomb(group):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    bomb(group, struct.pack("<BBBBIII", 2, 1, 1, 1, 0x7FFFFFFF, 1 << 20, 20) + bytes(4), **hdf5plugin.Blosc())


def craft_two_compressors(group):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((1024,))
    creation.set_deflate(9)
    creation.set_deflate(9)
    space = h5py.h5s.create_simple((1024,))
    h5py.h5d.create(group.id, b"x", h5py.h5t.NATIVE_UINT8, space, creation).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(1024, np.uint8)
    )


def craft_unknown_filter(group):
    group.create_dataset("x", data=np.zeros(1024, np.uint8), chunks=(1024,), scaleoffset=0)


def craft_object_reference(group):
    group.create_dataset("x", data=[group.ref], dtype=h5py.ref_dtype)


def craft_region_reference(group):
    target = group.create_dataset("target", data=np.zeros(4))
    group.create_dataset("x", data=[target.regionref[:2]], dtype=h5py.regionref_dtype)


def craft_variable_lengths(group):
    dataset = group.create_dataset("x", (1,), dtype=h5py.vlen_dtype(np.uint8))
    dataset[0] = np.zeros(10, np.uint8)


def craft_wide_type(group):
    group.create_dataset("x", (2,), np.dtype(("V", 1 << 30)), chunks=(1,))


CRAFTED = [value for name, value in sorted(globals().items()) if name.startswith("craft_")]


@pytest.mark.parametrize("craft", CRAFTED)
def test_unsafe_datasets_are_rejected(tmp_path, craft):
    path = tmp_path / "crafted.h5"
    with h5py.File(path, "w", libver="latest") as file:
        write_attributes(file, {**root_attributes(CHECKPOINT, {}), "version": 0, "checksum": "x"})
        craft(file.create_group("state"))
    with h5py.File(path) as file, pytest.raises(FormatError, match=f"{path}: /state/") as caught:
        check_safe(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="/state/"):
        load_checkpoint(path)
    assert verify_file(path)["status"] == BAD


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("content", ["zeros", "noise"])
def test_valid_compressed_chunks_are_accepted(tmp_path, compression, content):
    from hpcmarl.io.trajectories.shard import filter_options

    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        for rows in (1, 100, 1 << 17, 1 << 23):
            data = np.zeros(rows, np.float32) if content == "zeros" else generator.random(rows, np.float32)
            file.create_dataset(
                f"x{rows}", data=data, chunks=(rows,), fletcher32=True, **filter_options(compression)
            )
    with h5py.File(tmp_path / "x.h5") as file:
        check_safe(file)


def test_damaged_shards_raise_only_package_errors(shard, tmp_path):
    good = shard.read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(30):
        bad = bytearray(good)
        for _ in range(3):
            bad[int(generator.integers(len(bad)))] ^= int(generator.integers(1, 256))
        shard.write_bytes(bad)
        for work in (verify_shard, describe):
            with contextlib.suppress(HpcmarlError):
                work(shard)


# ---- metrics, summaries, and paths that are not files


def test_crafted_metrics_datasets_are_rejected(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.append({"version": 1}, {"slots": np.ones(3)})
    writer.close()
    with h5py.File(tmp_path / "metrics.h5", "r+") as file:
        fill(file.create_dataset("large", (1 << 25,), "f8", chunks=(1 << 23,), compression="gzip"))
    with pytest.raises(FormatError, match=r"metrics.h5: /large declares"):
        read_hdf5(tmp_path / "metrics.h5")
    with h5py.File(tmp_path / "metrics.h5", "r+") as file:
        del file["large"]
        file["words"] = np.array([b"a", b"b"])
    with pytest.raises(FormatError, match=r"metrics.h5: /words"):
        read_hdf5(tmp_path / "metrics.h5")
    with h5py.File(tmp_path / "metrics.h5", "r+") as file:
        del file["groups/slots"]
        file["groups/slots"] = np.ones((2, 3))
    with pytest.raises(FormatError, match=r"different shapes"):
        read_hdf5_groups(tmp_path / "metrics.h5")


def npy_head(*figures, rows=1):
    head = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        head, {"shape": (rows,), "fortran_order": False, "descr": [("version", "<f8"), *figures]}
    )
    return head.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        npy_head(("x", "<f8", (1 << 40,))),
        npy_head(("x", "<f8", (2,)), rows=1 << 60) + bytes(24),
        npy_head(("x", "<f8", (2,)), ("y", "<f8", (3,))) + bytes(48),
        npy_head(("x", "<i8", (2,))) + bytes(24),
        npy_head(("x", "|O")) + bytes(24),
        npy_head() + bytes(8),
        npy_head(("x", "<f8", (1,))) + np.array([np.nan, 0.0]).tobytes(),
        npy_head(("x", "<f8", (1,))) + np.array([np.inf, 0.0]).tobytes(),
    ],
)
def test_crafted_group_metrics_are_rejected(tmp_path, content):
    (tmp_path / "metrics-groups.npy").write_bytes(content)
    with pytest.raises(FormatError, match=r"metrics-groups.npy: "):
        read_groups(tmp_path)
    assert verify_file(tmp_path / "metrics-groups.npy")["status"] == BAD


@pytest.mark.parametrize(
    "text", ["version\n" + "1" * 200_000 + '"\n', "version\n1\0\n", 'version\n"' + "1" * 200_000 + '"\n']
)
def test_malformed_metrics_csv_is_rejected(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(FormatError, match=r"metrics.csv"):
        read_metrics(tmp_path)
    assert verify_file(tmp_path / "metrics.csv")["status"] == BAD


def test_malformed_or_huge_summary_is_bad(tmp_path):
    summary = tmp_path / "summary.json"
    for text in (
        "[" * 100_000,
        '{"status": ' + "9" * 5000 + "}",
        "\ud800".encode("utf-8", "surrogatepass"),
        "{",
    ):
        summary.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert verify_file(summary)["status"] == BAD
        assert describe(tmp_path)["status"] is None
    with summary.open("wb") as stream:
        stream.truncate(1 << 40)
    assert verify_file(summary)["status"] == BAD
    assert "larger" in verify_file(summary)["reason"]


@pytest.mark.parametrize(
    "name", ["metrics.csv", "summary.json", "shard-000000.h5", "checkpoint-0000000001.h5"]
)
def test_devices_and_pipes_are_not_read(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    assert "not a regular file" in verify_file(tmp_path / name)["reason"]
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in verify_file(tmp_path / name)["reason"]


def test_symlinked_temporary_files_are_not_written_through(shard, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("config.yaml", "checkpoint-0000000001.h5", "shard-000000.h5.salvage", "shard-000001.h5"):
        shard.with_name(name + PARTIAL).symlink_to(precious)
    write_text(shard.with_name("config.yaml"), "x")
    save_checkpoint(shard.parent, {}, version=1, attributes={})
    shard.rename(shard.with_name(shard.name + PARTIAL))
    assert [item.status for item in salvage(shard.with_name(shard.name + PARTIAL))] == ["recovered"]
    shard.with_name("shard-000001.h5" + PARTIAL).unlink()
    assert precious.read_text() == "mine"


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    path = save_checkpoint(
        tmp_path, {"\x1b]0;owned\x07": 1}, version=1, attributes={"env": "\x1b[2J", "host": "a\u202eb"}
    )
    printed = CliRunner().invoke(data_app, ["inspect", str(path)]).stdout
    assert "owned" in printed
    assert not set(printed) & {"\x1b", "\x07", "\u202e"}
