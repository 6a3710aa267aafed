"""Timelines of hosts whose clocks differ: offsets, drift, and ranks whose clock was not measured."""

import pytest

from hpcmarl.analysis.timeline import Selection, write_timeline
from hpcmarl.errors import StorageError
from hpcmarl.tracing.part_files import PartFiles
from hpcmarl.tracing.spans import Span, Tracer
from tests.support.timelines import check_arrows, events_of, titles_of

LIMIT = 1 << 20


def header(rank, host, *, offset, group=0, read_at=0.0, wall=0.0):
    clock = {"offset": offset, "uncertainty": None if offset is None else 2e-6, "group": group}
    clock |= {"origin": 1000.0 if offset is not None else None, "wall": wall, "read_at": read_at}
    return {
        "rank": rank,
        "ranks": 4,
        "roles": ['act"or'],
        "host": host,
        "clock": clock,
        "spans": {"1": "receive", "2": "send", "4": "inference"},
        "other_threads": [],
        "kinds": {"1": "ROLLOUT"},
    }


def write(directory, facts, *spans, name=None, clocks=None):
    files = PartFiles(directory, name or f"rank-{facts['rank']:04d}", facts, LIMIT)
    trace = Tracer(files)
    trace.add(Span.FLUSH, 0.0, 0.0)
    for span in spans:
        trace.add(*span)
    if clocks:
        files.add_clocks({"clocks": clocks})
    trace.close()


def begins(events, rank):
    return [
        event["ts"]
        for event in events
        if event["ph"] == "X" and event["pid"] == rank and event["name"] != "span 15"
    ]


def show(directory):
    out = directory / "out.json"
    return write_timeline(directory, out, Selection(-1e9, None)), events_of(out)


def test_message_between_hosts_arrives_after_its_send(tmp_path):
    """The clock of host b is 900 s behind; the message takes 1 ms."""
    write(tmp_path, header(0, "a", offset=0.0), (Span.RECEIVE, 1001.0, 1001.1, 0, 1, 1))
    write(tmp_path, header(1, "b", offset=900.0, group=1), (Span.SEND, 100.999, 100.9995, 0, 0, 1))
    summary, events = show(tmp_path)
    assert begins(events, 0) == [1_000_000.0]
    assert begins(events, 1) == pytest.approx([999_000.0])
    assert check_arrows(events) == summary.arrows == 1
    assert summary.clock_error == 2e-6
    assert titles_of(events)[1] == 'rank 1: act"or (b)'


def test_drift_is_removed_by_the_measurement_at_the_end(tmp_path):
    """From 0 to 100 s of clock b its offset grows from 1000 to 1001."""
    write(tmp_path, header(0, "a", offset=0.0), clocks=[[1, 100.0, 1001.0, 1e-6]])
    write(
        tmp_path,
        header(1, "b", offset=1000.0, group=1),
        *((Span.INFERENCE, at, at, 5) for at in (0.0, 50.0, 100.0)),
    )
    assert begins(show(tmp_path)[1], 1) == pytest.approx([0.0, 50.5e6, 101e6])


def test_replaced_rank_takes_the_clock_of_its_host(tmp_path):
    write(tmp_path, header(0, "a", offset=0.0))
    write(tmp_path, header(1, "b", offset=900.0, group=1))
    unknown = header(2, "b", offset=None, group=-1)
    write(tmp_path, unknown, (Span.INFERENCE, 101.0, 102.0), name="rank-0002-77")
    summary, events = show(tmp_path)
    assert begins(events, 2) == [1e6]
    assert summary.clock_error == 2e-6


def test_clock_of_an_unknown_host_is_its_wall_clock(tmp_path):
    write(tmp_path, header(0, "a", offset=0.0, read_at=1000.0, wall=5000.0))
    unknown = header(2, "c", offset=None, group=-1, read_at=10.0, wall=5003.0)
    write(tmp_path, unknown, (Span.INFERENCE, 12.0, 13.0))
    summary, events = show(tmp_path)
    assert begins(events, 2) == pytest.approx([5e6])
    assert summary.clock_error is None


def test_failed_output_leaves_no_file(tmp_path):
    write(tmp_path, header(0, "a", offset=0.0))
    with pytest.raises(StorageError, match="cannot write the timeline"):
        write_timeline(tmp_path, tmp_path / "none" / "out.json", Selection())
    assert not list(tmp_path.glob("*.partial"))
