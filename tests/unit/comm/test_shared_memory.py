"""Memory that processes of a host share, its size, and waits for its words."""

import os
import time

import numpy as np
import pytest

from hpcmarl.comm import shared_memory
from hpcmarl.comm.shared_memory import Allocator, Futex, SegmentAddress, SharedSegment
from hpcmarl.errors import LaunchError


def test_attached_segment_shows_the_same_memory_without_a_name():
    before = os.listdir("/dev/shm")
    own = SharedSegment.create(10_000)
    assert os.listdir("/dev/shm") == before
    other = SharedSegment.attach(own.address)
    own.buffer[7] = 99
    assert other.buffer[7] == 99
    assert not own.buffer[8:].any()
    for segment in (own, other):
        segment.close()
    assert other.buffer[7] == 99  # the memory is freed with its last array


def test_segment_that_does_not_fit_is_refused_at_once():
    free = shared_memory.free_shared_bytes()
    with pytest.raises(LaunchError, match=r"workers need .* MB of /dev/shm .* MB are free\)"):
        SharedSegment.create(free + (1 << 30))
    assert shared_memory.free_shared_bytes() > free // 2


@pytest.mark.parametrize("change", [{"process": 2**22 + 1}, {"inode": 1}])
def test_segment_of_another_process_is_not_confused(change):
    own = SharedSegment.create(10)
    address = SegmentAddress(**{**vars(own.address), **change})
    with pytest.raises(LaunchError, match="in one container"):
        SharedSegment.attach(address)
    own.close()


def test_allocator_gives_equal_places_in_equal_order():
    sizes = [((3,), np.int64), ((2, 5), np.float32), ((0,), np.bool_), ((1,), np.float64)]
    measure = Allocator(None)
    for shape, kind in sizes:
        measure.take(shape, kind)
    buffer = np.zeros(measure.size, np.uint8)
    first, second = (
        [places.take(*size) for size in sizes] for places in (Allocator(buffer), Allocator(buffer))
    )
    for number, (one, same) in enumerate(zip(first, second, strict=True)):
        one[...] = number + 1
        np.testing.assert_array_equal(one, same)
    assert first[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("machine", ["", "unknown"])
def test_waits_end_when_the_word_changes_or_the_time_is_over(monkeypatch, machine):
    if machine:
        monkeypatch.setattr(shared_memory.platform, "machine", lambda: machine)
    words = np.zeros(32, np.int32)
    bell = Futex(words)
    assert bell.exists == (not machine)
    words[16] = 5
    began = time.monotonic()
    bell.wait(16, 4, 0.9)  # the word has another value already
    assert time.monotonic() - began < 0.5
    bell.wait(16, 5, 0.02)
    assert time.monotonic() - began >= 0.02
    bell.wake(16)
