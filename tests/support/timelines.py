"""Checks of timelines in the trace event format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

SLACK = 0.002  # µs; times have three decimals


def events_of(path: Path) -> list[dict[str, Any]]:
    """Return the events of a timeline."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(json.loads(text)["traceEvents"])


def names_of(events: list[dict[str, Any]], rank: int) -> set[str]:
    """Return the names of the spans of a rank."""
    return {event["name"] for event in events if event["ph"] == "X" and event["pid"] == rank}


def titles_of(events: list[dict[str, Any]]) -> list[str]:
    """Return the names of the ranks in the order of the file."""
    return [event["args"]["name"] for event in events if event["name"] == "process_name"]


def check_nesting(events: list[dict[str, Any]]) -> None:
    """Fail unless any two spans of a thread lie one after the other or one within the other."""
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], -event["dur"]))
    for thread, spans in threads.items():
        ends: list[float] = []
        for begin, duration in sorted(spans):
            while ends and ends[-1] <= begin + SLACK:
                ends.pop()
            assert not ends or begin - duration <= ends[-1] + SLACK, (thread, begin)
            ends.append(begin - duration)


def check_arrows(events: list[dict[str, Any]], *, complete: bool = True) -> int:
    """Fail unless each arrow begins in a send, ends later, and joins messages of one kind.

    Args:
        events: The events.
        complete: Whether each end must have a begin.

    Returns:
        The number of arrows.
    """
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = [event for event in events if event["ph"] == "f"]
    sent = {(event["pid"], event["ts"]) for event in events if event["name"].startswith("send ")}
    received = {(event["pid"], event["ts"]) for event in events if event["name"].startswith("receive ")}
    assert len(begins) == sum(event["ph"] == "s" for event in events)
    for end in ends:
        assert (end["pid"], end["ts"]) in received
        begin = begins.get(end["id"])
        assert begin is not None or not complete
        if begin is not None:
            assert begin["name"] == end["name"]
            assert begin["ts"] <= end["ts"] + SLACK
            assert (begin["pid"], begin["ts"]) in sent
    return len(ends)
