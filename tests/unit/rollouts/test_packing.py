"""The bytes codec of trees: round trips, and truncated, crafted or foreign buffers."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import ProtocolError
from hpcmarl.packing import MAGIC, digest, pack, unpack
from tests.support.trees import TREES, same


def buffer_of(header: object, tail: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<8sQ", MAGIC, len(text)) + text + tail


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_packed_trees_round_trip(tree):
    buffer = pack(tree)
    assert isinstance(buffer, bytearray)
    assert same(unpack(buffer), tree)
    assert same(unpack(bytes(buffer), copy=False), tree)
    assert digest(unpack(buffer)) == digest(tree)


@settings(max_examples=60, deadline=None)
@given(TREES, st.data())
def test_damaged_buffers_raise_only_protocol_errors(tree, data):
    buffer = pack({"tree": tree, "x": np.arange(7)})
    cut = data.draw(st.integers(0, len(buffer) - 1))
    with pytest.raises(ProtocolError):
        unpack(buffer[:cut])
    position, value = data.draw(st.integers(0, len(buffer) - 1)), data.draw(st.integers(0, 255))
    buffer[position] = value
    with contextlib.suppress(ProtocolError):
        unpack(buffer)


@pytest.mark.parametrize(
    "buffer",
    [
        b"",
        np.zeros(0, np.uint8),
        b"not a tree at all, but long enough",
        struct.pack("<8sQ", MAGIC, 1 << 60),
        buffer_of(["a", "<f8", [1 << 40]]),
        buffer_of(["a", "<f8", [1 << 61, 1 << 61]]),
        buffer_of(["a", "<f8", [-1, -1]], b"12345678" * 4),
        buffer_of(["a", "<f8", [True]], b"12345678" * 4),
        buffer_of(["a", "|O", [1]], b"12345678" * 4),
        buffer_of(["a", "|V8", [1]], b"12345678" * 4),
        buffer_of(["a", "<f8", [0] * 40]),
        buffer_of(["a", "<f8", [0, 1 << 61, 1 << 61]]),
        buffer_of(["l", [["a", "<f8", [3]], ["a", "<f8", [3]]]], b"\0" * 40),
        buffer_of(["x"]),
        buffer_of({}),
        buffer_of(2**128),
        buffer_of(b"9" * 5000),
        buffer_of(b"\xff\xfe\xfd\xfc\xfb\xfa"),
        buffer_of(b"[" * 100_000),
        buffer_of(b'["l",[' * 200 + b"1" + b"]]" * 200),
    ],
)
def test_crafted_buffers_raise(buffer):
    with pytest.raises(ProtocolError):
        unpack(buffer)


FOREIGN_ARRAYS = [
    np.array(["text"]),
    np.zeros(2, [("a", "f4")]),
    np.zeros(1, np.longdouble),
    np.array([None]),
]


@pytest.mark.parametrize("tree", [{1: 2}, {"a": object()}, 2**128, {"a": {1, 2}}, b"bytes", *FOREIGN_ARRAYS])
def test_pack_rejects_unsupported_values(tree):
    with pytest.raises(TypeError):
        pack(tree)


def test_pack_rejects_cycles_and_keeps_generator_states():
    cycle: list = []
    cycle.append(cycle)
    with pytest.raises(TypeError, match="cycle"):
        pack(cycle)
    assert same(
        unpack(pack({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": (1, 2)})),
        {"a": 0.5, "b": 3, "c": True, "d": [1, 2]},
    )
    generator = np.random.default_rng(3)
    state = unpack(pack(generator.bit_generator.state))
    other = np.random.default_rng(4)
    other.bit_generator.state = state
    assert other.integers(1 << 60) == generator.integers(1 << 60)


def test_digest_depends_on_content_but_not_order():
    tree = {"a": np.arange(4, dtype=np.float32), "b": {"c": 1, "d": "x"}}
    assert digest(tree) == digest({"b": {"d": "x", "c": 1}, "a": np.arange(8, dtype=np.float32)[:4]})
    different = [
        {**tree, "a": np.arange(4, dtype=np.float64)},
        {**tree, "a": np.arange(4, dtype=np.float32).reshape(2, 2)},
        {**tree, "a": np.arange(1, 5, dtype=np.float32)},
        {**tree, "b": {"c": 1.0, "d": "x"}},
        {**tree, "b": {"c": 1, "e": "x"}},
    ]
    assert len({digest(tree), *map(digest, different)}) == 6


def test_unpacked_views_share_memory_and_are_aligned():
    buffer = pack({"s": "abc", "x": np.arange(5.0), "y": np.ones(3, np.float32)})
    tree = unpack(buffer, copy=False)
    tree["x"][0] = 42.0
    assert unpack(buffer)["x"][0] == 42.0
    assert tree["x"].ctypes.data % 8 == tree["y"].ctypes.data % 4 == 0
