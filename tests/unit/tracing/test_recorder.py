"""Buffer and files of a trace: what is written, what a killed run or a bad disk leaves, and the ring."""

import errno
import logging

import numpy as np
import pytest

from hpcmarl.errors import FormatError
from hpcmarl.tracing import part_files
from hpcmarl.tracing.blocks import HEAD, LARGEST_BLOCK, MAGIC, PREFIX, SPANS, pack_block, read_blocks
from hpcmarl.tracing.part_files import PARTS, PartFiles
from hpcmarl.tracing.spans import NO_NUMBER, RECORD, RECORD_DTYPE, Span, Tracer


def make(directory, *, capacity=8, limit=1 << 20):
    return Tracer(PartFiles(directory / "trace", "rank-0000", {"rank": 0}, limit), capacity)


def blocks(path):
    with path.open("rb") as stream:
        return list(read_blocks(stream, path.name))


def spans(directory):
    """Return the records of all parts without those of flushes."""
    contents = [
        content
        for path in sorted((directory / "trace").glob("*.trace"))
        for tag, content in blocks(path)
        if tag == SPANS
    ]
    records = np.frombuffer(b"".join(contents), RECORD_DTYPE)
    return records[records["span"] != Span.FLUSH]


def test_record_layouts_of_writer_and_reader_agree():
    packed = RECORD.pack(1.5, 2.5, 7, 3, Span.SEND, 9)
    assert np.frombuffer(packed, RECORD_DTYPE)[0].item() == (1.5, 2.5, 7, 3, Span.SEND, 9)


def test_full_buffer_is_written_and_no_span_is_lost(tmp_path):
    trace = make(tmp_path)
    for number in range(100):
        trace.add(Span.INFERENCE, number, number + 0.5, number)
    trace.close()
    assert spans(tmp_path)["number"].tolist() == list(range(100))


def test_negative_version_is_written_as_none(tmp_path):
    trace = make(tmp_path)
    trace.add(Span.INFERENCE, 0.0, 1.0, -1)
    trace.close()
    assert spans(tmp_path)["number"].tolist() == [NO_NUMBER]


def test_sleeps_of_a_polling_rank_are_one_span(tmp_path):
    trace = make(tmp_path)
    for number in range(50):
        trace.waited(number * 1e-3, number * 1e-3 + 0.9e-3)
    trace.waited(5.0, 6.0)
    trace.add(Span.SEND, 6.0, 6.1)
    trace.waited(6.1, 6.2)
    trace.close()
    found = spans(tmp_path)
    assert found["span"].tolist() == [Span.WAIT, Span.WAIT, Span.SEND, Span.WAIT]
    assert found["ended"][0] == pytest.approx(49.9e-3)


def test_spans_of_other_threads_are_written_at_the_next_flush(tmp_path):
    trace = make(tmp_path, capacity=4)
    for number in range(11):
        trace.later(Span.CHECKPOINT_FILE)(1.0, 2.0, number)
    trace.flush()
    assert spans(tmp_path)["number"].tolist() == list(range(11))


def test_tick_writes_when_a_flush_is_requested(tmp_path):
    trace = make(tmp_path)
    trace.add(Span.SEND, 1.0, 2.0)
    trace.tick()
    assert not (tmp_path / "trace").exists()
    trace.flush_soon()
    trace.tick()
    assert len(spans(tmp_path)) == 1


def test_ring_of_parts_keeps_the_newest_spans(tmp_path):
    limit = 64 * 1024
    trace = make(tmp_path, capacity=100, limit=limit)
    for number in range(10_000):
        trace.add(Span.INFERENCE, number, number, number)
    trace.close()
    found, paths = spans(tmp_path)["number"].tolist(), sorted((tmp_path / "trace").iterdir())
    assert found == list(range(10_000 - len(found), 10_000))
    assert len(paths) == PARTS
    total = sum(path.stat().st_size for path in paths)
    assert limit / 2 < total <= limit + PARTS * 200
    assert all(blocks(path)[0][0] == HEAD for path in paths)


@pytest.mark.parametrize("cut", [1, 5, 13, 30])
def test_half_written_tail_is_ignored(tmp_path, cut):
    trace = make(tmp_path)
    for number in range(3):
        trace.add(Span.SEND, number, number, number)
        trace.flush()
    trace.close()
    path = tmp_path / "trace" / "rank-0000.0000.trace"
    whole = blocks(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert blocks(path) == whole[:-1]


def test_damaged_block_ends_the_reading(tmp_path):
    path = tmp_path / "file"
    good, bad = pack_block(SPANS, b"good"), bytearray(pack_block(SPANS, b"evil"))
    bad[-1] ^= 1
    path.write_bytes(MAGIC + good + bytes(bad) + good)
    assert blocks(path) == [(SPANS, b"good")]
    path.write_bytes(MAGIC + good + PREFIX.pack(SPANS, LARGEST_BLOCK + 1, 0))
    assert blocks(path) == [(SPANS, b"good")]
    path.write_bytes(b"something else")
    with pytest.raises(FormatError, match="not a trace of hpcmarl"):
        blocks(path)


class FullDisk(part_files.FileIO):
    """A disk that takes ten bytes of each write, and then no more while it is full."""

    full = True

    def write(self, data):
        if not FullDisk.full:
            return super().write(data)
        if self.tell() % 2 == 0:
            return super().write(bytes(data)[:11])
        raise OSError(errno.ENOSPC, "full")


def test_full_disk_is_reported_once_and_never_raises(tmp_path, monkeypatch, caplog):
    trace = make(tmp_path)
    trace.add(Span.SEND, 0.0, 0.0, 1)
    trace.flush()
    trace.files.close()
    monkeypatch.setattr(part_files, "FileIO", FullDisk)
    monkeypatch.setattr(part_files, "RETRY_SECONDS", 0.0)
    caplog.set_level(logging.WARNING)
    for number in range(100):
        trace.add(Span.SEND, 0.0, 0.0, number)
    trace.flush()
    assert len([record for record in caplog.records if "trace" in record.message]) == 1
    assert "the disk is full" in caplog.text
    FullDisk.full = False
    try:
        trace.add(Span.SEND, 0.0, 0.0, 1000)
        trace.close()
    finally:
        FullDisk.full = True
    assert spans(tmp_path)["number"].tolist()[0] == 1
    assert spans(tmp_path)["number"].tolist()[-1] == 1000


def test_removed_part_begins_again_with_its_header(tmp_path):
    trace = make(tmp_path)
    trace.add(Span.SEND, 0.0, 0.0, 1)
    trace.close()
    path = tmp_path / "trace" / "rank-0000.0000.trace"
    path.unlink()
    trace.add(Span.SEND, 0.0, 0.0, 2)
    trace.close()
    assert blocks(path)[0][0] == HEAD
    assert spans(tmp_path)["number"].tolist() == [2]
